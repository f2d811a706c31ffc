"""Methods that train or rewrite weights of the base model: what is measured is the published base and the exported adapter on it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from conftest import ROOT, folder_of, planned, train_run
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from qpa.adapters import saved
from qpa.adapters.bottleneck import BottleneckModel
from qpa.commands import evaluate, export
from qpa.config import Config
from qpa.errors import ConfigError, ExportError
from qpa.runs import record
from qpa.tasks.language.windows import IGNORED

MakeConfig = Callable[..., Config]
METHODS = sorted(
    path.stem for path in (ROOT / "conf" / "peft").glob("[!_]*.yaml") if not path.stem.startswith(("whole", "qtrl"))
)  # no adapter
STARTS = sorted(value for hint in get_args(get_type_hints(LoraConfig)["init_lora_weights"]) for value in get_args(hint))  # all peft knows
FROM_DATA, ROUNDED = ["corda", "eva", "lora_ga"], ["loftq"]
STARTED = [
    "true",
    "false",
    "pissa_niter_4",
    *(start for start in STARTS if start not in [*FROM_DATA, *ROUNDED, "pissa_niter_[number of iters]"]),
]


@pytest.fixture
def published(make_config: MakeConfig, saved_base: Callable[..., Path]) -> Callable[..., Config]:
    """A config whose base model lies in a folder, as a user's would."""

    def made(*overrides: str, model: str = "smollm2") -> Config:
        steps = ["trainer.max_steps=2", "optimizer.lr=0.05", "data.max_held_out_windows=3"]
        return make_config(
            "model.weights=published", f"model.path={saved_base(model)}", "model.num_layers=null", *steps, *overrides, model=model
        )

    return made


def stock(config: Config, adapter: Path | None) -> torch.nn.Module:
    """As another user reads it: by transformers, and peft (bottleneck adapters by their one file)."""
    base = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=getattr(torch, config.model.dtype))
    if adapter is None:
        return base.eval()
    ours = "BOTTLENECK" in (adapter / "adapter_config.json").read_text()
    return (BottleneckModel if ours else PeftModel).from_pretrained(base, str(adapter)).eval()


@torch.no_grad()
def perplexity(config: Config, model: torch.nn.Module) -> float:
    """Of the run's test windows, from the logits of the whole model."""
    rows = planned(config).task.windows["test"]
    total, count = 0.0, 0
    for row in (rows[place] for place in range(len(rows))):
        ids, labels = row["input_ids"][None], row["labels"][1:]
        logits = model(input_ids=ids).logits[0, -ids.shape[1] :][:-1].float()
        total += cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED).item()
        count += int((labels != IGNORED).sum())
    return math.exp(total / count)


def check_numbers(config: Config) -> None:
    """The run's own, `evaluate`'s, and those of stock libraries on what the run has left are the same, and the adapter does something."""
    train_run(config)
    config = record.load_config(folder_of(config))
    close = 1e-4 if config.model.dtype == "float32" else 5e-3
    evaluate.main([f"run={folder_of(config)}"])
    again = json.loads((folder_of(config) / "evaluation.json").read_text())["test"]
    for found in (record.read(folder_of(config))["qpa"]["test"], again):
        assert found["base_perplexity"] == pytest.approx(perplexity(config, stock(config, None)), rel=close)
        assert found["perplexity"] == pytest.approx(perplexity(config, stock(config, folder_of(config) / "adapter")), rel=close)
        assert abs(found["perplexity"] / found["base_perplexity"] - 1) > 2 * close
    assert record.read(folder_of(config))["qpa"]["test"]["perplexity"] == pytest.approx(again["perplexity"], rel=1e-5)


@pytest.mark.few(2)
@pytest.mark.parametrize("method", METHODS)
def test_base_is_measured_as_published_and_the_adapter_as_exported_by_every_method(published: Callable[..., Config], method: str) -> None:
    check_numbers(published(f"peft={method}", "model.dtype=float32"))


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("start", "generator"), [*((start, "qpa") for start in STARTED), ("pissa_niter_4", "none"), ("olora", "none"), ("mica", "none")]
)
def test_base_is_measured_as_published_and_the_adapter_as_exported_from_every_start(
    published: Callable[..., Config], start: str, generator: str
) -> None:
    check_numbers(published(f"+peft.init_lora_weights={start}", f"generator={generator}", "model.dtype=float32"))


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("gpt2", ["+peft.bias=all"]),
        ("gpt2", ["+peft.bias=all", "generator=none"]),
        ("gpt2", ["+peft.bias=lora_only", "generator=none"]),
        ("smollm2", ["+peft.modules_to_save=[lm_head]"]),
        ("smollm2", ["+peft.modules_to_save=[embed_tokens]", "generator=none"]),
        ("smollm2", ["+peft.modules_to_save=[input_layernorm]"]),
        ("smollm2", ["+peft.trainable_token_indices=[5,7]"]),
        ("smollm2", ["+peft.layer_replication=[[0,2],[1,2]]"]),
        ("smollm2", ["+peft.layer_replication=[[0,2],[1,2]]", "peft.target_modules=[lm_head]"]),  # whose body is not the published one
        ("smollm2", ["+peft.init_lora_weights=pissa", "peft.target_modules=[lm_head]"]),  # tied to the input embedding
        ("smollm2", ["+peft.init_lora_weights=pissa", "+peft.use_rslora=true", "+peft.rank_pattern={q_proj:3}"]),
        ("gpt2", ["+peft.init_lora_weights=pissa"]),
    ],
)
def test_base_is_measured_as_published_whatever_is_trained_of_it(
    published: Callable[..., Config], model: str, overrides: list[str]
) -> None:
    check_numbers(published(*overrides, model=model))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        *((f"+peft.init_lora_weights={start}", f"init_lora_weights={start}: needs statistics") for start in FROM_DATA),
        ("+peft.init_lora_weights=loftq", "init_lora_weights=loftq: rounds the base"),
        ("+peft.init_lora_weights=pissa +peft.use_dora=true", r"no part for peft\.use_dora"),
        ("+peft.init_lora_weights=olora +peft.modules_to_save=[lm_head]", r"no part for peft\.modules_to_save"),
        ("+peft.init_lora_weights=pissa +peft.bias=all", r"no part for peft\.bias"),
        ("+peft.init_lora_weights=pissa +peft.layer_replication=[[0,2]]", r"no part for peft\.layer_replication"),
        ("+peft.init_lora_weights=olora model.dtype=bfloat16", r"model\.dtype=bfloat16: .*give float32"),
        ("+peft.modules_to_save=lm_head", r"modules_to_save=lm_head: should be a list"),
    ],
)
def test_start_that_cannot_be_exported_is_refused_before_anything_is_loaded(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, overrides: str, words: str
) -> None:
    monkeypatch.setattr("qpa.tasks.pretrained.base_model.load", lambda *_, **__: pytest.fail("a model was loaded"))
    config = make_config(*overrides.split())
    with pytest.raises(ConfigError, match=words):
        train_run(config)
    assert not folder_of(config).exists()


def test_embedding_is_refused_where_only_linear_layers_have_the_start(published: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"init_lora_weights=pissa: only linear layers have this start, .*embed_tokens"):
        train_run(published("+peft.init_lora_weights=pissa", "peft.target_modules=[embed_tokens,q_proj]"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+peft.init_lora_weights=pissa", "peft.r=64"], r"peft\.r=64: .*at most 32"),
        (["+peft.modules_to_save=[nothing]"], r"peft\.modules_to_save=nothing: this model has no such module"),
        (["+peft.layer_replication=[[0,9]]"], r"peft=LoraConfig: .*out of range"),
        (["+peft.inference_mode=true", "generator=none"], "trains nothing"),
        (["+peft.trainable_token_indices=[-1]"], "peft=peft.LoraConfig"),
    ],
)
def test_mistake_in_what_the_method_does_to_the_base_is_one_line_before_training(
    published: Callable[..., Config], overrides: list[str], words: str
) -> None:
    config = published(*overrides)
    with pytest.raises(ConfigError, match=words):
        train_run(config)
    assert not any(folder_of(config).glob("*.json"))


def test_adapter_that_does_not_say_what_was_trained_ends_the_run(published: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    save = saved.save_adapter

    def losing_a_tensor(model: torch.nn.Module, folder: Path, **kwargs: object) -> None:
        save(model, folder, **kwargs)
        weights = load_file(folder / "adapter_model.safetensors")
        save_file(dict(list(weights.items())[:-1]), folder / "adapter_model.safetensors")

    monkeypatch.setattr(saved, "save_adapter", losing_a_tensor)
    config = published()
    with pytest.raises(ExportError, match="does not say what the trained model says"):
        train_run(config)
    assert record.read(folder_of(config))["train_info"]["status"] == "failed"


def test_tensors_that_peft_ties_are_not_generated_apart(published: Callable[..., Config]) -> None:
    tied = ["model.dtype=float32", "peft.target_modules=[embed_tokens,q_proj]", "+peft.ensure_weight_tying=true"]  # in bf16 peft unties
    with pytest.raises(ConfigError, match=r"peft=peft\.LoraConfig: .*(lm_head.*embed_tokens|embed_tokens.*lm_head).* share memory"):
        train_run(published(*tied))
    check_numbers(published(*tied, "generator=none"))


def test_weights_of_the_base_are_not_trained_in_bf16(published: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"model\.dtype=bfloat16: .*give float32"):
        train_run(published("+peft.modules_to_save=[lm_head]", "model.dtype=bfloat16"))


def merged_and_adapted(config: Config, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the merged model as stock transformers reads it, and of the adapter as stock peft does."""
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(folder_of(config) / "merged", dtype=torch.float32).eval()(input_ids=ids).logits
        return whole, stock(config, folder_of(config) / "adapter")(input_ids=ids).logits


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "overrides",
    [
        ["peft.target_modules=all-linear"],
        ["peft.target_modules=[embed_tokens]"],
        ["peft.target_modules=[lm_head]"],
        ["peft.target_modules=[embed_tokens,lm_head]"],
        ["peft.target_modules=[embed_tokens,q_proj]", "+peft.ensure_weight_tying=true", "generator=none"],
        ["peft.target_modules='.*(k|up)_proj'"],
        ["+peft.modules_to_save=[lm_head]"],
        ["+peft.modules_to_save=[embed_tokens]"],
        ["+peft.trainable_token_indices=[5,7]"],
        ["+peft.layer_replication=[[0,2],[1,2]]"],
        ["+peft.init_lora_weights=pissa", "peft.target_modules=[lm_head,q_proj]"],
        ["peft=dora", "peft.target_modules=[embed_tokens,v_proj]"],
        ["peft=vera", "peft.target_modules=[lm_head,q_proj]"],
        ["peft=ia3", "peft.target_modules=[lm_head,q_proj]"],
    ],
)
def test_merged_model_says_what_the_adapter_says(published: Callable[..., Config], overrides: list[str]) -> None:
    config = published("model.dtype=float32", *overrides)
    train_run(config)
    export.main([f"run={folder_of(config)}", "merged=true"])
    ids = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(0))
    whole, adapted = merged_and_adapted(config, ids)
    torch.testing.assert_close(whole, adapted, atol=2e-5, rtol=1e-4)
    with torch.no_grad():
        assert (stock(config, None)(input_ids=ids).logits - adapted).abs().max() > 1e-3  # there is something that could be lost


def test_merged_model_that_says_something_else_is_not_written(published: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    config = published("peft.target_modules=[embed_tokens]")
    train_run(config)
    monkeypatch.setattr(saved, "untie", lambda *_: None)  # the fault of peft #2018
    with pytest.raises(ExportError, match=r"merged=true: .*use the adapter itself"):
        export.main([f"run={folder_of(config)}", "merged=true"])
    assert not (folder_of(config) / "merged").exists()


def test_what_peft_cannot_merge_is_one_line(published: Callable[..., Config]) -> None:
    config = published("+peft.lora_bias=true")
    train_run(config)
    with pytest.raises(ConfigError, match=r"merged=true: .*lora_bias"):
        export.main([f"run={folder_of(config)}", "merged=true"])


@pytest.mark.few(2)
@pytest.mark.parametrize("layers", ["[1]", "0", "[0,1]"])
@pytest.mark.parametrize("method", ["lora", "vera"])
def test_layers_to_transform_chooses_among_all_linear_modules(published: Callable[..., Config], method: str, layers: str) -> None:
    config = published(f"peft={method}", f"+peft.layers_to_transform={layers}", "model.dtype=float32")
    adapted = {int(tensor.tensor.module.split(".layers.")[1][0]) for tensor in planned(config).layout.slots}
    wanted = json.loads(layers)
    assert adapted == set(wanted if isinstance(wanted, list) else [wanted])
    check_numbers(config)


def test_layer_that_there_is_not_is_named(published: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"peft\.layers_to_transform=\[0, 9\]: this model has no layer 9; it has 0 to 1"):
        train_run(published("+peft.layers_to_transform=[0,9]"))
