"""Compact adapters: the file alone gives the weights again, bit by bit, here and on other machines; or it is refused in one line."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FITTING, ROOT, TINY
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Gemma2Config, GPT2Config, LlamaConfig, LlamaForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

import qpa
from qpa.adapters import methods
from qpa.adapters.bottleneck import BottleneckModel
from qpa.core.generator import view
from qpa.errors import UserError
from qpa.library import compact, load

ARCHITECTURES: dict[str, type[PretrainedConfig]] = {"smollm2": LlamaConfig, "gpt2": GPT2Config, "gemma2": Gemma2Config}
METHODS = sorted(path.stem for path in (ROOT / "conf" / "peft").glob("[!_]*.yaml"))
LATENTS = sorted(path.stem for path in (ROOT / "conf" / "latents").glob("[!_]*.yaml"))
MAPPERS = ["tied", "codes", "paper"]
CASES = [
    (model, method) for model in ARCHITECTURES for method in METHODS if (model, method) != ("gpt2", "lokr")
]  # peft has it for Linear alone
FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
IDS = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(0))


@cache
def published(model: str, *, layers: int = 2, seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(ARCHITECTURES[model](**TINY[model], num_hidden_layers=layers))


def base(model: str = "smollm2", dtype: torch.dtype = torch.float32, **other: int) -> PreTrainedModel:
    """As a user loads it."""
    return copy.deepcopy(published(model, **other)).to(dtype).eval()


@cache
def settings_of(method: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("train", overrides=[f"peft={method}", *FITTING.get(f"peft={method}", [])])
    return OmegaConf.to_container(composed.peft, resolve=True)


def moved(generated: qpa.Generated) -> qpa.Generated:
    """As far from its start as training takes it."""
    chance = torch.Generator().manual_seed(5)
    for parameter in generated.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=chance)
    generated.write()
    return generated


def trained(
    method: str = "lora", model: str = "smollm2", dtype: torch.dtype = torch.float32, *, seed: int = 3, **groups: Any
) -> qpa.Generated:
    """An adapter put on at random, taken over, and away from its start as training takes it."""
    adapted = methods.put_on(base(model, dtype), methods.make_config(settings_of(method)))
    return moved(qpa.generate(adapted, seed=seed, **{"mapper": {"width": 4}} | groups))


def lora(**settings: Any) -> PeftModel:
    return get_peft_model(base(), LoraConfig(**{"r": 4, "target_modules": "all-linear"} | settings))


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits[:, -IDS.shape[1] :].float()


def in_float64(generated: qpa.Generated) -> dict[str, Tensor]:
    """The weights that the generator makes in float64, rounded."""
    generator = copy.deepcopy(generated.generator).double()
    with torch.no_grad():
        flat = generator().float()
    return {slot.tensor.name: view(flat, slot) for slot in generated.layout.slots}


def bits(model: nn.Module, names: Any) -> dict[str, Tensor]:
    return {name: model.get_parameter(name).detach().float().contiguous() for name in names}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stock(folder: Path, model: PreTrainedModel) -> nn.Module:
    kind = json.loads((folder / "adapter_config.json").read_text())["peft_type"]
    if kind == "WHOLE":
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model
    return (BottleneckModel if kind == "QPA_BOTTLENECK" else PeftModel).from_pretrained(model, str(folder))


@pytest.mark.few(6)
@pytest.mark.parametrize(("model", "method", "precision"), [(*case, list(FLOATS)[place % 2]) for place, case in enumerate(CASES)])
def test_every_methods_adapter_comes_out_of_its_file_as_it_was(tmp_path: Path, model: str, method: str, precision: str) -> None:
    dtype = FLOATS[precision]
    generated = trained(method, model, dtype)
    expected = in_float64(generated)
    rounded = {name: weight.to(generated.module.get_parameter(name).dtype).float() for name, weight in expected.items()}
    generated.save(tmp_path / "compact")
    loaded = qpa.load(base(model, dtype), tmp_path / "compact")
    assert equal(bits(loaded, expected), rounded)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    within = {"float32": 1e-5 if method == "randlora" else 1e-6, "bfloat16": 2**-6}[precision]  # RandLoRA's matrices are large
    torch.testing.assert_close(logits(loaded), logits(generated.module), rtol=0, atol=within)

    loaded.save_pretrained(str(tmp_path / "adapter"))
    assert torch.equal(logits(stock(tmp_path / "adapter", base(model, dtype))), logits(loaded))

    other = moved(qpa.generate(methods.put_on(base(model, dtype), methods.make_config(settings_of(method))), seed=4, mapper={"width": 4}))
    other.save(tmp_path / "other")
    in_fp32 = qpa.load(base(model), tmp_path / "other")  # whatever precision it was trained in
    assert equal(bits(in_fp32, expected), in_float64(other))
    assert qpa.load(in_fp32, tmp_path / "compact") is in_fp32
    assert equal(bits(in_fp32, expected), expected)


@pytest.mark.few(5)
@pytest.mark.parametrize("mapper", MAPPERS)
@pytest.mark.parametrize("latents", LATENTS)
def test_every_mapper_and_latents_come_out_of_their_file_as_they_were(tmp_path: Path, mapper: str, latents: str) -> None:
    for generator in ("qpa", "paper"):
        generated = trained(generator=generator, mapper=mapper, latents=latents, circuit="rx_ry_rz")
        expected = in_float64(generated)
        generated.save(tmp_path)
        loaded = qpa.load(base(), tmp_path)
        assert equal(bits(loaded, expected), expected)
        torch.testing.assert_close(logits(loaded), logits(generated.module), rtol=0, atol=1e-5)


def test_file_holds_the_generator_alone(tmp_path: Path) -> None:
    generated = trained()
    generated.save(tmp_path)
    numbers = load_file(tmp_path / compact.NUMBERS)
    kept = {name.removeprefix(compact.GENERATOR) for name in numbers if name.startswith(compact.GENERATOR)}
    assert kept == generated.generator.state_dict().keys()
    assert {name for name in numbers if not name.startswith(compact.GENERATOR)} == {compact.PLACES, compact.VALUES}
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", compact.DESCRIPTION, compact.NUMBERS}
    assert all(b"pickle" not in file.read_bytes() for file in tmp_path.iterdir())


def test_what_the_seed_does_not_give_is_in_the_file(tmp_path: Path) -> None:
    """Normal numbers depend on the processor; magnitudes on the base; what was trained before on that."""

    def kept(generated: qpa.Generated) -> set[str]:
        generated.save(tmp_path)
        names = [name for name in load_file(tmp_path / compact.NUMBERS) if name.startswith(compact.BEGUN)]
        return {part for name in names for part in name.split(".") if part.startswith(("lora_", "prompt_"))}

    assert kept(trained("lora")) == set()
    assert kept(trained("prefix")) == {"prompt_encoder"}
    assert kept(trained("dora")) == {"lora_magnitude_vector"}
    adapted = lora(init_lora_weights="gaussian")
    assert kept(moved(qpa.generate(adapted))) == {"lora_A"}
    learned = lora()
    for name, parameter in learned.named_parameters():
        if "lora_" in name:
            nn.init.uniform_(parameter, -0.1, 0.1)
    generated = moved(qpa.generate(learned, seed=1))
    assert kept(generated) == {"lora_A", "lora_B"}
    assert equal(bits(qpa.load(base(), tmp_path), in_float64(generated)), in_float64(generated))


def test_adapter_comes_out_whatever_precision_and_adapter_the_model_has(tmp_path: Path) -> None:
    generated = trained("lora", dtype=torch.bfloat16)
    generated.save(tmp_path)
    expected = in_float64(generated)
    torch.manual_seed(7)
    wrapped = methods.put_on(base(), methods.make_config(settings_of("lora")))  # drawn from another seed, to be trained
    for model in (base(dtype=torch.float16), base(), wrapped):
        assert equal(bits(qpa.load(model, tmp_path), expected), expected)


def test_adapter_of_another_name_is_loaded_under_it(tmp_path: Path) -> None:
    adapted = get_peft_model(base(), LoraConfig(r=4, target_modules="all-linear"), adapter_name="poet")
    generated = moved(qpa.generate(adapted, seed=1))
    generated.save(tmp_path)
    loaded = qpa.load(base(), tmp_path)
    assert loaded.active_adapter == "poet"
    torch.testing.assert_close(logits(loaded), logits(adapted), rtol=0, atol=1e-6)


def test_swapping_builds_no_adapter_and_no_generator_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = trained(seed=3), trained(seed=3)
    nn.init.normal_(next(other.parameters()), std=0.3)
    other.write()
    one.save(tmp_path / "one")
    other.save(tmp_path / "other")
    model = qpa.load(base(), tmp_path / "one")
    for made in ("put_on_drawn", "of_seed"):
        monkeypatch.setattr(load.start, made, None)
    monkeypatch.setattr(compact, "make_generator", None)
    held = {name: compact.read(tmp_path / name) for name in ("other", "one")}
    for name in held:
        shutil.rmtree(tmp_path / name)
    for name, generated in {"other": other, "one": one}.items():
        qpa.load(model, held[name])
        assert equal(bits(model, in_float64(generated)), in_float64(generated))


class Small(nn.Module):
    """Convolutions with statistics, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten())
        self.head = nn.Linear(96, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


@cache
def small(seed: int) -> Small:
    torch.manual_seed(seed)
    return Small()


IMAGES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def train(generated: qpa.Generated, optimizer: Any, steps: int = 3) -> None:
    for _ in range(steps):
        generated.module.train()(IMAGES).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("generator", ["qpa", "paper"])
def test_whole_network_comes_out_with_its_statistics(tmp_path: Path, generator: str) -> None:
    generated = qpa.generate(copy.deepcopy(small(0)), seed=1, generator=generator, mapper={"width": 4})
    train(generated, generated.optimizer(torch.optim.AdamW, lr=1e-2))
    generated.save(tmp_path)
    network = copy.deepcopy(small(1))
    assert qpa.load(network, tmp_path) is network
    assert equal(bits(network, in_float64(generated)), in_float64(generated))
    assert equal(dict(network.named_buffers()), dict(generated.module.named_buffers()))
    torch.testing.assert_close(network.eval()(IMAGES), generated.module.eval()(IMAGES), rtol=1e-5, atol=1e-6)
    has_start = any(name.startswith(compact.BEGUN) for name in load_file(tmp_path / compact.NUMBERS))
    assert has_start == (generator == "qpa")


def test_convolutions_of_an_earlier_qpa_come_out_bit_by_bit() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False))
    qpa.load(network, Path(__file__).parent / "earlier_compact")  # which compares all bits
    assert float(network[2].weight.detach().double().sum()) == pytest.approx(2.27356681227684, rel=1e-12)


@pytest.mark.parametrize("network", [nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 2)), nn.LSTM(3, 4), nn.Linear(3, 1)])
def test_any_network_comes_out_as_it_was(tmp_path: Path, network: nn.Module) -> None:
    fresh = copy.deepcopy(network)
    generated = moved(qpa.generate(network, seed=1, mapper={"width": 4}))
    generated.save(tmp_path)
    qpa.load(fresh, tmp_path)
    assert equal(bits(fresh, in_float64(generated)), in_float64(generated))


def test_what_is_trained_plainly_beside_the_generator_comes_out_too(tmp_path: Path) -> None:
    network = copy.deepcopy(small(0)).requires_grad_(False)
    network.body[3].requires_grad_(True)
    network.head.requires_grad_(True)
    generated = qpa.generate(network, parameters=network.head.parameters(), seed=1, mapper={"width": 4})
    optimizer = generated.optimizer(torch.optim.AdamW, lr=1e-2)
    optimizer.add_param_group({"params": network.body[3].parameters()})
    train(generated, optimizer)
    generated.save(tmp_path)
    loaded = qpa.load(copy.deepcopy(small(0)), tmp_path)
    assert equal(bits(loaded, in_float64(generated)), in_float64(generated))
    assert not torch.equal(loaded.body[3].weight, small(0).body[3].weight)
    torch.testing.assert_close(loaded.eval()(IMAGES), network.eval()(IMAGES), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match=r"of another base model: body\.0"):
        qpa.load(copy.deepcopy(small(1)), tmp_path)


@pytest.mark.parametrize(
    "beside", [{"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": {"embed_tokens": [1, 5]}}]
)
def test_weights_of_the_base_that_a_method_trains_come_out_too(tmp_path: Path, beside: dict[str, Any]) -> None:
    generated = moved(qpa.generate(lora(**beside), seed=1, mapper={"width": 4}))
    generated.save(tmp_path)
    loaded = qpa.load(base(), tmp_path)
    assert equal(bits(loaded, in_float64(generated)), in_float64(generated))
    torch.testing.assert_close(logits(loaded), logits(generated.module), rtol=0, atol=1e-5)


def test_head_that_a_fresh_base_draws_anew_comes_out_as_it_was_trained(tmp_path: Path) -> None:
    def fresh(seed: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(LlamaConfig(**TINY["smollm2"], num_hidden_layers=2, num_labels=3, pad_token_id=0))
        model.model.load_state_dict(base().model.state_dict())
        return model

    adapted = get_peft_model(fresh(0), LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear"))
    generated = moved(qpa.generate(adapted, seed=1, mapper={"width": 4}))
    generated.save(tmp_path)
    loaded = qpa.load(fresh(1), tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, adapted.eval()(IDS).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_second_adapter_is_not_put_on_over_the_first(tmp_path: Path, method: str) -> None:
    trained(method).save(tmp_path)
    model = base()
    loaded = qpa.load(model, tmp_path)
    with pytest.raises(UserError, match=r"there is an adapter in the given model; give what qpa\.load gave back") as error:
        qpa.load(model, tmp_path)
    refused(error)
    assert qpa.load(loaded, tmp_path) is loaded
    if method == "lora":
        loaded.merge_adapter()
        with pytest.raises(UserError, match="the adapter of the given model is merged"):
            qpa.load(loaded, tmp_path)


def test_saved_folder_takes_the_place_of_an_older_one_only(tmp_path: Path) -> None:
    generated = trained()
    generated.save(tmp_path / "compact")
    generated.save(tmp_path / "compact")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for name in ("thesis", "file"):
        with pytest.raises(UserError, match="something else than a compact adapter"):
            generated.save(tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def refused(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: base(seed=1),
        lambda: base(layers=1),
        lambda: base(layers=3),
        lambda: base("gpt2"),
        lambda: base("gemma2"),
        lambda: nn.Linear(3, 3),
        lambda: lora(lora_alpha=3),
        lambda: lora(r=2),
        lambda: get_peft_model(base(), LoraConfig(r=4, target_modules="all-linear"), adapter_name="other"),
        lambda: methods.put_on(base(), methods.make_config(settings_of("prefix"))),
    ],
)
def test_another_model_is_refused_and_stays_as_it_was(tmp_path: Path, wrong: Callable[[], nn.Module]) -> None:
    moved(qpa.generate(lora(), seed=1)).save(tmp_path)
    model = wrong()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        qpa.load(model, tmp_path)
    assert "another" in refused(error)
    assert equal(model.state_dict(), before)


def test_model_that_took_a_damaged_adapter_on_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("lora", "prefix", "adapter"):
        trained(method).save(tmp_path)
        model = base()
        before, expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}, logits(model)
        with monkeypatch.context() as patched:
            patched.setattr(compact, "weights_hash", lambda _: "another")
            with pytest.raises(
                UserError, match=r"do not come out here bit by bit as they were saved; it was written by qpa .*, torch "
            ) as error:
                qpa.load(model, tmp_path)
        refused(error)
        assert equal(model.state_dict(), before) and torch.equal(logits(model), expected)
        qpa.load(model, tmp_path)


def _flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def _edit(file: Path, **changes: Any) -> None:
    """As somebody would who makes the hash right as well."""
    edited = {**json.loads(file.read_text()), **changes}
    if file.name == compact.DESCRIPTION and "unknown" not in edited:
        edited |= {"whole": compact.Description.model_validate(edited).hashed()}
    file.write_text(json.dumps(edited))


def _edit_settings(folder: Path, group: str, **changes: Any) -> None:
    file = folder / compact.DESCRIPTION
    settings = json.loads(file.read_text())["settings"]
    _edit(file, settings={**settings, group: {**settings[group], **changes} if isinstance(settings[group], dict) else changes["value"]})


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a flipped bit of a number": lambda folder: _flip(folder / compact.NUMBERS, -1),
    "a flipped bit of a name": lambda folder: _flip(folder / compact.NUMBERS, 20),
    "half a file of numbers": lambda folder: os.truncate(folder / compact.NUMBERS, 200),
    "no numbers": lambda folder: os.truncate(folder / compact.NUMBERS, 0),
    "no file of numbers": lambda folder: (folder / compact.NUMBERS).unlink(),
    "half a description": lambda folder: os.truncate(folder / compact.DESCRIPTION, 100),
    "no description": lambda folder: (folder / compact.DESCRIPTION).unlink(),
    "a description that is a list": lambda folder: (folder / compact.DESCRIPTION).write_text("[]"),
    "a description without end": lambda folder: (folder / compact.DESCRIPTION).write_text("[" * 100_000),
    "a description that is no text": lambda folder: (folder / compact.DESCRIPTION).write_bytes(b"\xff\xfe"),
    "a key that is not there": lambda folder: _edit(folder / compact.DESCRIPTION, unknown=1),
    "a digit": lambda folder: _flip(folder / compact.DESCRIPTION, (folder / compact.DESCRIPTION).read_bytes().index(b"0.")),
    "another seed": lambda folder: _edit_settings(folder, "seed", value=2),
    "a seed that is none": lambda folder: _edit_settings(folder, "seed", value=-2),
    "another width": lambda folder: _edit_settings(folder, "mapper", width=5),
    "another entangler": lambda folder: _edit_settings(folder, "circuit", entangler="ring"),
    "a mapper that is none": lambda folder: _edit_settings(folder, "mapper", kind="nosuch"),
    "a dtype that is none": lambda folder: _edit(folder / compact.DESCRIPTION, dtype="load"),
    "another dtype": lambda folder: _edit(folder / compact.DESCRIPTION, dtype="bfloat16"),
    "another adapter": lambda folder: _edit(folder / compact.DESCRIPTION, adapter=None),
    "other names": lambda folder: _edit(folder / compact.DESCRIPTION, names=["lm_head.weight"]),
    "other weights": lambda folder: _edit(folder / compact.DESCRIPTION, weights="0"),
    "other base": lambda folder: _edit(folder / compact.DESCRIPTION, base={"nosuch": [1.0]}),
    "no draws": lambda folder: _edit(folder / compact.DESCRIPTION, drawn=False),
    "another scale": lambda folder: _edit(folder / "adapter_config.json", lora_alpha=99),
    "no PEFT config": lambda folder: (folder / "adapter_config.json").unlink(),
    "half a PEFT config": lambda folder: os.truncate(folder / "adapter_config.json", 100),
    "a later format": lambda folder: _edit(folder / compact.DESCRIPTION, format=compact.FORMAT + 1, unknown="key"),
}  # fmt: skip


@pytest.mark.few(8)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_or_edited_file_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    trained().save(tmp_path)
    DAMAGE[damage](tmp_path)
    model = base()
    before = [*model.state_dict()]
    with pytest.raises(UserError) as error:
        qpa.load(model, tmp_path)
    assert str(tmp_path) in refused(error) or "another" in refused(error)
    assert [*model.state_dict()] == before


def test_later_format_says_so_and_a_renamed_base_is_fine(tmp_path: Path) -> None:
    trained().save(tmp_path)
    _edit(tmp_path / "adapter_config.json", base_model_name_or_path="where/it/is/now")
    qpa.load(base(), tmp_path)
    _edit(tmp_path / compact.DESCRIPTION, format=compact.FORMAT + 1)
    with pytest.raises(UserError, match="is of format 3, and this qpa reads 2; install the qpa that has written it"):
        qpa.load(base(), tmp_path)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_start_that_rewrites_the_base_is_refused(tmp_path: Path, start: str) -> None:
    generated = qpa.generate(lora(init_lora_weights=start), seed=1)
    with pytest.raises(UserError, match="rewritten weights of the base model"):
        generated.save(tmp_path / "compact")
    assert not (tmp_path / "compact").exists()


def test_what_no_file_could_give_again_is_refused(tmp_path: Path) -> None:
    sampled = qpa.generate(lora(), seed=1, circuit={"shots": 100})
    with pytest.raises(UserError, match="the circuits are sampled"):
        sampled.save(tmp_path / "compact")
    generated = trained()
    with torch.no_grad():
        generated.leaves.parameters[3][0, 0] += 1
    with pytest.raises(UserError, match=r"is not what its generator makes; something else has changed it"):
        generated.save(tmp_path / "compact")
    diverged = trained()
    with torch.no_grad():
        next(diverged.parameters()).fill_(torch.nan)
    diverged.write()
    with pytest.raises(UserError, match="training has diverged"):
        diverged.save(tmp_path / "compact")
    model = lora()
    model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear"))
    several = qpa.generate(model, seed=1)
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(UserError, match="several adapters"):
        several.save(tmp_path / "compact")
    assert not (tmp_path / "compact").exists()


# Another machine: a process whose torch has other kernels, other sums, other threads. It loads what it is given, and saves its own.
MACHINE = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
sys.path[:0] = sys.argv[2:4]
from pathlib import Path
import qpa, test_compact
from safetensors.torch import save_file
place, here = Path(sys.argv[4]), Path(sys.argv[5])
for folder in sorted(place.iterdir()):
    model = qpa.load(test_compact.network(folder.name), folder)
    save_file(test_compact.bits(model, test_compact.generated_names(model)), here / f"{folder.name}.safetensors")
for name in test_compact.ELSEWHERE:
    test_compact.elsewhere(name).save(here / name)
"""
KERNELS = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Prescott"}
ELSEWHERE: dict[str, Any] = {
    "tied": {},
    "deep": {"mapper": "codes", "circuit": {"layers": 12}, "generator": {"circuits": "shared"}},
    "paper": {"mapper": "paper", "generator": "paper"},
    "gaussian": {"init_lora_weights": "gaussian", "latents": "mps"},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"], "latents": "mlp"},
    "network": {},
}


def network(name: str) -> nn.Module:
    return copy.deepcopy(small(0)) if name == "network" else base()


def elsewhere(name: str) -> qpa.Generated:
    settings = dict(ELSEWHERE[name])
    config = {key: settings.pop(key) for key in ("init_lora_weights", "target_modules") if key in settings}
    return moved(qpa.generate(network(name) if name == "network" else lora(**config), seed=1, **{"mapper": {"width": 4}} | settings))


def generated_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if "lora_" in name or not isinstance(model, PeftModel)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "kernels"),
    [
        (1, KERNELS),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in ((2, KERNELS), (2, {}), (1, {"ATEN_CPU_CAPABILITY": "avx2"}))),
    ],
)
def test_another_machine_makes_the_same_bits_and_this_one_those_of_its_files(tmp_path: Path, threads: int, kernels: dict[str, str]) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    for name in ELSEWHERE:
        elsewhere(name).save(tmp_path / "here" / name)
    command = [sys.executable, "-c", MACHINE, str(threads), str(ROOT / "tests"), str(ROOT / "tests" / "library")]
    environment = os.environ | kernels | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    subprocess.run([*command, tmp_path / "here", tmp_path / "there"], check=True, env=environment)
    for name in ELSEWHERE:
        loaded = qpa.load(network(name), tmp_path / "here" / name)
        assert equal(load_file(tmp_path / "there" / f"{name}.safetensors"), bits(loaded, generated_names(loaded)))
        qpa.load(network(name), tmp_path / "there" / name)
