"""The same circuits on torchquantum (Wang et al. 2022, arXiv 2107.10845), the reference simulator.

torchquantum 0.1.8 imports qiskit < 1, torchpack, torchvision and plotting at its top, none of which its simulator uses and
which do not install together any more. Inert stand-ins take their names while it is imported, and are gone afterwards, so
that any real qiskit beside it stays as it is.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from qpa.core.circuits.ansatz import Ansatz
from qpa.core.circuits.states import Simulator

UNUSED = ("qiskit", "qiskit_aer", "qiskit_ibm_runtime", "torchpack", "torchvision", "pylatexenc", "pathos", "sklearn", "matplotlib")


class _Anything(type):
    def __getattr__(cls, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Unused(metaclass=_Anything):
    def __init__(self, *args: object, **kwargs: object) -> None:
        pass


class _Inert(ModuleType):
    """A module whose every public name is a class that does nothing; it is a package, so submodules import too."""

    __path__ = ()  # pyright: ignore[reportAssignmentType]
    __file__ = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (_Unused,), {})


class _InertFinder(MetaPathFinder, Loader):
    """Finds an inert module under every name that is unused."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Of what is unused, whatever its name."""
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] in UNUSED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An inert one."""
        return _Inert(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: there is no code."""


@contextmanager
def _stand_ins() -> Iterator[None]:
    def unused() -> list[str]:
        """Names of modules that are imported."""
        return [name for name in sys.modules if name.split(".")[0] in UNUSED]

    real = {name: sys.modules.pop(name) for name in unused()}
    finder = _InertFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in unused():
            del sys.modules[name]
        sys.modules.update(real)


@cache
def imported() -> ModuleType:
    """The package."""
    with _stand_ins():
        return importlib.import_module("torchquantum")


def simulator(ansatz: Ansatz) -> Simulator:
    """From angles `[K, A, Q]` to probabilities `[K, 2**Q]`; torchquantum computes in complex64 whatever the angles' dtype."""
    return partial(probabilities, ansatz)


def probabilities(ansatz: Ansatz, angles: Tensor) -> Tensor:
    """All `K` circuits in one `QuantumDevice`, where the angles are."""
    tq = imported()
    circuits, per_qubit, qubits = angles.shape
    start = torch.zeros(circuits, 2**qubits, dtype=torch.complex64, device=angles.device)
    start[:, 0] = 1
    device = tq.QuantumDevice(n_wires=qubits)  # on the CPU: its own start would be copied from there, and waited for
    device.set_states(start)
    for gate, wires, numbers in ansatz.operations(per_qubit, qubits):
        turned_by = angles[:, numbers[0] : numbers[-1] + 1, wires[0]] if numbers else None
        if turned_by is None:
            tq.functional.gate_wrapper(gate.lower(), _matrix(gate, angles.device), "bmm", device, list(wires))
        elif len(wires) == 2:
            tq.functional.gate_wrapper(gate.lower(), _controlled(gate, turned_by), "bmm", device, list(wires))
        else:
            getattr(tq.functional, gate.lower())(device, wires=list(wires), params=turned_by)
    return device.get_states_1d().abs().square().to(angles.dtype)


@cache
def _matrix(gate: str, device: torch.device) -> Tensor:
    """Of a gate without an angle: torchquantum's own function would copy it to the device at every gate, and wait for it."""
    with torch.inference_mode(False):
        return imported().functional.mat_dict[gate.lower()].to(device)


def _controlled(gate: str, angles: Tensor) -> Tensor:
    """Of angles `[K, 1 or 3]`: torchquantum's own functions copy to the device at every gate, and CU3's takes one circuit alone."""
    target = imported().functional.mat_dict[gate.removeprefix("C").lower()](angles).view(-1, 2, 2)
    idle = torch.eye(2, dtype=target.dtype, device=target.device).expand_as(target)
    none = torch.zeros_like(target)
    return torch.cat([torch.cat([idle, none], 2), torch.cat([none, target], 2)], 1)
