"""The rate of every step and the gradient that the optimizer sees, against the schedules and the clipping of others."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import build, folder_of, train_run
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from qpa.config import Config
from qpa.core.adaptation import DirectAdaptation
from qpa.tasks.language.windows import IGNORED
from qpa.training.optimizer import make_optimizer

MakeConfig = Callable[..., Config]
LR = 0.02


def rates(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[float]:
    """The rate of so many optimizer steps."""
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def ours(make_config: MakeConfig, steps: int, warmup: float, decay: str) -> list[float]:
    """One more than the run has steps."""
    config = make_config(f"trainer.max_steps={steps}", f"optimizer.lr={LR}", f"optimizer.warmup={warmup}", f"optimizer.decay={decay}")
    return rates(*make_optimizer(config.optimizer, DirectAdaptation({"w": torch.nn.Parameter(torch.zeros(1))}), steps=steps), steps + 1)


def some_optimizer() -> Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=LR)


@pytest.mark.parametrize(("steps", "warmup", "rising"), [(40, 0.1, 4), (7, 0.3, 2), (10, 0.99, 10), (5, 0.01, 1)])
@pytest.mark.parametrize(("decay", "reference"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)])
def test_rates_are_those_of_transformers_without_its_first_step_at_rate_zero(
    make_config: MakeConfig, steps: int, warmup: float, rising: int, decay: str, reference: Callable[..., LRScheduler]
) -> None:
    found = ours(make_config, steps, warmup, decay)
    optimizer = some_optimizer()
    theirs = rates(optimizer, reference(optimizer, num_warmup_steps=rising, num_training_steps=steps + 1), steps + 2)
    assert found == pytest.approx(theirs[1:], abs=1e-12)
    assert (found[0], max(found), found.index(max(found))) == (pytest.approx(LR / rising), LR, rising - 1)
    assert min(found[:steps]) > 0 == found[steps]  # no step is wasted, and the one after the last would be


@pytest.mark.parametrize(("decay", "reference"), [("linear", LinearLR), ("cosine", CosineAnnealingLR)])
def test_rates_without_warmup_are_those_of_torch(make_config: MakeConfig, decay: str, reference: Callable[..., LRScheduler]) -> None:
    optimizer, steps = some_optimizer(), 12
    arguments = {"linear": {"start_factor": 1, "end_factor": 0, "total_iters": steps}, "cosine": {"T_max": steps}}[decay]
    expected = rates(optimizer, reference(optimizer, **arguments), steps + 1)
    assert ours(make_config, steps, 0.0, decay) == pytest.approx(expected, abs=1e-12)


def seen_by_the_optimizer(config: Config) -> tuple[list[torch.Tensor], list[float]]:
    """Of every step of a run, all gradients that the optimizer used, in one vector, and its rate."""
    gradients, used = [], []

    def look(optimizer: Optimizer, *_: object) -> None:
        (group,) = optimizer.param_groups
        gradients.append(torch.cat([p.grad.flatten() for p in group["params"]]))
        used.append(group["lr"])

    handle = register_optimizer_step_post_hook(look)
    try:
        train_run(config)
    finally:
        handle.remove()
    return gradients, used


@pytest.mark.parametrize("overrides", [[], pytest.param(["generator=none"], marks=pytest.mark.slow)])
def test_gradient_is_clipped_where_it_is_that_of_what_is_trained_by_its_norm_over_all(
    make_config: MakeConfig, tmp_path: Path, overrides: list[str]
) -> None:
    fixed = [*overrides, "trainer.max_steps=3", "trainer.accumulate_grad_batches=2", f"optimizer.lr={LR}", "optimizer.warmup=0.7"]
    whole, used = seen_by_the_optimizer(make_config(*fixed, f"run_dir={tmp_path}/whole", "trainer.gradient_clip_val=null"))
    assert used == pytest.approx([LR / 2, LR, LR / 2])
    norm = whole[0].norm().item()
    most = norm / 10
    clipped, _ = seen_by_the_optimizer(make_config(*fixed, f"run_dir={tmp_path}/clipped", f"trainer.gradient_clip_val={most}"))
    assert [g.norm().item() for g in clipped] == pytest.approx([most] * 3, rel=1e-3)
    torch.testing.assert_close(clipped[0], whole[0] / 10, rtol=1e-3, atol=1e-9)
    untouched, _ = seen_by_the_optimizer(make_config(*fixed, f"run_dir={tmp_path}/untouched", f"trainer.gradient_clip_val={100 * norm}"))
    assert torch.equal(untouched[0], whole[0])
    first = next(csv.DictReader((tmp_path / "clipped" / "metrics.csv").read_text().splitlines()))
    assert float(first["train/gradient_norm"]) == pytest.approx(norm, rel=1e-5)  # what is logged is not clipped yet
    assert len(whole[0]) == sum(p.numel() for p in build(make_config(*fixed)).adaptation.parameters())


@pytest.fixture
def four_windows(tmp_path: Path) -> list[str]:
    """Overrides for a training text of four windows of 31 bytes and a BOS, the last of only two bytes."""
    from pydoc_data.topics import topics

    prose = next(topic for topic in topics.values() if len(topic) > 2000).encode("ascii", "ignore")
    for name, content in {"train": prose[: 3 * 31 + 2], "val": prose[500:700], "test": prose[700:900]}.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    return [*(f"data.{name}_files=[{tmp_path}/{name}.txt]" for name in ("train", "val", "test")), "model.dtype=float32"]


def one_step(config: Config) -> tuple[dict[str, torch.Tensor], float, float]:
    """What is trained after a first step, the loss that is logged, and the norm of the gradient before it is clipped."""
    train_run(config)
    (logged,) = [row for row in csv.DictReader((folder_of(config) / "metrics.csv").open()) if row["train/loss"]]
    state = torch.load(folder_of(config) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state, float(logged["train/loss"]), float(logged["train/gradient_norm"])


@pytest.mark.few(1)
@pytest.mark.parametrize("method", [["generator=none"], ["generator=qpa", "peft.target_modules=[lm_head,q_proj]"]])
def test_micro_batches_of_any_size_make_the_step_of_one_batch(
    make_config: MakeConfig, tmp_path: Path, four_windows: list[str], method: list[str]
) -> None:
    steps = ["trainer.max_steps=1", "trainer.val_every=1", *four_windows, *method]
    found = [
        one_step(make_config(f"data.batch_size={size}", f"trainer.accumulate_grad_batches={count}", f"run_dir={tmp_path}/{size}", *steps))
        for size, count in ((4, 1), (1, 4))
    ]
    whole, loss, norm = found[0]
    for state, other_loss, other_norm in found[1:]:
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other_norm == pytest.approx(norm, rel=1e-4)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, whole[name], rtol=1e-4, atol=1e-6)


def test_a_steps_loss_and_gradient_are_those_of_stock_peft_over_all_its_tokens(
    make_config: MakeConfig, tmp_path: Path, four_windows: list[str]
) -> None:
    one_by_one = ["data.batch_size=1", "trainer.accumulate_grad_batches=4"]
    config = make_config(*one_by_one, "trainer.max_steps=1", "trainer.val_every=1", "generator=none", *four_windows)
    built = build(config)
    model, rows = built.model.train(), built.plan.task.windows["train"]
    batch = {name: torch.stack([rows[place][name] for place in range(len(rows))]) for name in ("input_ids", "labels")}
    assert [int((row != IGNORED).sum()) for row in batch["labels"]] == [32, 32, 32, 3]
    loss = model(**batch).loss  # transformers' own: the mean over the batch's tokens
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    _, ours, our_norm = one_step(config)
    assert ours == pytest.approx(loss.item(), rel=1e-5)
    assert our_norm == pytest.approx(norm.item(), rel=1e-4)
