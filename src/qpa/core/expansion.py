"""A generator's weights as every machine makes them: bit by bit the same, whatever its processor, its threads and its version of torch.

They are computed in float64 and rounded to float32. Machines differ in the last bits of float64, which decides the rounding of one weight
in some millions: of all that lie so near to the middle of two float32 numbers, which of the two it is has to be kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qpa.core.generator import Generator, view
from qpa.core.layout import Layout

# More than machines differ by, found where every operation is rounded at random (tests/core/test_expansion.py). A sum is off by the last
# bits of its terms, however small it comes out, so the measure is the largest weight of a tensor. But where a circuit makes a row small,
# it does by the square of an amplitude, less one, and one again: that is off by as much as its root, and by the last bits of one, whose
# measure is the largest weight of all depths' tensors of its kind: of one tensor a circuit may make all rows small.
MARGIN, OF_ONE = 2.0**-41, 2.0**-49
NOTHING = 2.0**-39  # of a tensor's largest weight; what is no larger is zero, for terms may cancel to the last bit, or not quite


@dataclass(frozen=True)
class Doubtful:
    """The weights that float64 could round either way.

    Attributes:
        places: in the flat vector, int32.
        values: what they are, float32.
    """

    places: Tensor
    values: Tensor


def expanded(generator: Generator, state: dict[str, Tensor], layout: Layout, doubtful: Doubtful | None = None) -> tuple[Tensor, Doubtful]:
    """All weights `[size]`, float32, on the CPU, and those among them that are doubtful.

    Args:
        generator: with exact circuits; it is left in float64, with that state.
        state: its trained numbers.
        layout: where each tensor lies; numbers that are of none become zero.
        doubtful: known from another machine.
    """
    generator.cpu().double().load_state_dict(state, strict=False)  # strictly checked already
    with torch.no_grad():
        made = generator()
    weights = torch.zeros_like(made)
    for slot in layout.slots:
        view(weights, slot).copy_(view(made, slot))
    largest = _largest_of(layout, weights, [slot.tensor.name for slot in layout.slots])
    rounded = _rounded(weights, largest)
    if doubtful is None:
        of_kind = _largest_of(layout, weights, [slot.tensor.kind for slot in layout.slots])
        margin = MARGIN * (_largest_of_rows(layout, weights) * largest).sqrt() + OF_ONE * of_kind
        places = (_rounded(weights - margin, largest) != _rounded(weights + margin, largest)).nonzero().flatten()
        return rounded, Doubtful(places.int(), rounded[places])
    rounded[doubtful.places.long()] = doubtful.values
    return rounded, doubtful


def _rounded(weights: Tensor, largest: Tensor) -> Tensor:
    return torch.where(weights.abs() <= NOTHING * largest, 0, weights).float()


def _largest_of(layout: Layout, weights: Tensor, groups: list[str]) -> Tensor:
    """For every weight the largest of its tensor's group, `[size]`."""
    found: dict[str, Tensor] = {}
    for slot, group in zip(layout.slots, groups, strict=True):
        largest = view(weights, slot).abs().max()
        found[group] = torch.maximum(found.get(group, largest), largest)
    each = torch.zeros_like(weights)
    for slot, group in zip(layout.slots, groups, strict=True):
        view(each, slot).fill_(found[group])
    return each


def _largest_of_rows(layout: Layout, weights: Tensor) -> Tensor:
    """For every weight the largest of its chunk, `[size]`."""
    grids = [part.view(-1, length) for length, part in zip(layout.lengths, weights.split(_sizes(layout)), strict=True)]
    return torch.cat([grid.abs().amax(1, keepdim=True).expand_as(grid).flatten() for grid in grids])


def _sizes(layout: Layout) -> list[int]:
    """Of the parts of a flat vector that have chunks of one length."""
    return [length * count for length, count in layout.lengths.items()]
