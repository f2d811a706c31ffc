"""Windows: what may be read when, which times are forecast in which split, and a scale that only training has made."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import planned
from rivers import config, river, saved

from qpa.config import Config, SeriesDataConfig, expected
from qpa.tasks.forecasting import baselines, series, windows
from qpa.tasks.forecasting.forecaster import Examples
from qpa.tasks.forecasting.task import Forecasting
from qpa.tasks.forecasting.windows import Windows

UNTIL = ["data.train_until=2001-05", "data.val_until=2001-06-30"]


def task_of(found: Config) -> Forecasting:
    task = planned(found).task
    assert isinstance(task, Forecasting)
    return task


def windows_of(found: Config) -> Windows:
    data = expected("data", found.data, SeriesDataConfig)
    return windows.cut(series.read(data), data)


@pytest.mark.parametrize(("window", "horizon"), [(6, 1), (9, 3), (1, 1)])
def test_a_window_ends_so_many_steps_before_what_is_forecast(tmp_path: Path, window: int, horizon: int) -> None:
    found = windows_of(config(tmp_path, f"data.window={window}", f"data.horizon={horizon}", *UNTIL))
    table = river()
    mean, deviation = found.scale
    for split in ("train", "val", "test"):
        read, examples = found.read(split), Examples(found, split)
        for number in (0, 1, len(read) - 1):
            day = date.fromisoformat(str(found.times(split)[number])[:10]) - timedelta(days=horizon)
            at = (day - date(2001, 1, 1)).days
            expected_rows = table[["rain", "flow"]].to_numpy()[at - window + 1 : at + 1]
            np.testing.assert_allclose(read[number] * deviation + mean, expected_rows)
            np.testing.assert_allclose(examples[number]["inputs"].numpy(), read[number], rtol=1e-6)
            assert examples[number]["observed"].item() == table["flow"][at + horizon]


def test_splits_are_told_by_what_is_forecast_and_the_first_windows_reach_back(tmp_path: Path) -> None:
    found = windows_of(config(tmp_path, *UNTIL))
    spans = {split: (str(found.times(split)[0])[:10], str(found.times(split)[-1])[:10]) for split in found.places}
    assert spans == {
        "train": ("2001-01-07", "2001-05-31"),
        "val": ("2001-06-01", "2001-06-30"),
        "test": ("2001-07-01", "2001-08-28"),
    }
    shares = windows_of(config(tmp_path, "data.val_fraction=0.25", "data.test_fraction=0.5"))
    assert {split: len(places) for split, places in shares.places.items()} == {"train": 54, "val": 60, "test": 120}


def test_scale_is_that_of_training_alone(tmp_path: Path) -> None:
    found, table = windows_of(config(tmp_path, *UNTIL)), river()
    before = table[table["time"] <= "2001-05-31"]
    np.testing.assert_allclose(found.scale, (before[["rain", "flow"]].mean(), before[["rain", "flow"]].std(ddof=0)))
    np.testing.assert_allclose(found.target_scale, (before["flow"].mean(), before["flow"].std(ddof=0)))


def test_what_comes_after_a_time_changes_no_forecast_made_until_then(tmp_path: Path) -> None:
    """Of the network, and of all that it is compared with: neither through windows, nor scale, nor what was fitted."""
    later = river()
    border = "2001-07-15"
    later.loc[later["time"] > border, ["rain", "flow"]] *= 7.3

    def said(table: pd.DataFrame, name: str) -> dict[str, np.ndarray]:
        task = task_of(config(tmp_path, *UNTIL, "data.horizon=2", file=saved(table, tmp_path / name)))
        found = {"network": task.forecasts(task.base(), "test")} | {who: given["test"] for who, given in task.baselines.items()}
        made_until = task.windows.times("test") - np.timedelta64(2, "D") <= np.datetime64(border)
        assert 10 < made_until.sum() < len(made_until)
        return {who: np.where(made_until, given, np.nan) for who, given in found.items()}

    one, other = said(river(), "one.csv"), said(later, "other.csv")
    for who in ("network", "persistence", "climatology", "linear"):
        np.testing.assert_array_equal(one[who], other[who], err_msg=who)


def test_only_columns_that_are_named_are_read(tmp_path: Path) -> None:
    table = river().assign(station="north")
    file = saved(table, tmp_path / "named.csv")
    assert windows_of(config(tmp_path, file=file)).series.columns == ("rain", "flow")
    found = windows_of(config(tmp_path, "data.inputs=[rain]", file=file))
    assert found.series.columns == ("rain",)
    assert found.series.target == "flow"


def test_series_is_the_same_whichever_way_it_is_written(tmp_path: Path) -> None:
    table = river()
    table.to_csv(tmp_path / "european.csv", sep=";", index=False)
    dated = table.assign(time=pd.to_datetime(table["time"]))
    dated.set_index("time").to_parquet(tmp_path / "indexed.parquet")
    rows = table.to_csv(index=False).splitlines(keepends=True)
    (tmp_path / "trailing.csv").write_text("".join(row.replace("\n", ",\n") for row in rows))
    (tmp_path / "dangling.csv").write_text(rows[0] + "".join(row.replace("\n", ",\n") for row in rows[1:]))
    (tmp_path / "units.csv").write_text("# a river\ntime,rain,flow\n#,mm,m3/s\n" + table.to_csv(index=False, header=False))
    written = dated.assign(time=dated["time"].dt.strftime("%d.%m.%Y"))
    files = [saved(table, tmp_path / "plain.csv"), saved(dated, tmp_path / "typed.parquet"), saved(written, tmp_path / "written.csv")]
    files += [tmp_path / name for name in ("european.csv", "indexed.parquet", "units.csv", "trailing.csv", "dangling.csv")]
    formats = [["data.time_format='%d.%m.%Y'"] if file.stem == "written" else [] for file in files]
    assert len({windows_of(config(tmp_path, *given, file=file)).series.digest for file, given in zip(files, formats, strict=True)}) == 1


def test_names_and_notes_may_have_any_letters(tmp_path: Path) -> None:
    table = river().rename(columns={"rain": "gauge #1, rain"}).assign(notes="")
    table.loc[3, "notes"] = "# looked at twice"
    assert windows_of(config(tmp_path, file=saved(table, tmp_path / "letters.csv"))).series.columns == ("gauge #1, rain", "flow")


@pytest.mark.parametrize(
    ("freq", "words"),
    [("D", "1 day"), ("6h", "6 hours"), ("MS", "1 month"), ("W", "7 days"), ("YE", "12 months"), ("28D", "28 days"), ("60D", "60 days")],
)
def test_steps_have_names(tmp_path: Path, freq: str, words: str) -> None:
    table = river().assign(time=pd.date_range("1960-01-01", periods=240, freq=freq).astype(str))
    assert windows_of(config(tmp_path, file=saved(table, tmp_path / "steps.csv"))).series.step == words


def test_baselines_are_what_they_say(tmp_path: Path) -> None:
    found = windows_of(config(tmp_path, *UNTIL, "data.horizon=2", file=saved(river(800), tmp_path / "long.csv")))
    said, table = baselines.forecasts(found), river(800).set_index("time")["flow"]
    days = [str(time)[:10] for time in found.times("test")]
    np.testing.assert_array_equal(said["persistence"]["test"], table.shift(2)[days])
    before = table[:"2001-05-31"]
    numbers = pd.to_datetime(before.index).dayofyear.to_numpy()
    for day, usual in list(zip(days, said["climatology"]["test"], strict=True))[::37]:
        near = np.abs(numbers - pd.Timestamp(day).dayofyear)
        near = np.minimum(near, 366 - near) <= 7
        assert usual == pytest.approx(before[near].mean() if near.any() else before.mean())
    flat = found.read("train").reshape(-1, 12)
    best = np.linalg.lstsq(np.c_[flat, np.ones(len(flat))], found.observed("train"), rcond=None)[0]
    plain = np.c_[found.read("test").reshape(-1, 12), np.ones(len(days))] @ best
    assert np.corrcoef(plain, said["linear"]["test"])[0, 1] > 0.99  # the ridge is a little shorter
    assert torch.from_numpy(said["linear"]["test"]).isfinite().all()


def test_a_column_that_does_not_change_in_training_is_read_in_its_own_unit(tmp_path: Path) -> None:
    """Its deviation is 1, and not what rounding makes of equal numbers."""
    table = river().assign(depth=1.3)
    table.loc[220:, "depth"] = 1.4
    found = task_of(config(tmp_path, file=saved(table, tmp_path / "depth.csv"))).windows
    assert found.scaled[-1, found.series.columns.index("depth")] == pytest.approx(0.1)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_days_of_a_time_zone_are_its_own(tmp_path: Path, ending: str) -> None:
    """Also across summer time."""
    table = river(start="2001-03-01")
    zoned = pd.DatetimeIndex(table["time"]).tz_localize("Europe/Berlin")
    times = zoned if ending == "parquet" else zoned.map(lambda time: time.isoformat())
    found = task_of(config(tmp_path, file=saved(table.assign(time=times), tmp_path / f"zoned.{ending}"))).windows.series
    assert [str(time) for time in found.times] == [f"{day}T00:00:00" for day in table["time"]]
    assert found.step == "1 day"


def test_hours_across_summer_time_have_no_gap(tmp_path: Path) -> None:
    hours = pd.date_range("2001-03-24", periods=240, freq="h", tz="Europe/Berlin").map(lambda time: time.isoformat())
    found = task_of(config(tmp_path, file=saved(river().assign(time=hours), tmp_path / "hours.csv"))).windows.series
    assert found.step == "1 hour"
