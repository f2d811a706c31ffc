"""A loop in plain torch: its steps equal steps written out by hand, and its habits and traps do no harm."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny import ByHand, adapted, base, logits, loss, moved, reloaded, weights, windows
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

import qpa
from qpa.errors import UserError

STEPS = windows(24).view(6, 4, 32)
Drop = Callable[[PeftModel, Optimizer], Any]


def pair(**settings: Any) -> tuple[qpa.Generated, qpa.Generated]:
    """Twice the same, away from the start."""
    first, second = (moved(qpa.generate(adapted(), seed=1, **settings)) for _ in range(2))
    return first, second


def train(generated: qpa.Generated, optimizer: Optimizer, batches: Tensor = STEPS) -> list[float]:
    losses = []
    for batch in batches:
        found = loss(generated.module, batch)
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(found.item())
    return losses


@pytest.mark.parametrize("settings", [{}, {"mapper": "codes"}, {"generator": "paper", "mapper": "paper"}, {"latents": "mlp"}])
def test_steps_equal_those_written_out(settings: dict[str, str]) -> None:
    ours, theirs = pair(**settings)
    train(ours, ours.optimizer(AdamW, lr=1e-2))
    by_hand = ByHand(theirs, lr=1e-2)
    for batch in STEPS:
        by_hand.loss(batch).backward()
        by_hand.optimizer.step()
        by_hand.optimizer.zero_grad()
    torch.testing.assert_close(weights(ours), by_hand.weights(), rtol=1e-3, atol=1e-4)


def test_two_micro_batches_are_one_batch() -> None:
    ours, theirs = pair()
    whole, halves = (generated.optimizer(AdamW, lr=1e-2) for generated in (ours, theirs))
    train(ours, whole)
    for batch in STEPS:
        for half in batch.chunk(2):
            (loss(theirs.module, half) / 2).backward()
        halves.step()
        halves.zero_grad()
    torch.testing.assert_close(weights(theirs), weights(ours), rtol=1e-3, atol=1e-4)


def test_max_norm_clips_the_gradient_of_what_is_trained() -> None:
    ours, theirs = pair()
    optimizer, by_hand = ours.optimizer(SGD, lr=1e4, max_norm=1e-5), ByHand(theirs, SGD, lr=1e4)
    before = [p.detach().clone() for p in ours.parameters()]
    train(ours, optimizer, STEPS[:1])
    by_hand.loss(STEPS[0]).backward()
    assert nn.utils.clip_grad_norm_(theirs.generator.parameters(), 1e-5) > 1e-4
    by_hand.optimizer.step()
    change = nn.utils.get_total_norm([p.detach() - old for p, old in zip(ours.parameters(), before, strict=True)])
    torch.testing.assert_close(change, torch.tensor(0.1), rtol=1e-3, atol=0)
    torch.testing.assert_close(weights(ours), by_hand.weights(), rtol=1e-3, atol=1e-4)


def test_clipping_the_models_gradient_scales_that_of_the_generator() -> None:
    ours, theirs = pair()
    optimizer, by_hand = ours.optimizer(SGD, lr=1e3), ByHand(theirs, SGD, lr=1e3)
    loss(ours.module, STEPS[0]).backward()
    norm = nn.utils.clip_grad_norm_(ours.module.parameters(), 0.01)
    optimizer.step()
    assert norm > 0.02
    (by_hand.loss(STEPS[0]) * 0.01 / norm).backward()
    by_hand.optimizer.step()
    torch.testing.assert_close(weights(ours), by_hand.weights(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: OneCycleLR(optimizer, max_lr=3e-2, total_steps=8),  # changes momentum as well
        lambda optimizer: CosineAnnealingLR(optimizer, T_max=6),
        lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=0.9),
    ],
    ids=["one cycle", "cosine", "plateau"],
)
def test_schedulers_change_its_rate_as_that_of_any_optimizer(schedule: Callable[[Optimizer], Any]) -> None:
    ours, theirs = pair()
    optimizer, by_hand = ours.optimizer(AdamW, lr=1e-2), ByHand(theirs, lr=1e-2)
    scheduler, other = schedule(optimizer), schedule(by_hand.optimizer)
    rates = []
    for batch in STEPS:
        for loop, found in ((scheduler, loss(ours.module, batch)), (other, by_hand.loss(batch))):
            found.backward()
            loop.optimizer.step()
            loop.optimizer.zero_grad()
            loop.step(*([1.0] if isinstance(loop, ReduceLROnPlateau) else []))
        rates.append((optimizer.param_groups[0]["lr"], by_hand.optimizer.param_groups[0]["lr"]))
    assert all(rate == expected for rate, expected in rates)
    assert len(set(rates)) > 2
    torch.testing.assert_close(weights(ours), by_hand.weights(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_asks_for_the_loss_several_times_in_one_step(search: str | None) -> None:
    ours, theirs = pair()
    settings = {"lr": 0.1, "max_iter": 4, "line_search_fn": search}
    optimizer, by_hand = ours.optimizer(torch.optim.LBFGS, **settings), ByHand(theirs, torch.optim.LBFGS, **settings)
    found: list[list[float]] = [[], []]

    def closure(loss: Callable[[], Tensor], optimizer: Optimizer, losses: list[float]) -> Callable[[], Tensor]:
        def evaluated() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            losses.append(value.item())
            return value

        return evaluated

    optimizer.step(closure(lambda: loss(ours.module, STEPS[0]), optimizer, found[0]))
    by_hand.optimizer.step(closure(lambda: by_hand.loss(STEPS[0]), by_hand.optimizer, found[1]))
    assert len(found[0]) > 3
    assert found[0][-1] < found[0][0]
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weights(ours), by_hand.weights(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "drop",
    [
        lambda model, optimizer: model.zero_grad(),
        lambda model, optimizer: model.zero_grad(set_to_none=False),
        lambda model, optimizer: optimizer.zero_grad(set_to_none=False),
        lambda model, optimizer: [setattr(p, "grad", None) for p in model.parameters()],
    ],
    ids=["the model's own", "the model's own, to zero", "to zero", "by hand"],
)
def test_it_does_not_matter_how_gradients_are_dropped(drop: Drop) -> None:
    ours, theirs = pair()
    train(theirs, theirs.optimizer(AdamW, lr=1e-2))
    optimizer = ours.optimizer(AdamW, lr=1e-2)
    for batch in STEPS:
        loss(ours.module, batch).backward()
        optimizer.step()
        drop(ours.module, optimizer)
    assert all(map(torch.equal, weights(ours), weights(theirs)))


def test_gradients_that_are_not_dropped_add_up_as_they_do_elsewhere() -> None:
    ours, theirs = pair()
    optimizer, by_hand = ours.optimizer(SGD, lr=0.1), ByHand(theirs, SGD, lr=0.1)
    for batch in STEPS[:2]:
        loss(ours.module, batch).backward()
        optimizer.step()
    gradient = None
    for batch in STEPS[:2]:  # of the weights: the sum over steps, taken through the generator as it is now
        tensors = by_hand.tensors()
        leaves = [tensor.detach().requires_grad_() for tensor in tensors.values()]
        found = torch.func.functional_call(
            theirs.module, dict(zip(tensors, leaves, strict=True)), kwargs={"input_ids": batch, "labels": batch}
        )
        new = torch.autograd.grad(found.loss, leaves)
        gradient = new if gradient is None else [a + b for a, b in zip(gradient, new, strict=True)]
        by_hand.optimizer.zero_grad()
        torch.autograd.backward(list(tensors.values()), gradient)
        by_hand.optimizer.step()
    torch.testing.assert_close(weights(ours), by_hand.weights(), rtol=1e-3, atol=1e-4)


def test_state_is_read_by_torchs_safe_loading_and_training_goes_on_from_it_bit_for_bit(tmp_path: Path) -> None:
    whole = qpa.generate(adapted(), seed=1)
    train(whole, whole.optimizer(AdamW, lr=1e-2))

    first = qpa.generate(adapted(), seed=1)
    optimizer = first.optimizer(AdamW, lr=1e-2)
    train(first, optimizer, STEPS[:3])
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")

    second = qpa.generate(adapted(seed=9), seed=1)  # another adapter in memory
    resumed = second.optimizer(AdamW, lr=1e-2)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    assert all(map(torch.equal, weights(second), weights(first)))
    train(second, resumed, STEPS[3:])
    assert all(map(torch.equal, weights(second), weights(whole)))


def test_model_moved_to_bf16_holds_the_generators_weights_rounded_and_trains_on() -> None:
    generated = qpa.generate(adapted(), seed=1)
    optimizer = generated.optimizer(AdamW, lr=1e-2)
    train(generated, optimizer, STEPS[:1])
    generated.module.to(torch.bfloat16)
    losses = train(generated, optimizer, STEPS[:1].expand(20, -1, -1))
    assert losses[-1] < losses[0] - 0.05
    assert all(p.dtype == torch.float32 for p in generated.parameters())
    expected = [weight.bfloat16() for weight in ByHand(generated).weights()]
    assert all(map(torch.equal, weights(generated), expected))


@pytest.mark.gpu
def test_model_moved_to_another_device_takes_generator_and_state_along() -> None:
    here, there = pair()
    losses = train(here, here.optimizer(AdamW, lr=1e-2))
    optimizer = there.optimizer(AdamW, lr=1e-2)
    found = train(there, optimizer, STEPS[:2])
    there.module.to("cuda")
    found += train(there, optimizer, STEPS[2:].cuda())
    assert found == pytest.approx(losses, rel=1e-3)
    assert {p.device.type for p in there.parameters()} == {"cuda"}


def test_a_copy_of_the_model_is_a_plain_one() -> None:
    generated = qpa.generate(adapted(), seed=1)
    optimizer = generated.optimizer(AdamW, lr=1e-2)
    losses = train(generated, optimizer)
    copied = copy.deepcopy(generated.module)
    before = logits(copied)
    assert torch.equal(before, logits(generated.module))
    generated.module.train()
    assert train(generated, optimizer)[-1] < losses[-1]
    assert torch.equal(logits(copied), before)
    loss(copied, STEPS[0]).backward()
    with pytest.raises(UserError, match="not of a copy"):
        optimizer.step()


def test_part_is_generated_and_the_rest_trained_plainly_by_one_optimizer(tmp_path: Path) -> None:
    """A network whose body is generated, and whose head is not: both are as they are by hand."""

    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh()), nn.Linear(16, 1))

    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    wanted = inputs.prod(1, keepdim=True).tanh()
    (body, head), (_, other_head) = ours, theirs = network(), network()
    generated, other = (moved(qpa.generate(n, parameters=n[0].parameters(), seed=1, mapper={"width": 4})) for n in (ours, theirs))
    assert generated.counts.plain_peft == sum(p.numel() for p in body.parameters())

    optimizer = generated.optimizer(AdamW, lr=1e-2)
    optimizer.add_param_group({"params": head.parameters(), "lr": 3e-2})
    by_hand = ByHand(other, lr=1e-2)
    by_hand.optimizer.add_param_group({"params": other_head.parameters(), "lr": 3e-2})
    losses = []
    for _ in range(20):
        found = nn.functional.mse_loss(ours(inputs), wanted)
        expected = nn.functional.mse_loss(torch.func.functional_call(theirs, by_hand.tensors(), (inputs,)), wanted)
        losses.append(found.item())
        for value, each in ((found, optimizer), (expected, by_hand.optimizer)):
            value.backward()
            each.step()
            each.zero_grad()
    assert losses[-1] < losses[0]
    assert not torch.equal(head.weight, network()[1].weight)
    torch.testing.assert_close(weights(generated), by_hand.weights(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(head.state_dict(), other_head.state_dict(), rtol=1e-3, atol=1e-4)

    torch.save(ours.state_dict(), tmp_path / "network.pt")
    again = network()
    again.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))
    assert torch.equal(again(inputs), ours(inputs))


def test_two_generators_of_one_module_each_with_an_optimizer_of_its_own() -> None:
    def halves() -> tuple[nn.Module, list[qpa.Generated]]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        return network, [moved(qpa.generate(network, parameters=network[i].parameters(), seed=i)) for i in (0, 2)]

    inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    (network, ours), (other, theirs) = halves(), halves()
    optimizers = [ours[0].optimizer(AdamW, lr=1e-2), ours[1].optimizer(SGD, lr=1e-1)]
    by_hand = [ByHand(theirs[0], AdamW, lr=1e-2), ByHand(theirs[1], SGD, lr=1e-1)]
    for i in range(6):
        network(inputs).square().mean().backward()
        torch.func.functional_call(other, by_hand[0].tensors() | by_hand[1].tensors(), (inputs,)).square().mean().backward()
        for each in (optimizers[i % 2], by_hand[i % 2].optimizer):  # in turn, as adversaries
            each.step()
        for each in (*optimizers, *(hand.optimizer for hand in by_hand)):
            each.zero_grad()
    for found, hand in zip(ours, by_hand, strict=True):
        torch.testing.assert_close(weights(found), hand.weights(), rtol=1e-3, atol=1e-4)


def test_saved_adapter_is_a_plain_one(tmp_path: Path) -> None:
    generated = qpa.generate(adapted(), seed=1)
    losses = train(generated, generated.optimizer(AdamW, lr=1e-2), STEPS[:1].expand(20, -1, -1))
    assert losses[-1] < losses[0] - 0.1
    generated.module.save_pretrained(tmp_path)
    assert torch.equal(logits(reloaded(tmp_path)), logits(generated.module))
    assert not torch.equal(logits(base()), logits(generated.module))


@pytest.mark.parametrize("unscale", [False, True])
def test_a_grad_scaler_is_refused_in_one_line(unscale: bool) -> None:
    generated = qpa.generate(adapted(), seed=1)
    optimizer = generated.optimizer(AdamW, lr=1e-2)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss(generated.module, STEPS[0])).backward()
    if unscale:
        scaler.unscale_(optimizer)
    with pytest.raises(UserError, match=r"GradScaler.*bf16") as refused:
        scaler.step(optimizer)
    assert "\n" not in str(refused.value)


def test_a_grad_scaler_knows_gradients_that_are_collected_first_and_skips_a_step_that_is_infinite() -> None:
    ours, theirs = pair()
    optimizer, scaler = ours.optimizer(SGD, lr=5.0), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for batch in STEPS:
        for factor in (float("inf"), 1.0):
            scaler.scale(factor * loss(ours.module, batch)).backward()
            ours.collect()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert scaler.get_scale() == 2.0**4
    train(theirs, theirs.optimizer(SGD, lr=5.0))
    assert all(map(torch.equal, weights(ours), weights(theirs)))  # powers of two: no rounding


def test_a_gradient_that_was_collected_and_then_dropped_is_not_stepped_along() -> None:
    ours, theirs = pair()
    optimizer, other = ours.optimizer(SGD, lr=5.0), theirs.optimizer(SGD, lr=5.0)
    loss(ours.module, STEPS[1]).backward()
    ours.collect()
    ours.module.zero_grad()
    for generated, each in ((ours, optimizer), (theirs, other)):
        loss(generated.module, STEPS[0]).backward()
        each.step()
    assert all(map(torch.equal, weights(ours), weights(theirs)))


def test_collecting_twice_is_once() -> None:
    generated, _ = pair()
    calls = []
    generated.generator.register_forward_hook(lambda *_: calls.append(1))
    loss(generated.module, STEPS[0]).backward()
    generated.collect()
    with torch.no_grad():
        for parameter in generated.parameters():
            parameter.grad.mul_(2)  # as a clipping would
    kept = [parameter.grad.clone() for parameter in generated.parameters()]
    generated.collect()
    assert all(torch.equal(p.grad, k) for p, k in zip(generated.parameters(), kept, strict=True))
    assert calls == []


def test_step_without_backward_is_refused() -> None:
    generated = qpa.generate(adapted(), seed=1)
    with pytest.raises(UserError, match="backward"):
        generated.optimizer(AdamW, lr=1e-2).step()


def test_state_of_a_stock_optimizer_is_refused() -> None:
    generated = qpa.generate(adapted(), seed=1)
    stock = AdamW(generated.parameters(), lr=1e-2)
    with pytest.raises(UserError, match="generator"):
        generated.optimizer(AdamW, lr=1e-2).load_state_dict(stock.state_dict())


class Holder(nn.Module):
    """A module that has what is generated among its own, as a LightningModule may."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generated = qpa.generate(adapted(seed), seed=1)
        self.model = self.generated.module

    def train_on(self, batches: Tensor = STEPS) -> list[float]:
        return train(self.generated, self.generated.optimizer(AdamW, lr=1e-2), batches)


def test_copy_of_a_module_around_trains_by_itself() -> None:
    held, alone = Holder(), Holder()
    held.train_on(STEPS[:3])
    before = weights(held.generated)
    copied = copy.deepcopy(held)
    copied.train_on(STEPS[3:])
    assert all(map(torch.equal, weights(held.generated), before))
    alone.train_on(STEPS[:3])
    alone.train_on(STEPS[3:])
    assert all(map(torch.equal, weights(copied.generated), weights(alone.generated)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_generator_stays_in_fp32_when_a_module_around_is_cast(dtype: torch.dtype) -> None:
    held = Holder()
    before = [p.detach().clone() for p in held.generated.parameters()]
    held.to(dtype)
    assert {p.dtype for p in held.model.parameters()} == {dtype}
    assert all(map(torch.equal, held.generated.parameters(), before))
    held.train_on()


def test_state_that_is_loaded_with_a_module_around_is_trained_on() -> None:
    whole, held, other = Holder(), Holder(), Holder(seed=9)
    held.train_on(STEPS[:3])
    other.load_state_dict(held.state_dict())
    assert all(map(torch.equal, weights(other.generated), weights(held.generated)))
    other.train_on(STEPS[3:])
    whole.train_on(STEPS[:3])
    whole.train_on(STEPS[3:])
    assert all(map(torch.equal, weights(other.generated), weights(whole.generated)))


@pytest.mark.parametrize("wrong", ["weights that are generated", "another generator's"])
def test_parameter_group_that_could_not_be_trained_is_refused(wrong: str) -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    first, second = (qpa.generate(network, parameters=network[i].parameters(), seed=1) for i in (0, 2))
    optimizer = first.optimizer(AdamW, lr=1e-2)
    with pytest.raises(UserError, match="add_param_group"):
        optimizer.add_param_group({"params": network[0].parameters() if wrong == "weights that are generated" else second.parameters()})


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}),
        lambda model: [p.clamp_(max=-0.01) for p in model.parameters() if p.requires_grad],
    ],
    ids=["load_state_dict", "by hand"],
)
def test_weights_that_something_else_has_put_into_the_model_are_not_undone_in_silence(change: Callable[[PeftModel], Any]) -> None:
    generated = moved(qpa.generate(adapted(), seed=1))
    optimizer = generated.optimizer(AdamW, lr=1e-2)
    with torch.no_grad():
        change(generated.module)
    loss(generated.module, STEPS[0]).backward()
    with pytest.raises(UserError, match="a step would undo it"):
        optimizer.step()


def test_saving_in_between_gives_the_model_the_files_weights_and_training_goes_on(tmp_path: Path) -> None:
    generated, _ = pair()
    optimizer = generated.optimizer(AdamW, lr=1e-2)
    train(generated, optimizer, STEPS[:2])
    before = logits(generated.module)
    generated.save(tmp_path / "compact")
    torch.testing.assert_close(logits(generated.module), before, rtol=0, atol=1e-5)
    assert torch.equal(logits(qpa.load(base(), tmp_path / "compact")), logits(generated.module))
    generated.module.train()
    train(generated, optimizer, STEPS[2:])


def test_weights_that_are_loaded_as_they_are_do_no_harm() -> None:
    ours, theirs = pair()
    ours.module.load_state_dict(copy.deepcopy(ours.module.state_dict()))
    for generated in (ours, theirs):
        train(generated, generated.optimizer(AdamW, lr=1e-2))
    assert all(map(torch.equal, weights(ours), weights(theirs)))


def test_numbers_of_the_generator_that_something_else_has_changed_are_written_first() -> None:
    generated, other = pair()
    optimizer = generated.optimizer(SGD, lr=5.0)
    with torch.no_grad():
        for parameter in generated.parameters():
            parameter.mul_(0.5)
    loss(generated.module, STEPS[0]).backward()
    with pytest.raises(UserError, match=r"generated\.write\(\)"):
        optimizer.step()
    optimizer.zero_grad()
    generated.write()
    train(generated, optimizer, STEPS[:1])
    other.load_state_dict({name: t * 0.5 if t.is_floating_point() and "start" not in name else t for name, t in other.state_dict().items()})
    train(other, other.optimizer(SGD, lr=5.0), STEPS[:1])
    assert all(map(torch.equal, weights(generated), weights(other)))


def test_weights_that_are_frozen_afterwards_are_named() -> None:
    generated, _ = pair()
    optimizer = generated.optimizer(AdamW, lr=1e-2)
    name, parameter = next((name, p) for name, p in generated.module.named_parameters() if p.requires_grad)
    parameter.requires_grad_(False)
    loss(generated.module, STEPS[0]).backward()
    with pytest.raises(UserError, match=f"{name} was frozen"):
        optimizer.step()


def test_parts_of_the_generator_are_frozen_and_trained_again_at_once() -> None:
    generated, _ = pair()
    optimizer = generated.optimizer(AdamW, lr=1e-2)
    everything = generated.counts.trainable
    angles = generated.generator.latents.angles
    kept = angles.detach().clone()
    angles.requires_grad_(False)
    train(generated, optimizer, STEPS[:2])
    assert torch.equal(angles, kept)
    assert generated.counts.trainable == everything - angles.numel()
    angles.requires_grad_(True)
    train(generated, optimizer, STEPS[2:3])
    assert not torch.equal(angles, kept)


@pytest.mark.parametrize("way", [lambda generated: generated.zero_grad(), lambda generated: generated.zero_grad(set_to_none=False)])
def test_gradients_are_dropped_by_the_generated_too(way: Callable[[qpa.Generated], None]) -> None:
    ours, theirs = pair()
    train(theirs, theirs.optimizer(AdamW, lr=1e-2))
    optimizer = ours.optimizer(AdamW, lr=1e-2)
    for batch in STEPS:
        loss(ours.module, batch).backward()
        optimizer.step()
        way(ours)
    assert all(map(torch.equal, weights(ours), weights(theirs)))


def test_hooks_around_a_step_find_the_generators_gradient_and_what_they_change_is_written() -> None:
    ours, theirs = pair()
    clipped, other = ours.optimizer(SGD, lr=1e3), theirs.optimizer(SGD, lr=1e3, max_norm=1e-4)
    calls: list[str] = []

    def before(optimizer: Optimizer, *_: Any) -> None:
        calls.append("before")
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1e-4)

    def after(optimizer: Optimizer, *_: Any) -> None:
        calls.append("after")
        with torch.no_grad():
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.clamp_(-0.1, 0.1)

    clipped.register_step_pre_hook(before)
    train(ours, clipped, STEPS[:2])
    train(theirs, other, STEPS[:2])
    assert calls == ["before", "before"]
    assert all(map(torch.equal, weights(ours), weights(theirs)))
    clipped.register_step_post_hook(after)
    train(ours, clipped, STEPS[2:3])
    assert all(p.abs().max() <= 0.1 for p in ours.parameters())
    expected = [tensor.detach() for tensor in ByHand(ours).weights()]
    assert all(map(torch.equal, weights(ours), expected))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copied", "pickled"])
def test_optimizer_and_what_it_trains_are_copied_together(again: Callable[[Any], Any]) -> None:
    ours, _ = pair()
    optimizer = ours.optimizer(AdamW, lr=1e-2)
    train(ours, optimizer, STEPS[:2])
    found, other = again((ours, optimizer))
    train(ours, optimizer, STEPS[2:])
    train(found, other, STEPS[2:])
    assert found is not ours
    assert all(map(torch.equal, weights(found), weights(ours)))


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("adamw", {}, "no kind of optimizer"),
        (Optimizer, {}, "no kind of optimizer"),
        (nn.Linear, {}, "no kind of optimizer"),
        (AdamW, {"lr": -1.0}, "AdamW refuses its arguments: .*-1.0"),
        (AdamW, {"lrr": 1.0}, "AdamW refuses its arguments: .*lrr"),
        *((AdamW, {"max_norm": value}, "max_norm") for value in (0, -1.0, float("nan"), "1")),
    ],
)
def test_optimizers_that_cannot_be_are_refused_in_one_line(kind: Any, settings: dict[str, Any], words: str) -> None:
    generated = qpa.generate(adapted(), seed=1)
    with pytest.raises(UserError, match=words) as refused:
        generated.optimizer(kind, **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("state", [None, {}, {"state": {}, "param_groups": []}])
def test_states_that_are_none_of_its_own_are_refused_in_one_line(state: Any) -> None:
    generated = qpa.generate(adapted(), seed=1)
    with pytest.raises(UserError, match="generator"):
        generated.optimizer(AdamW, lr=1e-2).load_state_dict(state)
    sgd = generated.optimizer(SGD, lr=1e-2).state_dict()
    with pytest.raises(UserError, match="another kind of optimizer: it has no betas"):
        generated.optimizer(AdamW, lr=1e-2).load_state_dict(sgd)
    with pytest.raises(UserError, match="another generator"):
        generated.load_state_dict({})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_generators_are_in_fp32_whatever_torchs_default_is(dtype: torch.dtype) -> None:
    model, default = adapted(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        generated = qpa.generate(model, seed=1)
        train(generated, generated.optimizer(AdamW, lr=1e-2), STEPS[:2])
    finally:
        torch.set_default_dtype(default)
    assert {p.dtype for p in generated.parameters()} == {torch.float32}


def test_sparse_gradients_are_as_dense_ones() -> None:
    def network(sparse: bool) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(20, 8, sparse=sparse), nn.Linear(8, 1))

    ours, theirs = (moved(qpa.generate(network(sparse), seed=1, mapper={"width": 4})) for sparse in (True, False))
    for generated in (ours, theirs):
        optimizer = generated.optimizer(AdamW, lr=1e-2)
        for ids in (torch.tensor([1, 2, 3]), torch.tensor([3, 4])):
            generated.module(ids).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(weights(ours), weights(theirs))
