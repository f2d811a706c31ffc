"""`peft=whole`: all weights of a network, generated, trained, saved as the network alone; the published networks' counts."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from qpa.adapters import methods, saved
from qpa.adapters.whole import WholeConfig, WholeModel
from qpa.core.adaptation import Statistics
from qpa.core.generator import real_shape, view
from qpa.errors import ConfigError, UserError
from qpa.library.arguments import settings_from
from qpa.library.generate import Generated, take_over
from qpa.library.load import load
from qpa.library.recipe import counted
from qpa.library.sizes import layout_of

GROUPS = ("generator", "latents", "circuit", "mapper")
Network = Callable[[], nn.Module]


class Mixed(nn.Module):
    """A convolution, statistics, a recurrent layer, a complex weight, and one weight that stands in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.lstm = nn.LSTM(6, 5, num_layers=2, batch_first=True)
        self.first, self.again = nn.Linear(5, 5, bias=False), nn.Linear(5, 5)
        self.again.weight = self.first.weight
        self.turn = nn.Parameter(torch.randn(5, dtype=torch.complex64))

    def forward(self, images: Tensor) -> Tensor:
        found, _ = self.lstm(self.norm(self.conv(images)).flatten(2).mT)
        hidden = torch.fft.ifft(torch.fft.fft(found[:, -1]) * self.turn).real
        return self.again(torch.tanh(self.first(hidden)))


def mixed() -> nn.Module:
    torch.manual_seed(0)
    return Mixed()


IMAGES, LABELS = torch.randn(12, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 5
CASES: dict[str, dict[str, Any]] = {
    "subspace": {"mapper": {"kind": "quantum_train"}, "generator": {"circuits": "shared"}},
    "published": {"mapper": "quantum_train", "generator": "paper"},
    "chunks": {"mapper": {"kind": "quantum_train", "chunk_size": 7}, "generator": "paper"},
    "paper": {"mapper": {"kind": "paper", "chunk_size": 4, "hidden": [6]}, "generator": "paper"},
    "tied": {"mapper": {"width": 3}},
    "codes": {"mapper": {"kind": "codes", "chunk_size": 1, "width": 3}},
}  # fmt: skip


def generated(network: nn.Module, *, pattern: str | None = None, **groups: Any) -> tuple[WholeModel, Generated]:
    settings = settings_from(seed=1, **dict.fromkeys(GROUPS) | groups)
    model = methods.wrap(network, WholeConfig(target_parameters=pattern), seed=1)
    assert isinstance(model, WholeModel)
    layout = layout_of(settings, methods.adapter_tensors(model))
    return model, take_over(model, methods.adapter_parameters(model), layout, settings)


def loss(logits: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, LABELS)


def moved(taken: Generated) -> Generated:
    """Away from where rows that start at zero hide the others' gradients."""
    torch.manual_seed(2)
    for parameter in taken.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return taken


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_a_differentiable_call_with_the_generated_weights(case: str) -> None:
    model, taken = generated(mixed(), **CASES[case])
    moved(taken).write()
    model.eval()
    loss(model(IMAGES)).backward()
    taken.collect()
    found = {name: p.grad.clone() for name, p in taken.named_parameters()}
    taken.zero_grad()
    flat, weights = taken.generator(), {}
    for slot in taken.layout.slots:
        there, weight = model.get_parameter(slot.tensor.name), view(flat, slot)
        weights[slot.tensor.name] = torch.view_as_complex(weight.contiguous()) if there.is_complex() else weight
    loss(functional_call(model, weights, (IMAGES,))).backward()
    assert max(gradient.abs().max() for gradient in found.values()) > 1e-4
    torch.testing.assert_close(found, {name: p.grad for name, p in taken.named_parameters()}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_few_steps_lower_the_loss_and_the_saved_network_is_stock_torchs(case: str, tmp_path: Path) -> None:
    model, taken = generated(mixed(), **CASES[case])
    taken.write()
    optimizer = taken.optimizer(torch.optim.AdamW, lr=0.02)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        found = loss(model(IMAGES))
        found.backward()
        optimizer.step()
        losses.append(found.item())
    assert losses[-1] < losses[0]
    model.eval()
    saved.save_adapter(model, tmp_path / "adapter", base_name=None)
    network = Mixed()  # of other weights
    network.load_state_dict(load_file(tmp_path / "adapter" / "model.safetensors"))
    assert network.norm.num_batches_tracked == 12
    assert torch.equal(network.eval()(IMAGES), model(IMAGES))
    again = saved.load_adapter(Mixed(), tmp_path / "adapter")
    assert torch.equal(again.eval()(IMAGES), model(IMAGES))


def test_statistics_go_with_what_is_trained() -> None:
    def made() -> tuple[WholeModel, Generated]:
        model, taken = generated(mixed(), **CASES["published"])
        taken.statistics = Statistics(model.get_base_model(), methods.statistics(model))
        taken.write()
        return model, taken

    model, taken = made()
    model(IMAGES)
    state = {name: tensor.clone() for name, tensor in taken.state_dict().items()}
    expected = model.eval()(IMAGES)
    other, again = made()
    again.check_state(state)
    again.load_state_dict(state)
    assert torch.equal(other.eval()(IMAGES), expected)
    with pytest.raises(UserError, match="other weights"):
        again.check_state({name: tensor for name, tensor in state.items() if "running_mean" not in name})
    model.train()(IMAGES)  # they stay the network's own
    assert taken.state_dict()["statistics.norm.num_batches_tracked"] == 2 > state["statistics.norm.num_batches_tracked"]


def test_compact_form_makes_the_network_again_with_its_statistics(tmp_path: Path) -> None:
    model, taken = generated(mixed(), **CASES["published"])
    moved(taken).write()
    model(IMAGES)
    taken.save(tmp_path / "compact")
    again = load(Mixed(), tmp_path / "compact")
    assert isinstance(again, WholeModel)
    assert torch.equal(again.eval()(IMAGES), model.eval()(IMAGES))


def test_a_process_without_qpa_finds_the_same_logits(tmp_path: Path) -> None:
    model, taken = generated(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5)), **CASES["published"])
    taken.write()
    model(IMAGES)
    saved.save_adapter(model.eval(), tmp_path / "adapter", base_name=None)
    torch.save(IMAGES, tmp_path / "images.pt")
    code = """
import sys
sys.modules["qpa"] = None
import torch
from torch import nn
from safetensors.torch import load_file
network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5)).eval()
network.load_state_dict(load_file("adapter/model.safetensors"))
torch.save(network(torch.load("images.pt")), "logits.pt")
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(IMAGES), rtol=0, atol=1e-6)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == "WHOLE"


def test_every_weight_is_one_place_of_the_layout_and_shared_ones_count_once() -> None:
    model, taken = generated(mixed(), **CASES["published"])
    numbers = sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())
    assert taken.layout.generated == len(taken.layout.chunks) == numbers == taken.counts.plain_peft
    assert [slot.tensor.shape for slot in taken.layout.slots] == [real_shape(p) for p in model.parameters()]
    flat = torch.arange(taken.layout.size, dtype=torch.float32)
    taken.leaves.write(flat)
    in_order = [torch.view_as_real(p.detach()) if p.is_complex() else p.detach() for p in model.parameters()]
    assert torch.equal(torch.cat([p.flatten() for p in in_order]), flat)  # state i stands for weight i of the network


def test_a_network_is_what_it_was_without_what_is_generated_and_begins_as_it() -> None:
    expected = mixed().eval()(IMAGES)
    model, taken = generated(mixed(), **CASES["subspace"])
    taken.write()
    assert torch.equal(model.eval()(IMAGES), expected)
    moved(taken).write()
    model.train()(IMAGES)
    now = model.eval()(IMAGES)
    assert not torch.allclose(now, expected)
    with model.disable_adapter():
        assert torch.equal(model(IMAGES), expected)
    assert torch.equal(model(IMAGES), now)


def test_weights_that_a_pattern_does_not_name_stay_and_are_saved(tmp_path: Path) -> None:
    before = mixed().state_dict()
    model, taken = generated(mixed(), pattern=r"conv.*|again\.weight", **CASES["published"])
    assert {slot.tensor.name for slot in taken.layout.slots} == {f"base_model.{n}" for n in ("conv.weight", "conv.bias", "first.weight")}
    taken.write()
    saved.save_adapter(model, tmp_path / "adapter", base_name=None)
    found = load_file(tmp_path / "adapter" / "model.safetensors")
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, before[name])}
    assert changed == {"conv.weight", "conv.bias", "first.weight", "again.weight"}


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("conv", r"fits the whole name of no weight; the model has turn, conv.weight, conv.bias"), ("[", "no regular expression")],
)
def test_patterns_that_name_nothing_are_refused_in_one_line(pattern: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        config = methods.make_config({"_target_": "qpa.adapters.whole.WholeConfig", "target_parameters": pattern})
        methods.planned(Mixed, config)
    assert "\n" not in str(error.value)


# The published networks


def mnist() -> nn.Module:
    convolutions = [nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.Conv2d(8, 12, 5), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(192, 20), nn.Linear(20, 10))


def cifar() -> nn.Module:
    linear = [nn.Linear(2048, 128), nn.Linear(128, 64), nn.Linear(64, 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.Conv2d(16, 32, 5, padding=2), nn.Flatten(), *linear)


def policy(*sizes: int) -> Network:
    return lambda: nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2]))


U3_CU3 = 6  # angles of a qubit in a layer


def published() -> Iterator[Any]:
    yield pytest.param(mnist, [4, 20, 4], 6_690, 13, 16, 249 + 78 * 16, id="mnist")
    yield pytest.param(cifar, [40, 200, 40], 285_226, 19, 38, 17_121 + 114 * 38, id="cifar10")
    yield pytest.param(policy(4, 128, 2), [10, 10, 10], 898, 10, 5, 651, id="cartpole")
    yield pytest.param(policy(147, 32, 3), [10, 64, 10], 4_835, 13, 13, 2_529, id="minigrid")


@pytest.mark.few(4)
@pytest.mark.parametrize(("network", "hidden", "weights", "qubits", "layers", "trained"), list(published()))
def test_published_counts_come_out_exactly(
    network: Network, hidden: list[int], weights: int, qubits: int, layers: int, trained: int
) -> None:
    """The fifth, of a river's LSTM, has a task of its own that counts it."""
    tensors, _ = methods.planned(network, WholeConfig())
    circuit = {"layers": layers * U3_CU3}  # as many angles, all of RY
    settings = settings_from(seed=1, generator="paper", latents=None, circuit=circuit, mapper={"kind": "quantum_train", "hidden": hidden})
    layout = layout_of(settings, tensors)
    counts = counted(settings, layout)
    assert (layout.generated, layout.qubits, layout.circuits, counts.trainable) == (weights, qubits, 1, trained)
