"""Run by test_devices.py in a process of its own: everything that generates, on a device that is no more than its name.

torch follows devices and shapes there, refuses to mix them, and refuses whatever would wait for the device's numbers.
"""

import itertools

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from qpa.core.adaptation import GeneratedAdaptation, Leaves
from qpa.core.circuits import estimate, statevector, torchquantum
from qpa.core.circuits.ansatz import RY_CNOT, Ansatz
from qpa.core.circuits.entanglement import bond_entropies, meyer_wallach
from qpa.core.circuits.states import Simulator
from qpa.core.generator import Generator
from qpa.core.latents.circuits import Circuits
from qpa.core.latents.fixed import random, zeros
from qpa.core.latents.mlp import SmallMLPs
from qpa.core.latents.mps import MatrixProductStates
from qpa.core.latents.table import Table
from qpa.core.layout import AdapterTensor, Layout, plan
from qpa.core.mappers.codes import CodeMapper
from qpa.core.mappers.paper import PaperMapper
from qpa.core.mappers.quantum_train import QuantumTrainMapper
from qpa.core.mappers.tied import TiedMapper

CARD = "card"
SHAPES = [RY_CNOT, Ansatz(("RY",), "ring", "CZ"), Ansatz(("RX",), "brick"), Ansatz(("RX", "RY", "RZ"), "ring", "CZ", final_rotations=True)]
SHAPES += [Ansatz(("U3",), "ring", "CU3"), Ansatz(("RY",), "ring", "CRY")]


def tensors(width: int = 12) -> list[AdapterTensor]:
    shapes = {"lora_A": (2, width), "lora_B": (8, 2)}
    return [AdapterTensor(f"layers.{i}.q.{name}", shape, f"layers.{i}.q") for i in range(3) for name, shape in shapes.items()]


def moved(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    return module._apply(lambda tensor: mode.from_tensor(tensor).to(CARD))


def latents(layout: Layout) -> list[nn.Module]:
    def circuits(simulate: Simulator, *, trained: bool = True) -> Circuits:
        return Circuits(layout, RY_CNOT, layers=3, simulate=simulate, trained=trained)

    exact, theirs = statevector.simulator(RY_CNOT), torchquantum.simulator(RY_CNOT)
    shifted = estimate.parameter_shift(RY_CNOT, estimate.unsampled(exact))
    found = [
        circuits(exact),
        circuits(exact, trained=False),
        circuits(theirs),
        circuits(shifted),
        Table(layout),
        zeros(layout),
        random(layout),
    ]
    return [*found, SmallMLPs(layout, hidden=3, budget=9), MatrixProductStates(layout, bond_dimension=2, budget=9)]


def mappers(layout: Layout, *, from_zero: bool) -> list[nn.Module]:
    paper = PaperMapper(layout, hidden=[5, 4], activation="tanh", from_zero=from_zero)
    squeezed = QuantumTrainMapper(layout, hidden=[4], activation="none", gain=0.1, bound=0.8, power=0.3, from_zero=from_zero)
    return [TiedMapper(layout, width=3, from_zero=from_zero), CodeMapper(layout, width=3, from_zero=from_zero), paper, squeezed]


def step(generator: Generator, layout: Layout, mode: FakeTensorMode) -> None:
    """Weights written, gradients collected, an optimizer's step."""
    moved(generator, mode)
    with mode:
        weights = {slot.tensor.name: nn.Parameter(torch.zeros(slot.tensor.shape, device=CARD)) for slot in layout.slots}
        adaptation = GeneratedAdaptation(generator, Leaves(layout, weights))
        optimizer = adaptation.optimizer(torch.optim.AdamW, lr=0.1, max_norm=1.0)
        adaptation.write()
        torch.stack([weight.square().sum() for weight in weights.values()]).sum().backward()
        optimizer.step()
        assert all(parameter.grad.device.type == CARD for parameter in generator.parameters() if parameter.grad is not None)
        assert generator().device.type == CARD


def simulate(shape: Ansatz, simulator: Simulator, mode: FakeTensorMode) -> None:
    with mode:
        for qubits in (2 if shape.trained_pairs else 1, 5):
            angles = torch.rand(2, shape.angles_per_qubit(3), qubits, device=CARD, requires_grad=True)
            probabilities = simulator(angles)
            probabilities.square().sum().backward()
            assert angles.grad is not None
            assert {probabilities.device.type, angles.grad.device.type} == {CARD}
            states = statevector.amplitudes(shape, angles)
            assert {meyer_wallach(states).device.type, bond_entropies(states).device.type} == {CARD}


def main() -> None:
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    _setup_privateuseone_for_python_backend(CARD)
    getattr(torch, CARD).get_amp_supported_dtype = lambda: [torch.float32, torch.bfloat16]
    made, tensor = FakeTensorMode(), torch.tensor
    torch.tensor = lambda data, *, device=None, **settings: tensor(data, **settings).to(device)  # which it cannot make there in one go
    for shape in SHAPES:
        simulate(shape, statevector.simulator(shape), made)
        simulate(shape, torchquantum.simulator(shape), made)
    for circuits, begun in (("per_module", True), ("shared", False)):
        layout = plan(tensors(), circuits=circuits, qubits=None, chunk_size=None)
        start = torch.randn(layout.size) if begun else None
        for latent, mapper in zip(latents(layout), itertools.cycle(range(4))):
            step(Generator(layout, latents=latent, mapper=mappers(layout, from_zero=begun)[mapper], start=start), layout, made)
    print("all there")


if __name__ == "__main__":
    main()
