"""Every PEFT method, trained directly and generated, on every architecture: step 0, counts, and the adapter in other hands."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, build, planned, train_run
from safetensors.torch import load_file

from qpa.adapters import methods, saved
from qpa.config import Config
from qpa.errors import ConfigError
from qpa.runs import measure, parts
from qpa.runs.parts import Parts

MakeConfig = Callable[..., Config]
METHODS = sorted(path.stem for path in (ROOT / "conf" / "peft").glob("[!_]*.yaml") if not path.stem.startswith(("whole_", "qtrl")))
MODELS = ["smollm2", "gpt2", "gemma2", "gemma3_270m"]
IDS = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(0))

# A process that never sees qpa: stock transformers and peft, and for bottleneck adapters the one file that reads them.
STOCK = """
import importlib.util, json, sys
sys.modules["qpa"] = None
import torch
from safetensors.torch import load_file
from peft import PeftModel
from transformers import AutoModelForCausalLM
spec = importlib.util.spec_from_file_location("bottleneck", sys.argv[1])
bottleneck = importlib.util.module_from_spec(spec)
sys.modules["bottleneck"] = bottleneck
spec.loader.exec_module(bottleneck)
for line in sys.stdin:
    base, adapter, out = json.loads(line)
    kind = json.load(open(adapter + "/adapter_config.json"))["peft_type"]
    ids = torch.load(out)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if kind == "WHOLE":
        model.load_state_dict(load_file(adapter + "/model.safetensors"))
    else:
        model = (bottleneck.BottleneckModel if kind == bottleneck.PEFT_TYPE else PeftModel).from_pretrained(model, adapter)
    model.eval()
    with torch.no_grad():
        torch.save(model(input_ids=ids).logits[:, -ids.shape[1]:], out)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def stock_logits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path, Path], torch.Tensor]]:
    """Logits of a saved adapter as that process finds them."""
    file = ROOT / "src" / "qpa" / "adapters" / "bottleneck.py"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", STOCK, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    out = tmp_path_factory.mktemp("stock") / "out.pt"

    def ask(base: Path, adapter: Path) -> torch.Tensor:
        torch.save(IDS, out)
        print(json.dumps([str(base), str(adapter), str(out)]), file=process.stdin, flush=True)
        assert process.stdout.readline() == "done\n"
        return torch.load(out)

    yield ask
    process.stdin.close()
    process.wait()


NO_TARGETS = ("prefix", "prompt", "adapter", "whole")
HEAD_METHODS = [m for m in METHODS if m not in (*NO_TARGETS, "vblora")]  # no vector length divides most vocabularies


def cases() -> Iterator[tuple[str, str, list[str]]]:
    for model in MODELS:
        for method in METHODS:
            if (model, method) != ("gpt2", "lokr"):
                yield model, method, []
    for method in METHODS:
        yield "smollm2", method, ["generator=none"]
    for method in HEAD_METHODS:
        yield "gemma3_270m", method, ["peft.target_modules=[lm_head,q_proj,down_proj]"]


@pytest.mark.few(6)
@pytest.mark.parametrize(("model", "method", "overrides"), list(cases()))
def test_stock_peft_reads_what_is_exported(
    make_config: MakeConfig, saved_base: Callable[..., Path], stock_logits: Callable, tmp_path: Path,
    model: str, method: str, overrides: list[str],
) -> None:  # fmt: skip
    base = saved_base(model)
    published = ["model.weights=published", f"model.path={base}", "model.num_layers=null", "model.dtype=float32"]
    config = make_config(*published, f"peft={method}", *overrides, model=model)
    built = build(config)
    start = logits_of(built)
    move(built)
    ours = logits_of(built)
    assert (ours - start).abs().max() > 5e-5  # there is something that could be lost
    measure.export(built, tmp_path / "adapter")
    torch.testing.assert_close(stock_logits(base, tmp_path / "adapter"), ours, atol=1e-5, rtol=1e-5)
    if method not in ("prefix", "prompt", "adapter"):
        assert built.plan.adapter_bytes == sum(t.nbytes for t in load_file(saved.weights_file(tmp_path / "adapter")).values())


def move(built: Parts) -> None:
    """Away from where it starts, as training does."""
    torch.manual_seed(1)
    for parameter in built.adaptation.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)


@torch.no_grad()
def logits_of(built: Parts) -> torch.Tensor:
    """In fp32, with the adapter as its adaptation makes it."""
    built.adaptation.write()
    return built.model.eval()(input_ids=IDS).logits[:, -IDS.shape[1] :]


# of these plain PEFT's step 0 is the base model
AT_BASE = ["adapter", "dora", "fourierft", "ia3", "lokr", "lora", "randlora", "tinylora", "vera", "whole"]


@pytest.mark.parametrize("method", METHODS)
def test_step_zero_is_plain_pefts_and_the_base_model_where_that_is(make_config: MakeConfig, method: str) -> None:
    found = {}
    for generator in ("qpa", "none"):
        built = build(make_config(f"peft={method}", f"generator={generator}"))
        built.adaptation.write()
        model = built.model.eval()
        with torch.no_grad():
            found[generator] = model(input_ids=IDS).logits[:, -IDS.shape[1] :]
            with model.disable_adapter():
                base = model(input_ids=IDS).logits
    assert torch.equal(found["qpa"], found["none"])
    assert torch.equal(found["qpa"], base) == (method in AT_BASE)


def test_method_that_cannot_be_put_on_a_model_is_refused_before_it_is_loaded(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"peft=LoKrConfig: .*Conv1D.* not supported"):
        planned(make_config("peft=lokr", model="gpt2"))


@pytest.mark.parametrize(
    "settings",
    [
        {"_target_": "peft.AdaLoraConfig", "total_step": 10, "target_modules": ["q_proj"]},
        {"_target_": "peft.PolyConfig", "target_modules": ["q_proj"]},
        {"_target_": "peft.CPTConfig", "cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
        {"_target_": "peft.MultitaskPromptTuningConfig", "num_virtual_tokens": 3, "num_tasks": 2},
        {"_target_": "peft.LoraConfig", "alora_invocation_tokens": [1], "target_modules": ["q_proj"]},
        {"_target_": "peft.LoraConfig", "kasa_config": {}, "target_modules": ["q_proj"]},
    ],
    ids=lambda settings: "-".join(list(settings)[1:]),
)
def test_method_with_a_forward_pass_of_its_own_is_refused(make_config: MakeConfig, settings: dict[str, Any]) -> None:
    config = make_config().model_copy(update={"peft": {**settings, "task_type": "CAUSAL_LM"}})
    with pytest.raises(ConfigError, match=r"forward pass"):
        planned(config)


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("rank", [1, 4])
def test_lora_scales_its_update_alike_at_every_rank_unless_told(make_config: MakeConfig, method: str, rank: int) -> None:
    assert make_config(f"peft={method}", f"peft.r={rank}").peft["lora_alpha"] == 2 * rank
    assert make_config(f"peft={method}", f"peft.r={rank}", "peft.lora_alpha=3").peft["lora_alpha"] == 3


def test_architecture_that_transformers_refuses_is_a_mistake_of_the_config(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"model=random.*not a multiple"):
        planned(make_config("model.architecture.hidden_size=33")).task.skeleton()


@pytest.mark.few(12)
@pytest.mark.parametrize(("model", "method"), [(m, k) for m in MODELS for k in METHODS if (m, k) != ("gpt2", "lokr")])
def test_tensors_are_counted_before_any_weight_is_there(make_config: MakeConfig, model: str, method: str) -> None:
    plan = planned(make_config(f"peft={method}", model=model))
    real = list(methods.adapter_parameters(parts.build(plan).model).values())
    assert [t.shape for t in plan.tensors] == [tuple(p.shape) for p in real]
    assert plan.counts.plain_peft == sum(p.numel() for p in real) == plan.layout.generated


def test_tensors_known_from_the_config_alone_are_pefts_own(make_config: MakeConfig) -> None:
    for method in ("lora", "dora", "unilora"):
        for model in MODELS:
            plan = planned(make_config(f"peft={method}", model=model))
            assert tuple(plan.task.known_tensors()) == plan.tensors
            assert tuple(methods.planned(plan.task.skeleton, methods.make_config(plan.config.peft))[0]) == plan.tensors


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("peft=adapter peft.bottleneck=0", "bottleneck=0"),
        ("peft=adapter peft.target_modules=all-linear", "list of module names"),
        ("peft=adapter peft.target_modules=[gate_proj]", "hidden size"),
        ("peft=adapter peft.target_modules=[nothing]", "matches no module"),
        ("peft=vera peft.r=0", "VeraConfig"),
        ("peft=vblora peft.num_vectors=1", "does not run"),
        ("peft=fourierft peft.n_frequency=100000", "n_frequency"),
    ],
)
def test_mistakes_of_a_method_are_one_line_before_the_run_folder_is_touched(make_config: MakeConfig, overrides: str, words: str) -> None:
    config = make_config(*overrides.split())
    with pytest.raises(ConfigError, match=words):
        train_run(config)
    assert not Path(config.run_dir).exists() or not any(Path(config.run_dir).iterdir())
