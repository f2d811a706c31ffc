"""What needs no network: the last value, the usual value of the season, a linear model of the window. Stands beside every result."""

from collections.abc import Callable

import numpy as np

from qpa.tasks.forecasting.windows import Windows

YEAR = 366
WITHIN = 7  # days before and after, of all years, that make the usual value of a day
STRENGTHS = np.logspace(-2, 5, 15)  # of the ridge, chosen by leaving one training window out
MOST = 50_000_000  # numbers of all training windows that the linear model reads; of more, every so many-th window


def forecasts(windows: Windows) -> dict[str, dict[str, np.ndarray]]:
    """By baseline and split, `val` and `test`, its forecasts in the target's unit, `[n]`."""
    made: dict[str, Callable[[str], np.ndarray]] = {
        "persistence": lambda split: windows.series.observed[windows.places[split] - windows.horizon],
        "climatology": _climatology(windows),
        "linear": _linear(windows),
    }
    return {name: {split: forecast(split) for split in ("val", "test")} for name, forecast in made.items()}


def _climatology(windows: Windows) -> Callable[[str], np.ndarray]:
    """The mean, while training, of what was observed around the same day of the year, at the same time of day."""
    days, clocks = _calendar(windows.series.times)
    observed = windows.series.observed[: windows.known]
    usual: dict[int, np.ndarray] = {}
    for clock in np.unique(clocks).tolist():
        own = np.flatnonzero(clocks[: windows.known] == clock)
        sums, counts = (_around(np.bincount(days[own], weights, minlength=YEAR)) for weights in (observed[own], None))
        usual[clock] = np.where(counts > 0, sums / np.maximum(counts, 1), observed.mean())
    return lambda split: np.array([usual[int(clocks[place])][days[place]] for place in windows.places[split]])


def _calendar(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The day of the year, from 0, and the second of the day."""
    whole = times.astype("datetime64[D]")
    return (whole - times.astype("datetime64[Y]")).astype(int), (times - whole).astype("timedelta64[s]").astype(int)


def _around(of_days: np.ndarray) -> np.ndarray:
    """Sums over the days within `WITHIN`; December's last come before January's first."""
    return np.convolve(np.pad(of_days.astype(float), WITHIN, mode="wrap"), np.ones(2 * WITHIN + 1), mode="valid")


def _linear(windows: Windows) -> Callable[[str], np.ndarray]:
    """A ridge regression on all numbers of the window."""
    from sklearn.linear_model import RidgeCV

    def flat(split: str, every: int = 1) -> np.ndarray:
        return windows.read(split)[::every].reshape(-1, windows.window * windows.scaled.shape[1])

    every = -(-len(windows.places["train"]) * windows.window * windows.scaled.shape[1] // MOST)
    model = RidgeCV(STRENGTHS).fit(flat("train", every), windows.observed("train")[::every])
    return lambda split: model.predict(flat(split))
