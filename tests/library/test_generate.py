"""Taking a module over: what a seed gives, what stays as it was, what is refused; whatever loop trains it then."""

import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from tiny import adapted, base, logits, loss, moved, weights, windows
from torch import Tensor, nn

import qpa
from qpa.adapters import methods
from qpa.config.composing import CONF
from qpa.errors import UserError


def refused(take: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        take()
    assert "\n" not in str(error.value)
    return str(error.value)


class Scaled(nn.Module):
    """A number, a matrix, and two that hold nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.linear = nn.Linear(3, 3)
        self.nothing, self.none = nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.empty(3, 0))

    def forward(self, numbers: Tensor) -> Tensor:
        return self.scale * self.linear(numbers)


class Tied(nn.Module):
    """A module that stands in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.second(self.first(numbers).tanh())


class Twice(nn.Module):
    """Two parameters on some memory of one tensor."""

    def __init__(self, first: slice, second: slice) -> None:
        super().__init__()
        numbers = torch.randn(10)
        self.first, self.second = nn.Parameter(numbers[first]), nn.Parameter(numbers[second])


# The start


@pytest.mark.parametrize(
    "config", [LoraConfig(r=4, target_modules="all-linear"), LoraConfig(r=4, target_modules="all-linear", use_dora=True)]
)
def test_adapter_that_does_nothing_yet_starts_as_the_seed_says_whatever_it_was_drawn_from(config: LoraConfig) -> None:
    generated = []
    for state in (1, 2):
        torch.manual_seed(state)
        generated.append(qpa.generate(get_peft_model(base(), config), seed=3))
    one, other = (weights(each) for each in generated)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    as_in_runs = methods.wrap(base(), config, seed=3)
    torch.testing.assert_close(one, [p.detach() for p in methods.adapter_parameters(as_in_runs).values()], rtol=0, atol=0)
    assert not all(torch.equal(a, b) for a, b in zip(one, weights(qpa.generate(get_peft_model(base(), config), seed=4)), strict=True))


def test_step_zero_is_the_base_model() -> None:
    model = adapted()
    qpa.generate(model)
    with model.disable_adapter():
        expected = logits(model)
    assert torch.equal(logits(model), expected)


def test_adapter_that_has_learned_something_keeps_it_and_goes_on_from_it() -> None:
    model = adapted()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.01
    before = [p.detach().clone() for p in model.parameters()]
    generated = qpa.generate(model, seed=1)
    assert all(torch.equal(p, was) for p, was in zip(model.parameters(), before, strict=True))
    moved(generated)
    assert not all(torch.equal(p, was) for p, was in zip(model.parameters(), before, strict=True))


def test_module_that_is_no_adapter_keeps_its_weights_and_without_a_start_has_others() -> None:
    for generator, keeps in (("qpa", True), ("paper", False)):
        module = nn.Linear(4, 4)
        before = module.weight.detach().clone()
        generated = qpa.generate(module, generator=generator)
        assert torch.equal(module.weight, before) == keeps
        if not keeps:
            assert abs(torch.cat([p.flatten() for p in weights(generated)]).mean()) < 1e-7


def test_start_of_a_prompt_is_drawn_too() -> None:
    """Of prompts nothing is zero, so whether they have learned something is not to be seen: they stay."""
    torch.manual_seed(1)
    model = get_peft_model(base(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    before = [p.detach().clone() for p in model.parameters()]
    qpa.generate(model, seed=1)
    assert all(torch.equal(p, was) for p, was in zip(model.parameters(), before, strict=True))


# What stays as it was


def test_torchs_random_state_stays_as_it_was() -> None:
    model = adapted()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    generated = qpa.generate(model, seed=1, mapper="codes", latents="mlp")
    optimizer = generated.optimizer(torch.optim.AdamW)
    loss(model, windows(2)).backward()
    optimizer.step()
    assert torch.equal(torch.rand(4), expected)


def test_frozen_weights_and_those_that_are_not_asked_for_stay_as_they_were() -> None:
    module = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    module[2].requires_grad_(False)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    generated = moved(qpa.generate(module, parameters=module[0].named_parameters()))
    assert {name for name, p in module.named_parameters() if not torch.equal(p, before[name])} == {"0.weight", "0.bias"}
    assert generated.counts.plain_peft == 3 * 8 + 8
    moved(qpa.generate(module, parameters=module[1].parameters()))
    assert all(p.requires_grad != name.startswith("2") for name, p in module.named_parameters())


def test_within_an_application_of_hydras_own_its_state_is_left_as_it_was() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        theirs = GlobalHydra.instance().hydra
        qpa.generate(nn.Linear(3, 3))
        refused(lambda: qpa.generate(nn.Linear(3, 3), mapper="nosuch"))
        assert GlobalHydra.instance().hydra is theirs
        assert compose("train").seed == 1
    assert not GlobalHydra.instance().is_initialized()
    qpa.generate(nn.Linear(3, 3))
    assert not GlobalHydra.instance().is_initialized()


def test_qpa_is_imported_without_torch() -> None:
    before, after = "assert not {'torch', 'peft', 'hydra'} & sys.modules.keys()", "assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", f"import sys, qpa; {before}; qpa.generate; {after}"], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        _ = qpa.train  # pyright: ignore[reportAttributeAccessIssue]


# What is generated


def test_module_in_two_places_is_generated_once_and_its_gradient_is_the_sum() -> None:
    torch.manual_seed(0)
    module = Tied()
    generated = moved(qpa.generate(module, mapper={"width": 2}))
    assert generated.counts.plain_peft == 4 * 4 + 4
    numbers = torch.randn(5, 4)
    module(numbers).square().sum().backward()
    first, second = (nn.Linear(4, 4) for _ in range(2))
    for copied in (first, second):
        copied.load_state_dict(module.first.state_dict())
    second(first(numbers).tanh()).square().sum().backward()
    torch.testing.assert_close(module.first.weight.grad, first.weight.grad + second.weight.grad)
    before = module.first.weight.detach().clone()
    generated.optimizer(torch.optim.SGD, lr=0.1).step()
    assert module.first.weight is module.second.weight and not torch.equal(module.first.weight, before)


def test_single_numbers_are_generated_and_empty_weights_let_be() -> None:
    for asked in (None, "all"):
        module = Scaled()
        generated = qpa.generate(module, parameters=None if asked is None else module.parameters())
        assert generated.counts.plain_peft == 1 + 9 + 3
        optimizer = generated.optimizer(torch.optim.SGD, lr=0.1)
        module(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        assert module.scale.item() != 2 and module.scale.shape == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_module_of_another_precision_has_the_generated_weights_rounded_to_it(dtype: torch.dtype) -> None:
    module = nn.Linear(6, 4)
    twin = nn.Linear(6, 4)
    twin.load_state_dict(module.to(dtype).state_dict())
    generated, expected = moved(qpa.generate(module, seed=1)), moved(qpa.generate(twin, seed=1))
    assert all(torch.equal(a, b.to(dtype)) for a, b in zip(weights(generated), weights(expected), strict=True))
    assert {p.dtype for p in generated.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"circuit": {"layers": 3}},
        {"circuit": "efficient_su2"},
        {"latents": "zeros"},
        {"mapper": {"width": 1}},
        {"mapper": OmegaConf.create({"kind": "codes", "width": 2})},
        {"generator": {"circuits": "shared"}},
    ],
)
def test_counts_and_state_are_the_generators_alone(settings: dict[str, Any]) -> None:
    generated = qpa.generate(adapted(), seed=1, **settings)
    counts = generated.counts
    assert counts.trainable == sum(p.numel() for p in generated.parameters()) == counts.latents + counts.mapper
    assert counts.plain_peft == sum(p.numel() for p in generated.module.parameters() if p.requires_grad)
    state = generated.state_dict()
    assert {name for name, _ in generated.named_parameters()} <= state.keys()
    assert {name.split(".")[1] for name in state} == {"latents", "mapper", "start_sums", "settings"}


def test_settings_are_those_of_the_config_groups_by_name_by_key_or_as_a_config_has_them() -> None:
    def found(**settings: Any) -> Any:
        return qpa.generate(nn.Linear(4, 4), **settings).settings

    default = found()
    assert (default.mapper.kind, default.latents.kind, default.generator.start) == ("tied", "circuit", "peft")
    assert found(mapper="codes").mapper == found(mapper={"kind": "codes"}).mapper == found(mapper=found(mapper="codes").mapper).mapper
    assert found(mapper={"width": 2}).mapper == default.mapper.model_copy(update={"width": 2})
    assert found(circuit="efficient_su2").circuit.rotations != default.circuit.rotations
    efficient = found(circuit="efficient_su2").circuit
    assert found(circuit={"kind": "efficient_su2", "layers": 7}).circuit == efficient.model_copy(update={"layers": 7})
    assert found(generator={"kind": "paper"}) == found(generator="paper")
    assert found(seed=numpy.int64(3)) == found(seed=3)
    assert found(circuit={"layers": 7}).circuit == default.circuit.model_copy(update={"layers": 7})
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=["mapper=codes", "circuit=brick", "latents=mps"])
    given = found(mapper=config.mapper, circuit=config.circuit, latents=config.latents)
    assert given == found(mapper="codes", circuit="brick", latents="mps")


@pytest.mark.parametrize("mapper", ["quantum_train", {"kind": "quantum_train", "hidden": [4, 20, 4]}])
def test_every_number_of_a_complex_network_has_a_basis_state_of_its_own(mapper: Any) -> None:
    network = nn.Linear(3, 5, dtype=torch.complex64)
    taken = qpa.generate(network, generator="paper", mapper=mapper)
    assert len(taken.layout.chunks) == taken.counts.plain_peft == 2 * 20
    before = network.weight.detach().clone()
    network(torch.ones(2, 3, dtype=torch.complex64)).abs().sum().backward()
    taken.optimizer(torch.optim.SGD, lr=0.1).step()
    assert not torch.equal(network.weight.detach(), before)


# What is refused


def test_modules_that_cannot_be_taken_over_are_refused() -> None:
    meta, real = nn.Linear(3, 3, device="meta"), nn.Linear(3, 3)
    assert "nothing in the module is trainable" in refused(lambda: qpa.generate(base().requires_grad_(False)))
    assert "nothing in the module is trainable" in refused(lambda: qpa.generate(nn.Linear(3, 0)))
    assert "nothing in the module is trainable" in refused(lambda: qpa.generate(nn.Embedding(3, 3).requires_grad_(False)))
    assert "are on meta" in refused(lambda: qpa.generate(meta))
    assert "are on cpu and meta, and are generated on one device" in refused(lambda: qpa.generate(nn.Sequential(real, meta)))
    assert "run the module once first" in refused(lambda: qpa.generate(nn.LazyLinear(3)))
    assert "share memory" in refused(lambda: qpa.generate(Twice(slice(0, 5), slice(0, 5))))
    assert "second and first share memory" in refused(lambda: qpa.generate(Twice(slice(0, 6), slice(4, 10))))
    assert qpa.generate(Twice(slice(0, 5), slice(5, 10))).counts.plain_peft == 10
    for wrong in ([real], real.parameters(), None):
        assert "module: should be a torch.nn.Module" in refused(lambda wrong=wrong: qpa.generate(wrong))


def test_parameters_that_cannot_be_taken_over_are_refused() -> None:
    module = adapted()
    assert "not all of them are parameters of the module" in refused(lambda: qpa.generate(module, parameters=nn.Linear(2, 2).parameters()))
    for wrong in ([], module.get_input_embeddings().parameters()):
        assert "none of them is trainable" in refused(lambda wrong=wrong: qpa.generate(module, parameters=wrong))
    for wrong in (torch.ones(3), next(module.parameters()), ["q_proj"], "q_proj", 3, [None]):
        assert "should be some of module.parameters()" in refused(lambda wrong=wrong: qpa.generate(module, parameters=wrong))
    trainable = sum(map(torch.numel, methods.adapter_parameters(module).values()))
    assert qpa.generate(module, parameters=module.parameters()).counts.plain_peft == trainable


def test_what_is_generated_already_is_refused_until_its_generator_is_gone() -> None:
    module = adapted()
    generated = qpa.generate(module)
    for wrong in (module, nn.Sequential(nn.Linear(2, 2), module), generated):
        assert "generated already" in refused(lambda wrong=wrong: qpa.generate(wrong))
    del generated, wrong
    gc.collect()  # the errors knew it
    qpa.generate(module)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"circuit": {"qubits": 2}, "mapper": {"chunk_size": 8}}, "circuit.qubits=2: 4 basis states of mapper.chunk_size=8"),
        ({"circuit": {"qubits": 60}}, "circuit.qubits=60: "),
        ({"circuit": {"layers": 10**12}}, "circuit.layers=1000000000000: "),
        ({"circuit": {"rotations": ["RQ"]}}, "circuit.rotations.0=RQ: "),
        ({"circuit": {"kind": "nosuch"}}, "circuit.kind=nosuch: no key"),
        (
            {"mapper": "nosuch"},
            "mapper=nosuch: there is no such choice; there are codes, paper, qtrl, ",
        ),
        ({"mapper": "../model/gpt2"}, "there is no such choice"),
        ({"mapper": {"nosuch": 1}}, "mapper.nosuch=1: no key"),
        ({"mapper": {"kind": "nosuch"}}, "mapper.kind=nosuch: there is no such kind"),
        ({"mapper": {"width": 0}}, "mapper.width=0: "),
        ({"mapper": {"width": "4"}}, "mapper.width=4: "),
        ({"mapper": {"chunk_size": 10**9}}, "mapper.chunk_size=1000000000: "),
        ({"mapper": 3}, "mapper=3: should be the name of a choice, or a dict of keys"),
        ({"mapper": OmegaConf.create({"width": "${nosuch}"})}, "mapper=...: Interpolation key 'nosuch' not found"),
        ({"generator": "none"}, "generator=none: there is no such choice; there are paper, qpa"),
        ({"latents": "mpo"}, "latents=mpo: "),
        ({"seed": -1}, "seed=-1: "),
        ({"seed": None}, "seed=None: "),
        ({"seed": "one"}, "seed=one: "),
        ({"seed": 2**32}, "seed=4294967296: "),
    ],
)
def test_settings_that_do_not_exist_or_do_not_fit_are_refused_and_the_module_stays_as_it_was(settings: dict[str, Any], words: str) -> None:
    module = adapted()
    before = [p.detach().clone() for p in module.parameters()]
    assert words in refused(lambda: qpa.generate(module, **settings))
    assert all(torch.equal(p, was) for p, was in zip(module.parameters(), before, strict=True))
    qpa.generate(module)


def test_state_of_another_generator_is_refused() -> None:
    generated = qpa.generate(adapted(), seed=1)
    others = {"sizes": {"mapper": {"width": 2}}, "circuit": {"circuit": {"entangler": "ring"}}, "start": {"seed": 2}}
    for words, settings in {
        "sizes": "is of another generator",
        "circuit": "of equal sizes",
        "start": "other initial adapter weights",
    }.items():
        other = qpa.generate(adapted(), **others[words])
        assert settings in refused(lambda other=other: generated.load_state_dict(other.state_dict()))
        optimizer = generated.optimizer(torch.optim.AdamW)
        state = other.optimizer(torch.optim.AdamW).state_dict()
        assert settings in refused(lambda optimizer=optimizer, state=state: optimizer.load_state_dict(state))


def test_step_before_any_backward_is_refused_and_changes_nothing() -> None:
    generated = moved(qpa.generate(adapted()))
    before = weights(generated)
    optimizer = generated.optimizer(torch.optim.AdamW, lr=1.0, weight_decay=0.5)
    assert "call loss.backward() before optimizer.step()" in refused(optimizer.step)
    torch.testing.assert_close(weights(generated), before, rtol=0, atol=0)
