"""How entangled pure states are. States are `[K, 2**Q]`, real or complex, normalised."""

import math

import torch
from torch import Tensor


def meyer_wallach(states: Tensor) -> Tensor:
    """`2 (1 - mean over qubits of tr rho_q^2)`, `[K]`: 0 of product states, 1 of a GHZ state (Meyer and Wallach 2002, Brennen 2003)."""
    purities = [(_split(states, qubit, 1) @ _split(states, qubit, 1).mH).abs().square().sum((1, 2)) for qubit in range(_qubits(states))]
    return 2 * (1 - torch.stack(purities).mean(0))


def bond_entropies(states: Tensor) -> Tensor:
    """Von Neumann entropy in bits between the first `q` qubits and the others, `q = 1 .. Q - 1`: `[K, Q - 1]`."""
    entropies = []
    for qubits in range(1, _qubits(states)):
        weights = torch.linalg.svdvals(_split(states, 0, qubits)).square()
        entropies.append(torch.special.entr(weights / weights.sum(1, keepdim=True)).sum(1) / math.log(2))
    return torch.stack(entropies, 1) if entropies else states.real.new_zeros(len(states), 0)


def _qubits(states: Tensor) -> int:
    return states.shape[1].bit_length() - 1


def _split(states: Tensor, first: int, count: int) -> Tensor:
    """As matrices, `[K, 2**count, the rest]`: rows are the basis states of `count` qubits from `first`."""
    return states.view(len(states), 2**first, 2**count, -1).movedim(2, 1).flatten(2)
