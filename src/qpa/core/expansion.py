"""A generator's weights as every machine makes them: bit by bit the same, whatever its processor, its threads and its version of torch.

They are computed in float64 and rounded to float32. Machines differ in the last bits of float64, which decides the rounding of a few
weights in a million: of those that lie so near to the middle of two float32 numbers, which of the two it is has to be kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qpa.core.generator import Generator

# Of a weight: float64 sums of a few hundred products are off by 2**-46 of their largest, and a weight may be as much smaller as the sum
# has cancelled. About one weight in ten thousand is nearer than this to the middle.
MARGIN = 2.0**-38


@dataclass(frozen=True)
class Doubtful:
    """The weights that float64 could round either way.

    Attributes:
        places: in the flat vector, int32.
        values: what they are, float32.
    """

    places: Tensor
    values: Tensor


def expanded(generator: Generator, state: dict[str, Tensor], doubtful: Doubtful | None = None) -> tuple[Tensor, Doubtful]:
    """All weights `[size]`, float32, on the CPU, and those among them that are doubtful.

    Args:
        generator: with exact circuits; it is left in float64, with that state.
        state: its trained numbers.
        doubtful: known from another machine.
    """
    generator.cpu().double().load_state_dict(state, strict=False)  # strictly checked already
    with torch.no_grad():
        weights = generator()
    margin = MARGIN * weights.abs()
    rounded = weights.float()
    if doubtful is not None:
        rounded[doubtful.places.long()] = doubtful.values
        return rounded, doubtful
    places = ((weights - margin).float() != (weights + margin).float()).nonzero().flatten()
    return rounded, Doubtful(places.int(), rounded[places])
