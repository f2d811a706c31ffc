"""Leaves and one vector-Jacobian product against plain differentiable injection; step 0 against the base model."""

from collections.abc import Callable

import pytest
import torch
from conftest import build
from torch.func import functional_call

from qpa.core.adaptation import GeneratedAdaptation, Leaves
from qpa.core.generator import view
from qpa.runs.parts import Parts
from qpa.tasks.language.loss import next_token_nll

MakeConfig = Callable[..., object]
BATCH = torch.randint(0, 256, (3, 2, 32), generator=torch.Generator().manual_seed(0))


def moved(built: Parts) -> Parts:
    """Away from the start, where the shared rows are zero and most gradients with them."""
    torch.manual_seed(5)
    for parameter in built.adaptation.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return built


def loss(built: Parts, ids: torch.Tensor) -> torch.Tensor:
    return next_token_nll(lambda logits: logits, built.model(input_ids=ids).logits, ids, vocabulary=300)[0]


def gradients_by_leaves(built: Parts, batches: torch.Tensor) -> dict[str, torch.Tensor]:
    built.adaptation.write()
    built.model.zero_grad()
    for ids in batches:
        loss(built, ids).backward()
    built.adaptation.collect()
    return {name: p.grad.clone() for name, p in built.adaptation.named_parameters()}


def gradients_by_injection(built: Parts, batches: torch.Tensor) -> dict[str, torch.Tensor]:
    adaptation = built.adaptation
    assert isinstance(adaptation, GeneratedAdaptation)
    adaptation.zero_grad()
    flat = adaptation.generator()
    weights = {slot.tensor.name: view(flat, slot) for slot in built.plan.layout.slots}
    for ids in batches:
        logits = functional_call(built.model, weights, kwargs={"input_ids": ids}).logits
        next_token_nll(lambda logits: logits, logits, ids, vocabulary=300)[0].backward(retain_graph=True)
    return {name: p.grad.clone() for name, p in adaptation.named_parameters()}


@pytest.mark.parametrize(
    "overrides", [[], ["peft=dora"], ["peft.target_modules=[lm_head]"], ["mapper=paper"], ["generator.circuits=shared"]]
)
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_gradients_equal_those_of_differentiable_injection(make_config: MakeConfig, overrides: list[str], micro_batches: int) -> None:
    built = moved(build(make_config(*overrides)))
    found = gradients_by_leaves(built, BATCH[:micro_batches])
    expected = gradients_by_injection(built, BATCH[:micro_batches])
    assert max(g.abs().max() for g in expected.values()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_gradients_are_the_same_with_gradient_checkpointing_and_recompute_happens(make_config: MakeConfig) -> None:
    found, calls = {}, {}
    for checkpointing in (False, True):
        built = moved(build(make_config(f"model.gradient_checkpointing={checkpointing}")))
        built.plan.task.prepare()
        built.plan.task.learner(built.model, trained=True)  # which switches it on
        count = [0]
        first = built.model.get_base_model().model.layers[0].self_attn.q_proj
        first.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        found[checkpointing] = gradients_by_leaves(built, BATCH[:1])
        calls[checkpointing] = count[0]
    assert calls == {False: 1, True: 2}
    torch.testing.assert_close(found[True], found[False])


def test_generator_runs_once_per_step_whatever_the_accumulation(make_config: MakeConfig) -> None:
    built = build(make_config())
    calls = []
    built.adaptation.generator.register_forward_hook(lambda *_: calls.append(1))
    gradients_by_leaves(built, BATCH)
    gradients_by_leaves(built, BATCH)
    assert len(calls) == 2


def test_generated_weights_are_the_modules_own_ordinary_parameters(make_config: MakeConfig) -> None:
    built = build(make_config())
    before = {name: (p, p.data_ptr(), p.stride()) for name, p in built.model.named_parameters()}
    moved(built).adaptation.write()
    assert before == {name: (p, p.data_ptr(), p.stride()) for name, p in built.model.named_parameters()}
    flat = built.adaptation.generator().detach()
    for slot in built.plan.layout.slots:
        parameter = built.model.get_parameter(slot.tensor.name)
        assert parameter.is_contiguous()
        torch.testing.assert_close(parameter.detach(), view(flat, slot), rtol=0, atol=0)


def test_bf16_leaves_hold_rounded_weights_and_their_gradient_trains_the_generator_in_fp32(make_config: MakeConfig) -> None:
    built = moved(build(make_config()))
    layout, generator = built.plan.layout, built.adaptation.generator
    shapes = {slot.tensor.name: slot.tensor.shape for slot in layout.slots}
    parameters = {name: torch.nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16)) for name, shape in shapes.items()}
    half = GeneratedAdaptation(generator, Leaves(layout, parameters))
    half.write()
    gradient = torch.randn(layout.size).bfloat16()
    for slot in layout.slots:
        assert torch.equal(parameters[slot.tensor.name].detach(), view(generator().detach(), slot).bfloat16())
        parameters[slot.tensor.name].grad = view(gradient, slot).clone()
    half.collect()
    found = [p.grad.clone() for p in generator.parameters()]
    generator.zero_grad()
    generator().backward(gradient.float())
    torch.testing.assert_close(found, [p.grad for p in generator.parameters()])
    assert all(p.dtype == torch.float32 for p in generator.parameters())


def test_a_gradient_that_was_dropped_or_replaced_is_read_where_it_lies(make_config: MakeConfig) -> None:
    built = moved(build(make_config()))
    expected = gradients_by_leaves(built, BATCH[:1])
    built.model.zero_grad()  # sets every .grad to None
    built.adaptation.write()
    loss(built, BATCH[0]).backward()
    for parameter in built.adaptation.leaves.parameters:
        parameter.grad = parameter.grad.clone()
    built.adaptation.collect()
    torch.testing.assert_close({name: p.grad for name, p in built.adaptation.named_parameters()}, expected, rtol=0, atol=0)


def test_without_a_gradient_on_the_weights_the_generator_has_none(make_config: MakeConfig) -> None:
    built = build(make_config())
    gradients_by_leaves(built, BATCH[:1])
    built.model.zero_grad()
    built.adaptation.collect()
    assert all(p.grad is None for p in built.adaptation.parameters())


@pytest.mark.parametrize("model", ["smollm2", "gpt2", "gemma2", "gemma3_270m"])
@pytest.mark.parametrize("overrides", [["peft=lora"], ["peft=dora"], ["peft=dora", "peft.target_modules=[lm_head]"]])
def test_step_zero_equals_base_model_exactly(make_config: MakeConfig, model: str, overrides: list[str]) -> None:
    built = build(make_config(*overrides, model=model))
    built.adaptation.write()
    built.model.eval()
    with torch.no_grad():
        adapted = built.model(input_ids=BATCH[0]).logits
        with built.model.disable_adapter():
            base = built.model(input_ids=BATCH[0]).logits
    assert torch.equal(adapted, base)


@pytest.mark.parametrize("generator", ["qpa", "none"])
def test_only_the_adaptation_is_trained(make_config: MakeConfig, generator: str) -> None:
    built = build(make_config(f"generator={generator}"))
    trained = sum(p.numel() for p in built.adaptation.parameters())
    assert trained == built.plan.counts.trainable
    if generator == "none":
        assert built.plan.counts.ratio == 1
    else:
        owned = {id(p) for p in built.adaptation.parameters()}
        assert owned.isdisjoint(id(p) for p in built.model.parameters())
