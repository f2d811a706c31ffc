"""Windows of a series: what is read up to a time, and what is forecast some steps later; splits, and the scale of what is read.

A split is told by the times that are forecast. What is read for them may lie before the split's first time, as it would in use; never after
the time at which the forecast is made. Symbols: `n` forecasts, `W` times of a window, `F` columns. No torch.
"""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from qpa.config import SeriesDataConfig
from qpa.errors import ConfigError
from qpa.tasks.forecasting.series import ZONE, Series

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Windows:
    """A series cut into windows.

    Attributes:
        series: all of it.
        window: `W`.
        horizon: steps from a window's last time to the one that is forecast.
        places: by split, the places in the series that are forecast.
        given: mean and deviation of each column, and both of what is forecast, that a network was trained with; None: those of the
            training values.
    """

    series: Series
    window: int
    horizon: int
    places: dict[str, np.ndarray]
    given: tuple[np.ndarray, np.ndarray, tuple[float, float]] | None = None

    @cached_property
    def known(self) -> int:
        """How many values, from the first, training may look at."""
        return int(self.places["train"][-1]) + 1

    @cached_property
    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of each column while training, `[F]` each; a column that does not change there has a deviation of 1."""
        if self.given:
            return self.given[:2]
        values = self.series.values[: self.known]
        return values.mean(0), np.where(np.ptp(values, axis=0) > 0, values.std(0), 1.0)  # of equal ones rounding would make a small one

    @cached_property
    def target_scale(self) -> tuple[float, float]:
        """The same of what is forecast."""
        if self.given:
            return self.given[2]
        observed = self.series.observed[: self.known]
        return float(observed.mean()), float(observed.std())

    @cached_property
    def scaled(self) -> np.ndarray:
        """The columns less their mean, over their deviation, `[T, F]`."""
        mean, deviation = self.scale
        return (self.series.values - mean) / deviation

    def starts(self, split: str) -> np.ndarray:
        """Of each window of a split its first place, `[n]`."""
        return self.places[split] - self.horizon - self.window + 1

    def read(self, split: str) -> np.ndarray:
        """All windows of a split, scaled, `[n, W, F]`."""
        return sliding_window_view(self.scaled, self.window, axis=0)[self.starts(split)].transpose(0, 2, 1)

    def observed(self, split: str) -> np.ndarray:
        """What is to be forecast, in its own unit, `[n]`."""
        return self.series.observed[self.places[split]]

    def times(self, split: str) -> np.ndarray:
        """Of that, `[n]`."""
        return self.series.times[self.places[split]]


def cut(series: Series, data: SeriesDataConfig) -> Windows:
    """A series as the config has it split and cut.

    Raises:
        ConfigError: a split would be empty, or what is forecast there always the same.
    """
    first = data.window + data.horizon - 1
    borders = _by_time(series, data) if data.train_until is not None else _by_share(series, data)
    ends = (0, *borders, len(series))
    places = {split: np.arange(max(first, ends[number]), ends[number + 1]) for number, split in enumerate(SPLITS)}
    for split, found in places.items():
        _check(split, series, found, data)
    return Windows(series, data.window, data.horizon, places)


def _by_time(series: Series, data: SeriesDataConfig) -> list[int]:
    """The places after the last to train on, and after the last of validation."""
    borders: list[int] = []
    for key in ("train_until", "val_until"):
        given = str(getattr(data, key))
        if re.match(ZONE, given):
            raise ConfigError(f"data.{key}", given, f"has a zone; give it as the series' own times are, from {_said(series)}")
        try:
            border = np.datetime64(given)
            after = border + np.timedelta64(1, np.datetime_data(border.dtype)[0])  # the whole day, or month, or year
        except ValueError as error:
            raise ConfigError(f"data.{key}", given, "is no time, as 1986-12-31 or 1986-12 is") from error
        if np.isnat(border) or not series.times[0] <= after or not border < series.times[-1]:
            problem = f"is not within the series, which runs from {_said(series)}"
            raise ConfigError(f"data.{key}", given, f"{problem}; give a time in it that leaves some for the next split")
        borders.append(int(np.searchsorted(series.times, after)))
    return borders


def _said(series: Series) -> str:
    """Its first and last time."""
    return f"{series.times[0]} to {series.times[-1]}".replace("T00:00:00", "")


def _by_share(series: Series, data: SeriesDataConfig) -> list[int]:
    test = round(data.test_fraction * len(series))
    val = round(data.val_fraction * len(series))
    return [len(series) - test - val, len(series) - test]


def _check(split: str, series: Series, places: np.ndarray, data: SeriesDataConfig) -> None:
    if not len(places):
        longer, other = ("horizon", "window") if data.horizon > data.window else ("window", "horizon")
        both = f"data.{other}={getattr(data, other)}"
        if data.window + data.horizon > len(series):
            problem = f"and {both} are longer than the series, which has {len(series):,} times; give a shorter {longer}"
            raise ConfigError(f"data.{longer}", getattr(data, longer), problem)
        named = {"train": longer, "val": "val_fraction", "test": "test_fraction"}
        key = {"train": "train_until", "val": "val_until", "test": "val_until"}[split] if data.train_until else named[split]
        short = f"data.window={data.window} and data.horizon={data.horizon} times come before the first forecast"
        raise ConfigError(f"data.{key}", getattr(data, key), f"leaves no time to forecast in split {split} ({short}); move the splits")
    observed = series.observed[places]
    if (observed == observed[0]).all():
        problem = f"is {observed[0]:g} at all {len(places):,} times of split {split}, so that nothing can be told there"
        raise ConfigError("data.target", series.target, f"{problem}; choose another column, or other splits")
