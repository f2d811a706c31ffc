"""Captured steps come to the same numbers as plain ones. Graphs need a GPU; here what was recorded is run again on the same memory."""

import csv
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build, flat, train_run
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qpa.adapters.methods import adapter_parameters, prompt_arguments
from qpa.config import Config
from qpa.core import recorded
from qpa.core.adaptation import GeneratedAdaptation
from qpa.errors import ConfigError, NonFiniteLossError
from qpa.runs import record
from qpa.runs.session import make_module
from qpa.training.capture import Captured
from qpa.training.module import FineTuning

MakeConfig = Callable[..., Config]


class Rerun:
    """Stands in for a graph: the same work again, its results in the same memory; a recording itself computes nothing."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function, self.result = function, function()
        for tensor in self.tensors(self.result):
            tensor.detach().fill_(math.nan if tensor.is_floating_point() else -1)

    def tensors(self, result: Any) -> list[Tensor]:
        return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and not isinstance(leaf, torch.nn.Parameter)]

    def __call__(self) -> Any:
        with torch.no_grad():
            anew = self.function_with_gradients()
            for old, new in zip(self.tensors(self.result), self.tensors(anew), strict=True):
                old.copy_(new)
        return self.result

    @torch.enable_grad()
    def function_with_gradients(self) -> Any:
        return self.function()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Rerun]:
    """What has been recorded."""
    made: list[Rerun] = []

    def record(*functions: Callable[[], Any]) -> list[Rerun]:
        for function in functions * recorded.WARM_UP:
            function()
        made.extend(Rerun(function) for function in functions)
        return made[-len(functions) :]

    monkeypatch.setattr(recorded, "record", record)
    monkeypatch.setattr(recorded, "possible", lambda device: True)
    return made


def trained(config: Config) -> tuple[list[float], dict[str, Tensor], dict[str, float]]:
    """Losses of all steps, the adapter, and what it reaches."""
    train_run(config)
    assert config.run_dir
    folder = Path(config.run_dir)
    losses = [float(row["train/loss"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row["train/loss"]]
    return losses, load_file(folder / "adapter" / "adapter_model.safetensors"), record.read(folder)["qpa"]["test"]


CASES = {
    "one micro-batch": [],
    "accumulation": ["trainer.accumulate_grad_batches=3"],
    "dropout": ["peft.lora_dropout=0.3", "trainer.accumulate_grad_batches=2"],
    "bf16": ["trainer.precision=bf16-mixed"],
    "recomputed activations": ["model.gradient_checkpointing=true"],
    "dora": ["peft=dora"],
    "plain PEFT": ["generator=none", "trainer.accumulate_grad_batches=2"],
    "the paper's generator": ["generator=paper"],
    "samples": ["circuit.shots=64"],
    "no clipping": ["trainer.gradient_clip_val=null"],
    "head": ["peft.target_modules=[lm_head,q_proj]"],
    "prefix": ["peft=prefix"],
}


@pytest.mark.few(2)
@pytest.mark.parametrize("case", CASES)
def test_captured_steps_come_to_the_numbers_of_plain_ones(case: str, make_config: MakeConfig, graphs: list[Rerun], tmp_path: Path) -> None:
    overrides = [*CASES[case], "optimizer.lr=0.05", "trainer.max_steps=5", "trainer.val_every=2"]
    plain = trained(make_config(*overrides, "trainer.capture=false", f"run_dir={tmp_path}/plain"))
    assert not graphs
    captured = trained(make_config(*overrides, f"run_dir={tmp_path}/captured"))
    assert len(graphs) == (1 if case in ("plain PEFT", "samples") else 3)  # the micro-batch; the generator, to and fro
    assert captured[0] == pytest.approx(plain[0], rel=1e-6)
    assert captured[0][0] != captured[0][-1]
    for name in plain[1]:
        torch.testing.assert_close(captured[1][name], plain[1][name], rtol=1e-5, atol=1e-6)
    assert flat(captured[2]) == pytest.approx(flat(plain[2]), rel=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_real_graphs_come_to_the_numbers_of_plain_steps(case: str, make_config: MakeConfig, tmp_path: Path) -> None:
    overrides = [*CASES[case], "optimizer.lr=0.02", "trainer.max_steps=5", "trainer.val_every=2", "trainer.accelerator=gpu"]
    plain = trained(make_config(*overrides, "trainer.capture=false", f"run_dir={tmp_path}/plain"))
    captured = trained(make_config(*overrides, f"run_dir={tmp_path}/captured"))
    assert captured[0] == pytest.approx(plain[0], rel=1e-5)
    assert flat(captured[2]) == pytest.approx(flat(plain[2]), rel=1e-4)


@pytest.mark.slow
def test_captured_run_stopped_and_resumed_equals_the_uninterrupted_plain_one(
    make_config: MakeConfig, graphs: list[Rerun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = ["trainer.max_steps=5", "peft.lora_dropout=0.2", "trainer.accumulate_grad_batches=2", "optimizer.lr=0.05"]
    whole = trained(make_config(*fixed, "trainer.capture=false", f"run_dir={tmp_path}/whole"))
    after_each = FineTuning.on_before_optimizer_step

    def asked(module: FineTuning, optimizer: torch.optim.Optimizer) -> None:
        after_each(module, optimizer)
        if module.global_step + 1 == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    half = [*fixed, f"run_dir={tmp_path}/half"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(FineTuning, "on_before_optimizer_step", asked)
        train_run(make_config(*half))
    assert graphs
    rest = trained(make_config(*half, "ckpt=last"))
    assert rest[0] == pytest.approx(whole[0][3:], rel=1e-6)
    for name in whole[1]:
        torch.testing.assert_close(rest[1][name], whole[1][name], rtol=1e-5, atol=1e-6)


def test_captured_step_that_is_not_finite_stops_the_run(make_config: MakeConfig, graphs: list[Rerun]) -> None:
    with pytest.raises(NonFiniteLossError, match="not finite at step"):
        train_run(make_config("optimizer.lr=1e30", "trainer.max_steps=6"))
    assert graphs


def test_batch_of_another_size_is_read_without_the_graph(make_config: MakeConfig, graphs: list[Rerun]) -> None:
    """And its gradient adds to the graph's, in the same memory."""
    reader = module_of(make_config("generator=none"))
    batches = [windows(reader, count) for count in (2, 2, 3)]

    def read(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss, count = reader.learner.loss(batch)
        loss.backward()
        return loss.detach(), count

    parameters = [p for p in reader.model.parameters() if p.requires_grad]
    captured = Captured(read, parameters, batches[0], alone=True)
    assert [captured.fits(batch) for batch in batches] == [True, True, False]
    captured.begin_step()
    captured(batches[1])
    held = [p.grad for p in parameters]
    read(batches[2])
    assert all(p.grad is gradient for p, gradient in zip(parameters, held, strict=True))
    sums = [gradient.clone() for gradient in held if gradient is not None]
    reader.zero_grad()
    for parameter in parameters:
        parameter.grad = None
    read(batches[1])
    read(batches[2])
    for parameter, expected in zip(parameters, sums, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def module_of(config: Config) -> Any:
    built = build(config)
    module = make_module(built, built.plan.task.learner(built.model, trained=True))
    module.adaptation.write()
    return module.train()


def windows(module: Any, count: int) -> dict[str, Tensor]:
    ids = torch.randint(0, module.learner.language.vocabulary, (count, 32))
    return {"input_ids": ids, "labels": ids, "index": torch.arange(count)}


WORDS = {
    "hidden states are read from disk": ["peft.target_modules=[lm_head]", "data.cache_hidden=true"],
    "dropout would have to be drawn again": ["model.gradient_checkpointing=true", "peft.lora_dropout=0.1"],
}


@pytest.mark.parametrize("words", WORDS)
def test_what_changes_from_step_to_step_is_not_captured_and_said(
    words: str, make_config: MakeConfig, graphs: list[Rerun], capsys: pytest.CaptureFixture
) -> None:
    train_run(make_config(*WORDS[words], "trainer.max_steps=2"))
    assert not graphs
    assert f"qpa: steps are not captured as CUDA graphs: {words}" in capsys.readouterr().err.replace("with gradient checkpointing, ", "")


def test_model_that_cannot_be_recorded_names_the_way_out(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded, "possible", lambda device: True)
    monkeypatch.setattr(recorded, "record", refuse)
    with pytest.raises(ConfigError, match=r"trainer.capture=True: a step cannot be recorded \(.*not permitted.*\); set it to false"):
        train_run(make_config())


class Reads(TorchDispatchMode):
    """Counts how often a number is read from a tensor, for which a GPU would have to be waited for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("captured", [True, False])
def test_steps_that_are_not_logged_read_no_number(
    captured: bool, make_config: MakeConfig, graphs: list[Rerun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the whole loop: Lightning, loggers, callbacks, clock and optimizer."""
    rare = [f"trainer.{key}=100" for key in ("log_every_n_steps", "val_every", "checkpoint_every", "max_steps")]
    counts: list[int] = []
    begin = FineTuning.on_train_batch_start

    def beginning(module: FineTuning, batch: Any, batch_idx: int) -> None:
        begin(module, batch, batch_idx)
        counts.append(reads.count)
        if batch_idx == 20:  # Lightning ends the run before its next step
            module.trainer.fit_loop.epoch_loop.max_steps = 21

    monkeypatch.setattr(FineTuning, "on_train_batch_start", beginning)
    sgd = ["optimizer._target_=torch.optim.SGD"]  # Adam counts its steps on the CPU, unless it is fused
    with Reads() as reads:
        train_run(make_config(*rare, *sgd, f"trainer.capture={captured}"))
    assert len(set(counts[:9])) == len(set(counts[10:19])) == 1, counts  # between them a line is printed
    assert reads.count > counts[-1]  # the last step is looked at


KINDS = ["smollm2", "gpt2", "gemma", "gemma2", "gemma3_270m"]
METHODS = ["peft=lora", "peft=adapter", "peft=prompt", "peft=vera", "peft=unilora", "peft.target_modules=[lm_head]"]


@pytest.mark.parametrize(("model", "method"), [*((kind, "peft=lora") for kind in KINDS), *(("smollm2", method) for method in METHODS[1:])])
def test_step_never_waits_for_the_device(model: str, method: str, make_config: MakeConfig) -> None:
    """On the meta device there is nothing to wait for: reading a number from it, or mixing it with the CPU, is an error."""
    module = module_of(make_config(method, "data.cache_hidden=false", model=model))
    batch = windows(module, 2)
    module.to("meta")
    leaves, there = module.adaptation.leaves, adapter_parameters(module.model)
    leaves.parameters = [there[slot.tensor.name] for slot in leaves.slots]
    loss, count = module.learner.loss({name: tensor.to("meta") for name, tensor in batch.items()})
    (loss / count).backward()
    flat = module.adaptation.generator()
    leaves.write(flat.detach())
    flat.backward(leaves.gradient())


def test_no_gradient_of_the_generator_is_added_up_where_it_was_before_the_recording(
    make_config: MakeConfig, graphs: list[Rerun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch adds gradients up on the stream that a parameter's node was made on, while any graph holds it: a recording breaks there."""
    adaptation = build(make_config()).adaptation
    assert isinstance(adaptation, GeneratedAdaptation)
    trained = next(iter(adaptation.parameters()))
    for leaf in adaptation.leaves.parameters:
        leaf.grad = torch.ones_like(leaf)

    def node() -> Any:
        return trained.view_as(trained).grad_fn.next_functions[0][0]  # pyright: ignore[reportOptionalMemberAccess]

    adaptation.write()
    node().metadata["made"] = "before"
    adaptation.record()
    assert "made" not in node().metadata


def test_modules_that_python_leaves_out_at_random_are_not_captured(
    make_config: MakeConfig, graphs: list[Rerun], capsys: pytest.CaptureFixture[str]
) -> None:
    train_run(make_config("peft=lokr", "+peft.module_dropout=0.5", "trainer.max_steps=2"))
    assert not graphs
    assert "left out at random" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_soft_prompts_are_read_where_the_model_is(method: str, make_config: MakeConfig) -> None:
    """Copied there in each step they would be waited for, which cannot be recorded."""
    model = build(make_config(f"peft={method}")).model.to("meta")
    for _ in range(2):
        prompt_arguments(model, torch.zeros(1, 4, dtype=torch.int64, device="meta"))
    assert {tokens.device.type for tokens in model.prompt_tokens.values()} == {"meta"}  # pyright: ignore
