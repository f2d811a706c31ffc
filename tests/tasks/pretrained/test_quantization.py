"""`model.quantization=nf4`: a frozen base of 4 bits a weight, on the CPU here."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from conftest import ROOT, build, folder_of, planned, train_run
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file

import qpa
from qpa.adapters import methods
from qpa.config import Config
from qpa.errors import ConfigError
from qpa.runs import export, record
from qpa.tasks.pretrained import base_model
from qpa.tasks.pretrained.tokenizer import byte_encoder

MakeConfig = Callable[..., Config]
METHODS = sorted(path.stem for path in (ROOT / "conf" / "peft").glob("[!_]*.yaml") if not path.stem.startswith(("whole_", "qtrl")))
IDS = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(0))
WIDEST_GAP = (1 - 0.6961928) / 2  # half of it, between the last two of NF4's 16 values (Dettmers et al. 2023, appendix E)
SCALES = 0.05  # what rounding the blocks' scales to 8 bits may add
WIDE = ["model.architecture.hidden_size=64", "model.architecture.intermediate_size=128", "model.architecture.head_dim=16"]


@pytest.fixture
def saved(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Config]:
    """The config of a tiny model that is read from a folder, as wide as one block of weights."""
    folder = tmp_path / "base"
    planned(make_config(*WIDE)).task.base().float().save_pretrained(folder)
    byte_encoder().tokenizer.save(str(folder / "tokenizer.json"))
    return lambda *overrides: make_config(f"model.path={folder}", "model.weights=published", *overrides)


def exact_base(config: Config) -> base_model.PreTrainedModel:
    whole = config.model.model_copy(update={"quantization": None})
    return base_model.load(whole, Path(config.model.path or ""), dtype=torch.float32)


def test_every_linear_weight_takes_four_bits_and_lies_within_nf4s_rounding(saved: Callable[..., Config]) -> None:
    config = saved("model.quantization=nf4")
    exact = exact_base(config)
    rounded = planned(config).task.base()
    packed = {name: module for name, module in rounded.named_modules() if isinstance(module, Linear4bit)}
    assert len(packed) == 14, "7 linear modules in each of 2 layers, and not the head"
    for name, module in packed.items():
        weight = exact.get_submodule(name).weight
        found = dequantize_module_weight(module).float()
        largest = weight.reshape(-1, 64).abs().amax(1, keepdim=True)
        assert module.weight.nbytes * 2 == weight.numel()
        assert ((found - weight).reshape(-1, 64).abs() <= (WIDEST_GAP + SCALES) * largest).all(), name
        assert not torch.equal(found, weight)
        assert not module.support_avx512bf16_for_cpu
    assert methods.total_parameters(rounded) == methods.total_parameters(exact) == exact.num_parameters()


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_adapted_model_starts_as_the_quantised_base_in_training_and_after_evaluating(method: str, saved: Callable[..., Config]) -> None:
    config = saved("model.quantization=nf4", f"peft={method}")
    base, adapted = planned(config).task.base(), build(config)
    adapted.adaptation.write()
    with torch.no_grad():
        expected = base(input_ids=IDS).logits
        adapted.model.eval()
        first = adapted.model(input_ids=IDS).logits
        adapted.model.train()
        second = adapted.model(input_ids=IDS).logits
    torch.testing.assert_close(first, expected, atol=2e-2, rtol=0)
    torch.testing.assert_close(second, expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_method_learns_on_a_quantised_base_or_is_refused_in_one_line(method: str, saved: Callable[..., Config]) -> None:
    config = saved("model.quantization=nf4", f"peft={method}", "generator=none")
    if method in ("unilora", "tinylora", "lokr", "whole"):
        with pytest.raises(ConfigError, match=r"model\.quantization=nf4: .*choose another peft"):
            planned(config)
        return
    planned(config)
    model = build(config).model
    with torch.autocast("cpu", torch.bfloat16):  # as runs compute where the base is bf16
        model(input_ids=IDS, labels=IDS).loss.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_run_on_a_quantised_base_learns_and_is_merged_into_the_exact_weights(saved: Callable[..., Config]) -> None:
    config = saved("model.quantization=nf4", "trainer.max_steps=8", "trainer.val_every=8")
    train_run(config)
    folder = folder_of(config)
    found = record.read(folder)["qpa"]
    assert found["test"]["perplexity"] < found["test"]["base_perplexity"]
    export.merged(config, folder)
    name, exact = "layers.1.mlp.down_proj", exact_base(config)
    merged = base_model.load(saved().model, folder / "merged", dtype=torch.float32)
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.model.{name}.lora_{side}.weight"] for side in "AB")
    change = merged.model.get_submodule(name).weight - exact.model.get_submodule(name).weight
    assert change.abs().max() > 0
    torch.testing.assert_close(change, 2 * b @ a, atol=1e-6, rtol=1e-4)  # lora_alpha / r = 2


def test_compact_form_of_a_run_on_a_quantised_base_gives_its_adapter(saved: Callable[..., Config]) -> None:
    config = saved("model.quantization=nf4", "trainer.max_steps=2", "trainer.val_every=2")
    train_run(config)
    folder = folder_of(config)
    trained = load_file(folder / "adapter" / "adapter_model.safetensors")
    export.compact(config, folder)
    assert not any(name.startswith("start.") for name in load_file(folder / "compact" / "compact.safetensors"))  # the seed gives it
    export.expanded(config, folder)
    found = load_file(folder / "adapter" / "adapter_model.safetensors")
    torch.testing.assert_close(found, trained, rtol=1e-5, atol=1e-7)
    qpa.load(exact_base(config), folder / "compact").save_pretrained(str(folder / "exact"))  # that it was quantised from
    assert all(torch.equal(tensor, found[name]) for name, tensor in load_file(folder / "exact" / "adapter_model.safetensors").items())


def test_narrow_model_is_refused_as_it_would_be_decoded_wrongly(make_config: MakeConfig, saved_base: Callable[[str], Path]) -> None:
    config = make_config(f"model.path={saved_base('smollm2')}", "model.weights=published", "model.quantization=nf4")
    with pytest.raises(ConfigError, match=r"q_proj has 32 columns, no multiple of 64"):
        build(config)


def test_what_cannot_be_quantised_is_one_line(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"model\.quantization=nf4: .*leave it out with model\.weights=random"):
        planned(make_config("model.quantization=nf4"))
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else there(name))
    with pytest.raises(ConfigError, match=r"make setup EXTRAS=nf4"):
        planned(make_config("model.quantization=nf4", "model.weights=published"))
