"""Solutions against formulas: Burgers' equation by Cole and Hopf, Darcy flow by one that was chosen beforehand."""

import numpy as np
import pytest
from scipy import fft

from qpa.tasks.operators import equations

FINE = 2048


def cole_hopf(first: np.ndarray, viscosity: float, time: float) -> np.ndarray:
    """Exactly: `u = -2 v phi_x / phi`, where `phi` spreads as heat does from `exp(-1 / (2 v) * integral of u)`."""
    modes = fft.rfft(first, axis=1, norm="forward")
    waves = 2 * np.pi * np.arange(FINE // 2 + 1)
    integral = np.zeros((len(first), FINE // 2 + 1), complex)
    integral[:, 1 : modes.shape[1]] = modes[:, 1:] / (1j * waves[1 : modes.shape[1]])
    phi = fft.rfft(np.exp(-fft.irfft(integral, FINE, axis=1, norm="forward") / (2 * viscosity)), axis=1) * np.exp(
        -viscosity * waves**2 * time
    )
    found = -2 * viscosity * fft.irfft(1j * waves * phi, FINE, axis=1) / fft.irfft(phi, FINE, axis=1)
    return found[:, :: FINE // first.shape[1]]


@pytest.mark.parametrize("viscosity", [0.1, 0.01, 0.005])
def test_burgers_is_that_of_cole_and_hopf(viscosity: float) -> None:
    first, last = equations.burgers(8, 128, viscosity=viscosity, time=1.0, rng=np.random.default_rng(0))
    exact = cole_hopf(first, viscosity, 1.0)
    assert (np.linalg.norm(last - exact, axis=1) < 1e-4 * np.linalg.norm(exact, axis=1)).all()


def test_fronts_that_the_grid_cannot_show_are_refused() -> None:
    with pytest.raises(equations.UnresolvedError, match="64 points"):
        equations.burgers(8, 64, viscosity=0.001, time=1.0, rng=np.random.default_rng(0))


def test_waves_are_of_the_published_distribution() -> None:
    waves = equations.random_waves(4000, 64, np.random.default_rng(0))
    modes = 2 * np.pi * np.arange(1, 32)
    assert abs(waves.mean(1)).max() < 1e-12
    assert waves.var() == pytest.approx(2 * (625 / (modes**2 + 25) ** 2).sum(), rel=0.03)


def test_darcy_comes_to_a_chosen_solution_with_the_square_of_the_step() -> None:
    errors = []
    for grid in (17, 33, 65):
        x, y = np.meshgrid(*2 * [np.linspace(0, 1, grid)], indexing="ij")
        chosen = np.sin(np.pi * x) * np.sin(2 * np.pi * y)
        by_x, by_y = np.pi * np.cos(np.pi * x) * np.sin(2 * np.pi * y), 2 * np.pi * np.sin(np.pi * x) * np.cos(2 * np.pi * y)
        source = (1 + x + y**2) * 5 * np.pi**2 * chosen - by_x - 2 * y * by_y
        errors.append(abs(equations.darcy_of(1 + x + y**2, source) - chosen).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_darcy_through_two_layers_is_the_law_of_resistances_in_a_row() -> None:
    """Of layers across the flow, whose border lies halfway between two points: flows are equal on both sides of it."""
    coefficient = np.where(np.arange(16)[:, None] < 8, 3.0, 12.0) * np.ones((16, 16))
    found = equations.darcy_of(coefficient, np.ones((16, 16)))
    step = 1 / 15
    flow = 2 * 3 * 12 / (3 + 12) * (found[8] - found[7]) / step
    inner = slice(1, -1)
    before, after = 3 * (found[7] - found[6]) / step, 12 * (found[9] - found[8]) / step
    across = [coefficient[row, 0] * (found[row, :-2] - 2 * found[row, 1:-1] + found[row, 2:]) / step**2 for row in (7, 8)]
    np.testing.assert_allclose((flow[inner] - before[inner]) / step + across[0], -1, atol=1e-9)
    np.testing.assert_allclose((after[inner] - flow[inner]) / step + across[1], -1, atol=1e-9)


def test_functions_do_not_depend_on_how_many_there_are() -> None:
    few, many = (equations.random_waves(count, 32, np.random.default_rng(3)) for count in (4, 16))
    assert (few == many[:4]).all()
    few, many = (equations.random_fields(count, 12, np.random.default_rng(3)) for count in (4, 16))
    np.testing.assert_allclose(few, many[:4], atol=1e-15)
