"""Series that cannot be learned from: one line each, with the way out, before anything is written or torch is imported."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, train_run
from rivers import arguments, config, river, saved

from qpa.config import Config, parse
from qpa.config.composing import composed
from qpa.errors import ConfigError


def refused(found: Config, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        train_run(found)
    assert "\n" not in str(error.value)
    assert not Path(str(found.run_dir)).exists()


def without(row: int) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.drop(index=row)


def with_value(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def spoilt(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype(object)
        table.loc[row, column] = value
        return table

    return spoilt


def swapped(table: pd.DataFrame) -> pd.DataFrame:
    return table.iloc[[0, 1, 3, 2, *range(4, len(table))]]


def months(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(time=pd.date_range("1990-01-31", periods=len(table), freq="ME").astype(str)).drop(index=5)


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without(3), r"2001-01-04 is missing: after 2001-01-03 comes 2001-01-05, and most steps are of 1 day; give a row for each"),
        (months, r"1990-06 is missing: after 1990-05-31 comes 1990-07-31, and most steps are of 1 month"),
        (with_value("time", 3, "2001-01-03"), r"has 2001-01-03 twice \(row 4\); give one row for each time, sorted"),
        (with_value("time", 3, "2001-01-03T12:00"), r"2001-01-03T12:00 comes too soon after 2001-01-03, and most steps are of 1 day"),
        (swapped, r"is not in order: 2001-01-03 stands after 2001-01-04 \(row 4\)"),
        (
            with_value("time", 3, "04.01.2001"),
            r"row 4 of column time is 04.01.2001, no ISO 8601 time, .*; mend it, or give data.time_format",
        ),
        (with_value("flow", 9, ""), r"column flow is empty at 2001-01-10, and has to be a finite number below 1e\+30 \(1 such rows\)"),
        (with_value("rain", 9, "much"), r"column rain is much at 2001-01-10, and has to be a finite number"),
        (with_value("rain", 0, "much"), r"column rain is much at 2001-01-01, and has to be a finite number"),
        (with_value("flow", 9, "1e300"), r"column flow is 1e300 at 2001-01-10, and has to be a finite number below 1e\+30"),
        (with_value("rain", 9, "2.5 # guessed"), r"column rain is 2.5 # guessed at 2001-01-10, and has to be a finite number"),
        (lambda table: table.set_axis(["time", "flow", "flow"], axis=1), r"has two columns of the name flow; rename one"),
        (lambda table: table.reset_index().rename(columns={"index": ""}), r"row 1 has 0 in column 1, which has no name; name it, or mend"),
        (with_value("flow", 4, "5.0,6"), r"column flow is 5.0,6 at 2001-01-05, and has to be a finite number"),
        (with_value("rain", 9, "2,5"), r"column rain is 2,5 at 2001-01-10, .*; write them with a decimal point, or leave the column out"),
        (with_value("rain", 9, "inf"), r"column rain is inf at 2001-01-10, and has to be a finite number"),
        (lambda table: table.head(1), r"has a single time; give a series"),
        (lambda table: table.head(0), r"has no rows"),
    ],
)
def test_series_that_cannot_be_used_is_one_line(tmp_path: Path, spoil: Callable[[pd.DataFrame], pd.DataFrame], words: str) -> None:
    file = saved(spoil(river()), tmp_path / "bad.csv")
    refused(config(tmp_path, file=file), f"^data.file={re.escape(str(file))}.*{words}")


def test_row_with_more_numbers_than_names_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "longer.csv"
    file.write_text(river().to_csv(index=False) + "2001-08-29,0.1,5.2,7.5\n")
    refused(config(tmp_path, file=file), r"row 241 has 7.5 in column 4, which has no name; name it, or mend the row")


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("data.target=flw", r"^data.target=flw: there is no such column; did you mean flow\?"),
        ("data.inputs=[flow,rian]", r"^data.inputs=rian: there is no such column; did you mean rain\?"),
        ("data.inputs=[flow,flow]", r"names a column twice"),
        ("data.time_column=day", r"^data.time_column=day: there is no such column; there are time, rain, flow"),
        ("data.target=null", r"^data.target=None: name the column that is to be forecast"),
        ("data.time_format='%d.%m.%Y'", r"row 1 of column time is 2001-01-01, not written as %d.%m.%Y"),
        ("data.file=none.csv", r"^data.file=none.csv: there is no such file"),
        ("data.file=null", r"^data.file=None: give a CSV or Parquet file"),
        ("data.window=300", r"^data.window=300: and data.horizon=1 are longer than the series, which has 240 times; give a shorter window"),
        (
            "data.horizon=300",
            r"^data.horizon=300: and data.window=6 are longer than the series, which has 240 times; give a shorter horizon",
        ),
        ("data.horizon=200", r"^data.horizon=200: leaves no time to forecast in split train"),
        ("data.test_fraction=0.001", r"^data.test_fraction=0.001: leaves no time to forecast in split test"),
        (
            "data.train_until=2001-06-01T00:00Z data.val_until=2001-07",
            r"has a zone; give it as the series' own times are, from 2001-01-01 to",
        ),
        ("data.train_until=1999 data.val_until=2001", r"^data.train_until=1999: is not within the series"),
        ("data.window=190", r"leaves no time to forecast in split train .* come before the first forecast"),
        ("data.train_until=2001-03", r"^data.train_until=2001-03: give data.train_until and data.val_until both, or neither"),
        (
            "data.train_until='1999' data.val_until=2001-06",
            r"data.train_until=1999: is not within the series, which runs from 2001-01-01 to 20",
        ),
        (
            "data.train_until=2001-03 data.val_until=2002-06",
            r"data.val_until=2002-06: is not within the series, which runs from 2001-01-01",
        ),
        ("data.train_until=2001-06 data.val_until=2001-03", r"data.val_until=2001-03: leaves no time to forecast in split val"),
        ("data.train_until=spring data.val_until=2001-06", r"data.train_until=spring: is no time, as 1986-12-31 or 1986-12 is"),
        ("peft=prefix", r"its prompts stand before text, and this is a series; choose another, as peft=lora"),
        ("trainer=fsdp", r"this model has no layers to share out; use trainer=ddp"),
        ("model=series_transformer model.heads=5", r"^model.heads=5: has to divide model.width=32"),
    ],
)
def test_setting_that_cannot_be_used_is_one_line(tmp_path: Path, overrides: str, words: str) -> None:
    refused(config(tmp_path, *overrides.split()), words)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("data.package=no_such_river", r"^data.package=no_such_river: not installed; make setup EXTRAS=forecasting, or pip install spotpy"),
        ("data.sha256=ab", r"^data.sha256=ab: .* has e9866a7b.*; reinstall spotpy"),
        ("data=pydoc", r"^data.source=pydoc: this task reads no such data"),
    ],
)
def test_default_series_that_is_not_there_is_one_line(tmp_path: Path, overrides: str, words: str) -> None:
    refused(parse(composed("train", ["task=forecasting", "logger=none", f"run_dir={tmp_path}/run", overrides])), words)


def test_shares_that_leave_nothing_to_train_on_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^data.test_fraction=0.6: and data.val_fraction=0.4 leave nothing to train on; give smaller ones$"
    ):
        config(tmp_path, "data.val_fraction=0.4", "data.test_fraction=0.6")


@pytest.mark.parametrize(("split", "places"), [("train", slice(0, 168)), ("val", slice(168, 192)), ("test", slice(192, 240))])
def test_target_that_never_changes_is_one_line(tmp_path: Path, split: str, places: slice) -> None:
    table = river()
    table.loc[table.index[places], "flow"] = 7.5
    file = saved(table, tmp_path / "dry.csv")
    refused(config(tmp_path, file=file), rf"^data.target=flow: is 7.5 at all \d+ times of split {split}, so that nothing can be told there")


def test_a_mistake_is_found_before_torch_is_imported(tmp_path: Path) -> None:
    file = saved(without(3)(river()), tmp_path / "bad.csv")
    code = "import sys\nfrom qpa.commands.train import script\ntry:\n    script()\nfinally:\n    assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, *arguments(tmp_path, file=file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "2001-01-04 is missing" in done.stderr
    assert len(done.stderr.splitlines()) == 1
