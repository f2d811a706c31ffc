"""Functions drawn at random, and the solutions of the equations that they stand in, by scipy's solvers. No torch.

The cases are those of the Fourier neural operator (Li et al. 2021, arXiv 2010.08895). A function's number among a split's decides it alone:
the first 4 of 64 are the 4 of 4 (their solutions to the solver's tolerance).

Shapes: `n` samples, `G` grid points each way.
"""

from typing import Any

import numpy as np
from numpy import fft
from numpy.typing import NDArray
from scipy import sparse
from scipy.fft import idctn
from scipy.integrate import solve_ivp
from scipy.sparse.linalg import spsolve

Array = NDArray[np.float64]
Pair = tuple[Array, Array]  # inputs and outputs

BURGERS_SCALE, BURGERS_SHIFT = 25.0, 5.0  # of u0 ~ N(0, 625 (-d2/dx2 + 25)^-2), section 5.1 of the paper
DARCY_SHIFT = 3.0  # of N(0, (-Laplacian + 9)^-2), section 5.2
TOGETHER = 256  # trajectories that are solved as one system
RELATIVE, ABSOLUTE = (
    1e-6,
    1e-11,
)  # tolerances of the solver: errors of 1e-4 of a solution and less (tests/tasks/operators/test_equations.py)
STABLE = 6.0  # how far along the negative axis DOP853 is stable (Hairer, Norsett and Wanner 1993), by step and damping
UNRESOLVED = 5e-3  # of a solution's amplitudes: what its highest third of kept modes may hold


class UnresolvedError(ValueError):
    """The grid is too coarse for a solution."""


def burgers(count: int, grid: int, *, viscosity: float, time: float, rng: np.random.Generator) -> Pair:
    """Burgers' equation `u_t + u u_x = viscosity * u_xx` on a ring of length 1: `u` at time 0 and at `time`, each `[n, G]`.

    Raises:
        UnresolvedError: a front is steeper than the grid shows.
    """
    first = random_waves(count, grid, rng)
    parts = [burgers_at(first[start : start + TOGETHER], viscosity=viscosity, time=time) for start in range(0, count, TOGETHER)]
    return first, np.concatenate(parts)


def random_waves(count: int, grid: int, rng: np.random.Generator) -> Array:
    """Functions of `N(0, 625 (-d2/dx2 + 25)^-2)` on a ring without their mean, which only moves them: `[n, G]`."""
    modes = np.arange(1, grid // 2)
    size = BURGERS_SCALE / ((2 * np.pi * modes) ** 2 + BURGERS_SHIFT**2)  # standard deviation of a mode
    drawn = rng.standard_normal((count, 2, len(modes))) * size
    waves = np.zeros((count, grid // 2 + 1), complex)
    waves[:, 1 : grid // 2] = (drawn[:, 0] - 1j * drawn[:, 1]) / np.sqrt(2)  # sqrt(2) cos and sin are the orthonormal functions
    return fft.irfft(waves, grid, axis=1, norm="forward")


def burgers_at(first: Array, *, viscosity: float, time: float) -> Array:
    """Solutions at `time` of those that begin so, `[n, G]`: Fourier modes, a third of them left out of products (Orszag 1971)."""
    count, grid = first.shape
    modes = grid // 3 + 1
    waves = 2 * np.pi * np.arange(modes)

    def change(_: float, flat: NDArray[np.complex128]) -> NDArray[np.complex128]:
        now = flat.reshape(count, modes)
        squares = fft.rfft(fft.irfft(now, grid, axis=1, norm="forward") ** 2, axis=1, norm="forward")[:, :modes]
        return (-0.5j * waves * squares - viscosity * waves**2 * now).ravel()

    start = fft.rfft(first, axis=1, norm="forward")[:, :modes].ravel()
    found = solve_ivp(change, (0.0, time), start, method="DOP853", t_eval=[time], rtol=RELATIVE, atol=ABSOLUTE)
    last = found.y[:, -1].reshape(count, modes)
    share = np.linalg.norm(last[:, 2 * modes // 3 :], axis=1) / np.linalg.norm(last, axis=1)
    if not (found.success and share.max() < UNRESOLVED):
        raise UnresolvedError(f"{grid} points are too few for its fronts")
    return fft.irfft(last, grid, axis=1, norm="forward")


def darcy(count: int, grid: int, *, low: float, high: float, rng: np.random.Generator) -> Pair:
    """Darcy flow `-div(a grad u) = 1` on the unit square, `u = 0` around it: `a`, of two values, and `u`, each `[n, G, G]`."""
    coefficients = np.where(random_fields(count, grid, rng) >= 0, high, low)
    return coefficients, np.stack([darcy_of(given, np.ones((grid, grid))) for given in coefficients])


def random_fields(count: int, grid: int, rng: np.random.Generator) -> Array:
    """Functions of `N(0, (-Laplacian + 9)^-2)` with no slope at the border, without their mean, up to a factor: `[n, G, G]`."""
    modes = np.pi * np.arange(grid)
    size = 1 / (modes[:, None] ** 2 + modes**2 + DARCY_SHIFT**2)
    drawn = rng.standard_normal((count, grid, grid)) * size
    drawn[:, 0, 0] = 0
    made: Any = idctn(drawn, axes=(1, 2), norm="ortho")
    return made


def darcy_of(coefficient: Array, source: Array) -> Array:
    """The solution `[G, G]` of `-div(a grad u) = f`, zero on the border, by finite volumes; between points `a` is the harmonic mean."""
    grid = len(coefficient)
    inner, step = grid - 2, 1 / (grid - 1)
    between = [2 * a * b / (a + b) for a, b in ((coefficient[:-1], coefficient[1:]), (coefficient[:, :-1], coefficient[:, 1:]))]
    down, across = between[0][:, 1:-1], between[1][1:-1]  # [G - 1, inner], [inner, G - 1]
    middle = down[:-1] + down[1:] + across[:, :-1] + across[:, 1:]
    beside = np.pad(across[:, 1:-1], ((0, 0), (0, 1))).ravel()[:-1]  # none from a row's end to the next row
    below = down[1:-1].ravel()
    diagonals: Any = {0: middle.ravel(), 1: -beside, -1: -beside, inner: -below, -inner: -below}
    matrix: Any = sparse.diags([*diagonals.values()], [*diagonals], format="csc")  # pyright: ignore[reportArgumentType] - one or several
    found = np.zeros((grid, grid))
    solved: Any = spsolve(matrix, step**2 * source[1:-1, 1:-1].ravel())
    found[1:-1, 1:-1] = solved.reshape(inner, inner)
    return found
