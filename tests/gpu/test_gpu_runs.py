"""Whole runs on a card: they learn, go on, are exported and measured again; on two cards; in 4 bits; in little more memory than PEFT's."""

import csv
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command_line, folder_of, planned, train_run
from pytorch_lightning import Trainer
from safetensors.torch import load_file

from benchmarks import sides
from qpa.config import Config, parse
from qpa.config.composing import composed
from qpa.runs import record
from qpa.runs.evaluate import evaluate
from qpa.tasks.pretrained.tokenizer import byte_encoder
from qpa.training.callbacks import StepClock

pytestmark = pytest.mark.gpu
MakeConfig = Callable[..., Config]
GPU = "trainer.accelerator=gpu"
EXACT = ["trainer.precision=32-true", "model.dtype=float32"]
WIDE = ["model.architecture.hidden_size=64", "model.architecture.intermediate_size=128", "model.architecture.head_dim=16"]


def train(config: Config) -> tuple[Path, record.Record]:
    train_run(config)
    return folder_of(config), record.read(folder_of(config))


def losses(*files: Path) -> list[float]:
    return [float(row["train/loss"]) for file in files for row in csv.DictReader(file.open()) if row["train/loss"]]


def published(base: Path) -> list[str]:
    """Overrides for weights that are the same wherever they are read."""
    return ["model.weights=published", f"model.path={base}", "model.num_layers=null"]


@pytest.mark.parametrize(
    ("model", "overrides"),
    [("smollm2", []), ("smollm2", ["generator=none"]), ("gpt2", ["peft=dora"]), ("gemma2", ["peft.target_modules=[lm_head]"])],
)
def test_run_learns_is_exported_and_measures_the_same_again(make_config: MakeConfig, model: str, overrides: list[str]) -> None:
    config = make_config(GPU, "trainer.max_steps=30", "trainer.val_every=10", *overrides, model=model)
    folder, result = train(config)
    ours = result["qpa"]
    assert result["train_info"]["status"] == "success"
    assert ours["test"]["perplexity"] < 0.97 * ours["test"]["base_perplexity"]
    assert 0 < ours["peak_memory_bytes"] <= torch.cuda.get_device_properties(0).total_memory
    assert load_file(folder / "adapter" / "adapter_model.safetensors")
    _, again = evaluate(config, folder)
    assert again["test"]["perplexity"] == pytest.approx(ours["test"]["perplexity"], rel=1e-5)


@pytest.mark.parametrize("overrides", [[], ["generator=none"], ["trainer.accumulate_grad_batches=2", "data.batch_size=2"]])
def test_run_on_the_card_is_the_run_on_the_cpu(
    make_config: MakeConfig, saved_base: Callable[[str], Path], tmp_path: Path, overrides: list[str]
) -> None:
    same = [*published(saved_base("smollm2")), *EXACT, "trainer.max_steps=6", *overrides]
    (cpu, slow), (gpu, fast) = (
        train(make_config(*same, f"trainer.accelerator={name}", f"run_dir={tmp_path}/{name}")) for name in ("cpu", "gpu")
    )
    assert losses(gpu / "metrics.csv") == pytest.approx(losses(cpu / "metrics.csv"), rel=1e-4)
    assert fast["qpa"]["test"]["perplexity"] == pytest.approx(slow["qpa"]["test"]["perplexity"], rel=1e-3)


@pytest.mark.parametrize("overrides", [[], ["peft.lora_dropout=0.1"], ["generator=none"]])
def test_resumed_run_is_the_uninterrupted_one(make_config: MakeConfig, tmp_path: Path, overrides: list[str]) -> None:
    fixed = [GPU, *EXACT, "trainer.val_every=1", "trainer.max_steps=7", *overrides]
    whole, expected = train(make_config(*fixed, f"run_dir={tmp_path}/whole"))
    stop_after(make_config(*fixed, f"run_dir={tmp_path}/half"), 3)
    folder, resumed = train(make_config(*fixed, f"run_dir={tmp_path}/half", "ckpt=last"))
    assert resumed["qpa"]["resumed_from_step"] == 3
    assert losses(folder / "metrics-1.csv", folder / "metrics.csv") == pytest.approx(losses(whole / "metrics.csv"), rel=1e-5)
    assert resumed["qpa"]["test"]["perplexity"] == pytest.approx(expected["qpa"]["test"]["perplexity"], rel=1e-5)


def stop_after(config: Config, steps: int) -> None:
    """Let a run die before its next step."""

    def dying(self: StepClock, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == steps:
            raise SystemExit("power cut")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(StepClock, "on_train_batch_start", dying)
        train_run(config)


def test_four_bit_base_learns_on_the_card(make_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base = tmp_path / "base"
    planned(make_config(*WIDE)).task.base().float().save_pretrained(base)
    byte_encoder().tokenizer.save(str(base / "tokenizer.json"))
    same = [GPU, "model.weights=published", f"model.path={base}", "trainer.max_steps=8", "trainer.val_every=8"]
    config = make_config(*same, "model.quantization=nf4")
    folder, result = train(config)
    found = result["qpa"]["test"]
    assert found["perplexity"] < found["base_perplexity"]
    _, again = evaluate(config, folder)
    assert again["test"]["perplexity"] == pytest.approx(found["perplexity"], rel=1e-4)
    exact = train(make_config(*same, f"run_dir={tmp_path}/exact"))[1]["qpa"]["test"]
    assert found["base_perplexity"] == pytest.approx(exact["base_perplexity"], rel=0.1)


@pytest.mark.gpu(2)
def test_two_cards_equal_one_with_double_batch(text_file: Path, tmp_path: Path) -> None:
    """Over NCCL."""
    fixed = [*EXACT, GPU, "mapper.width=4", "logger=none", "trainer.max_steps=6", "data.max_held_out_windows=6"]
    one, two = tmp_path / "one", tmp_path / "two"
    shared = [*command_line(text_file, tmp_path), *fixed]
    train_run(parse(composed("train", [*shared, f"run_dir={one}", "data.batch_size=4"])))
    command = [sys.executable, "train.py", *shared, f"run_dir={two}", "trainer=ddp", GPU, "trainer.max_steps=6", *EXACT]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0,1")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert losses(two / "metrics.csv") == pytest.approx(losses(one / "metrics.csv"), rel=1e-4)
    ours, whole = record.read(two)["qpa"], record.read(one)["qpa"]
    assert ours["test"]["perplexity"] == pytest.approx(whole["test"]["perplexity"], rel=1e-4)
    assert ours["bytes_per_step"] == 4 * ours["params"]["trainable"] + 24


def test_step_takes_no_more_memory_than_plain_peft() -> None:
    """SmolLM2's shape and 1,024 tokens, at most 2 % more."""
    peaks = {kind: peak_of_two_steps(f"generator={kind}") for kind in ("none", "qpa")}
    assert peaks["qpa"] <= 1.02 * peaks["none"], peaks


def peak_of_two_steps(*overrides: str) -> int:
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    config = sides.configured("model.weights=random", "data.context=512", *overrides)
    trained = sides.module(config)
    once = sides.step(config, trained, sides.batch(config, sides.reader(trained).language.vocabulary, 2))
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        once()
    return torch.cuda.max_memory_allocated() - before
