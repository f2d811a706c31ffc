"""Body and head together are the model; the loss in pieces is the loss; kept hidden states are the body's."""

import csv
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from conftest import build, folder_of, train_run
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, OPTConfig, PretrainedConfig, Qwen2Config

from qpa.config import Config
from qpa.errors import ConfigError
from qpa.runs import record
from qpa.tasks.language import loss
from qpa.tasks.language.hidden_store import HiddenStore, store_path
from qpa.tasks.language.language_model import LanguageModel
from qpa.tasks.language.loss import next_token_nll
from qpa.tasks.language.windows import IGNORED

MakeConfig = Callable[..., Config]
IDS = torch.randint(0, 256, (3, 20), generator=torch.Generator().manual_seed(0))
LABELS = IDS.clone()
LABELS[2, 11:] = IGNORED
HEAD = "peft.target_modules=[lm_head]"


def plain_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As transformers computes it, but summed."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")


def fp32(config: Config, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("qpa.tasks.numerics.fast_in_bf16", lambda _: False)
    built = build(config)
    torch.manual_seed(1)
    for parameter in built.adaptation.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    built.adaptation.write()
    return built


@pytest.mark.parametrize("model", ["smollm2", "gpt2", "gemma", "gemma2", "gemma3_270m"])
@pytest.mark.parametrize("method", [["peft=lora"], [HEAD], ["peft=prefix"], ["peft=prompt"], ["peft=adapter"]])
def test_body_and_head_are_the_model_adapted_and_not(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, model: str, method: list[str]
) -> None:
    language = LanguageModel(fp32(make_config(*method, model=model), monkeypatch).model.eval())
    assert not language.whole
    with torch.no_grad():
        torch.testing.assert_close(language.head(language.body(IDS)), language.model(input_ids=IDS).logits[:, -20:])
        with language.unadapted(), language.model.disable_adapter():
            torch.testing.assert_close(language.head(language.body(IDS)), language.model(input_ids=IDS).logits)


def test_model_that_changes_its_logits_afterwards_is_taken_whole(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fp32(make_config(), monkeypatch).model.eval()
    base = model.get_base_model()
    forward = base.forward

    def scaled(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 3
        return output

    monkeypatch.setattr(base, "forward", scaled)
    language = LanguageModel(model)
    assert language.whole
    torch.testing.assert_close(language.head(language.body(IDS)), model(input_ids=IDS).logits)


@pytest.mark.parametrize("model", ["smollm2", "gemma2"])  # gemma2 has a softcap
@pytest.mark.parametrize("targets", [HEAD, "peft.target_modules=all-linear", "peft.target_modules=[lm_head,q_proj]"])
@pytest.mark.parametrize("tokens", [1, 7, 1000])
def test_loss_in_pieces_and_its_gradients_equal_plain_ones(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, model: str, targets: str, tokens: int
) -> None:
    monkeypatch.setattr(loss, "CPU_BYTES", tokens * 4 * 300)
    monkeypatch.setattr(loss, "LEAST", 1)
    language = LanguageModel(fp32(make_config(targets, "generator=none", model=model), monkeypatch).model)
    parameters = [p for p in language.model.parameters() if p.requires_grad]
    expected = plain_nll(language.model(input_ids=IDS).logits, LABELS)
    gradients = torch.autograd.grad(expected, parameters)
    found, count = next_token_nll(language.head, language.body(IDS), LABELS, vocabulary=300, parameters=language.head_parameters())
    assert count == (LABELS[:, 1:] != IGNORED).sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(found, parameters), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["dora", "vera", "fourierft", "unilora", "tinylora", "randlora", "lokr", "ia3"])
@pytest.mark.parametrize("targets", ["[lm_head]", "[lm_head,q_proj]"])
def test_gradients_of_every_method_on_the_head_equal_plain_ones(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, method: str, targets: str
) -> None:
    monkeypatch.setattr(loss, "CPU_BYTES", 7 * 4 * 300)
    monkeypatch.setattr(loss, "LEAST", 1)
    config = make_config(f"peft={method}", f"peft.target_modules={targets}", "generator=none")
    language = LanguageModel(fp32(config, monkeypatch).model)
    assert language.only_head_is_adapted() == (targets == "[lm_head]")
    parameters = [p for p in language.model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(plain_nll(language.model(input_ids=IDS).logits, LABELS), parameters)
    found, _ = next_token_nll(language.head, language.body(IDS), LABELS, vocabulary=300, parameters=language.head_parameters())
    for mine, theirs in zip(torch.autograd.grad(found, parameters), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_no_more_than_a_piece_of_the_logits_is_ever_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CPU_BYTES", 4 * 300 * 5)
    monkeypatch.setattr(loss, "LEAST", 1)
    sizes = []
    weight = torch.randn(300, 8, requires_grad=True)

    def head(hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return hidden @ weight.t()

    next_token_nll(head, torch.randn(3, 20, 8), LABELS, vocabulary=300, parameters=[weight])[0].backward()
    assert max(sizes) == 5
    assert sum(sizes) == 3 * 19


MORE = [pytest.param([more], marks=pytest.mark.slow) for more in ("peft=dora", "trainer.accumulate_grad_batches=2")]


@pytest.mark.few(1)
@pytest.mark.parametrize("overrides", [[], ["generator=none"], *MORE])
@pytest.mark.parametrize("model", ["smollm2", "gemma2"])
def test_run_from_kept_hidden_states_is_the_run_without(make_config: MakeConfig, tmp_path: Path, model: str, overrides: list[str]) -> None:
    found = {}
    for place, kept in (("off", False), ("filling", True), ("full", True)):
        config = make_config(HEAD, f"data.cache_hidden={kept}", f"run_dir={tmp_path}/{place}", *overrides, model=model)
        train_run(config)
        losses = [row["train/loss"] for row in csv.DictReader((folder_of(config) / "metrics.csv").open())]
        found[place] = (record.read(folder_of(config))["qpa"]["test"], losses)
    assert found["off"] == found["filling"] == found["full"]


def test_body_does_not_run_for_windows_that_are_kept(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_run(make_config(HEAD, "logger=none"))
    monkeypatch.setattr(LanguageModel, "_parts_are_the_model", lambda _: True)  # this probe runs the body too, and the next
    monkeypatch.setattr(LanguageModel, "body_drops_out", lambda _: False)
    monkeypatch.setattr(LanguageModel, "body", lambda *_: pytest.fail("the body has run"))
    train_run(make_config(HEAD, f"run_dir={tmp_path}/again"))


@pytest.mark.parametrize(
    ("overrides", "model", "kept"),
    [([HEAD], "smollm2", True), ([], "smollm2", False), ([HEAD, "data.cache_hidden=false"], "smollm2", False), ([HEAD], "gpt2", False),
     ([HEAD, "data.cache_hidden_gib=1e-9"], "smollm2", False)],
)  # fmt: skip
def test_hidden_states_are_kept_where_they_stay_the_same(
    make_config: MakeConfig, tmp_path: Path, overrides: list[str], model: str, kept: bool
) -> None:
    train_run(make_config(*overrides, model=model))
    assert (tmp_path / "cache" / "hidden").exists() == kept


@pytest.mark.parametrize(
    ("settings", "bias", "head_only", "drops_out"),
    [
        (OPTConfig(word_embed_proj_dim=32, ffn_dim=64), "none", True, True),  # drops out by a function, not by a module
        (OPTConfig(word_embed_proj_dim=32, ffn_dim=64, dropout=0.0), "none", True, False),
        (Qwen2Config(intermediate_size=64, num_key_value_heads=2), "none", True, False),
        (Qwen2Config(intermediate_size=64, num_key_value_heads=2), "all", False, False),  # trains the body's biases, too
    ],
)
def test_body_that_changes_is_noticed(settings: PretrainedConfig, bias: Literal["none", "all"], head_only: bool, drops_out: bool) -> None:
    for key, value in {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}.items():
        setattr(settings, key, value)
    adapted = get_peft_model(AutoModelForCausalLM.from_config(settings), LoraConfig(target_modules=["lm_head"], bias=bias))
    language = LanguageModel(adapted)  # pyright: ignore[reportArgumentType]
    assert (language.only_head_is_adapted(), language.body_drops_out()) == (head_only, drops_out)


def test_store_that_finds_no_room_is_one_line(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match=r"data.cache_hidden=None: .* GiB cannot be kept in .*No space left on device.*; set it to false"):
        train_run(make_config(HEAD))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [(["data.cache_hidden=true"], "data.cache_hidden=True: more than the head"),
     ([HEAD, "data.cache_hidden=true", "data.cache_hidden_gib=1e-9"], "data.cache_hidden_gib=1e-09: .*at least"),
     (["model=gpt2", HEAD, "data.cache_hidden=true"], "data.cache_hidden=True: the body drops out")],
)  # fmt: skip
def test_store_that_cannot_be_or_would_change_the_result_is_refused(make_config: MakeConfig, overrides: list[str], words: str) -> None:
    model = "gpt2" if "model=gpt2" in overrides else "smollm2"
    with pytest.raises(ConfigError, match=words):
        train_run(make_config(*(override for override in overrides if override != "model=gpt2"), model=model))


def test_kept_states_that_were_deleted_are_made_again(tmp_path: Path) -> None:
    path = store_path(tmp_path, model="model", windows="windows")
    HiddenStore(path, windows=2, shape=(4, 8), dtype=torch.float32).write([0, 1], torch.ones(2, 4, 8))
    path.with_suffix(".float32").unlink()
    assert HiddenStore(path, windows=2, shape=(4, 8), dtype=torch.float32).read([0]) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_store_gives_back_what_was_written_also_to_another_reader(tmp_path: Path, dtype: torch.dtype) -> None:
    path = store_path(tmp_path, model="model", windows="windows")
    states = torch.randn(3, 4, 8).to(dtype)
    store = HiddenStore(path, windows=5, shape=(4, 8), dtype=dtype)
    assert store.read([0]) is None
    store.write([4, 0, 2], states)
    other = HiddenStore(path, windows=5, shape=(4, 8), dtype=dtype)
    assert torch.equal(other.read([0, 2, 4]), states[[1, 2, 0]])
    assert other.read([0, 1]) is None
    others = {store_path(tmp_path, model="other", windows="windows"), store_path(tmp_path, model="model", windows="other")}
    assert path not in others
