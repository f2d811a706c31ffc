"""Gains by how much there is to train on: which runs are put side by side, and what the figure and the table show of them."""

import math
from pathlib import Path

import pytest
from conftest import ROOT
from made import seeds, write_run
from scipy import stats

from qpa.commands.report import main
from qpa.report.compare import compare
from qpa.report.growth import Growth, figure, growths, heads, rows
from qpa.report.runs import find
from qpa.report.table import markdown_of

AMOUNTS = {5_000: 24.0, 40_000: 22.0, 1_000_000: 20.0}  # and what plain LoRA reaches


def found(root: Path) -> list[Growth]:
    return growths(compare(find(root).finished))


@pytest.fixture
def grown(tmp_path: Path) -> Growth:
    for amount, value in AMOUNTS.items():
        seeds(tmp_path, [value, value + 0.3, value - 0.2], kind="none", train_bytes=amount)
        seeds(tmp_path, [value + 0.5, value + 0.9, value + 0.2], train_bytes=amount)
        seeds(tmp_path, [value + 3.0], train_bytes=amount, lr=0.5, val=40.0)  # a rate that validation does not prefer
    seeds(tmp_path, [19.0, 19.5])  # of the whole text, which has no amount
    seeds(tmp_path, [19.0, 19.5], text="another", train_bytes=5_000)
    (growth,) = found(tmp_path)
    return growth


def test_runs_on_more_and_less_of_one_text_are_put_side_by_side(grown: Growth) -> None:
    assert grown.amounts == tuple(AMOUNTS)
    assert heads(grown) == ("setting", "trained", "5 kB", "40 kB", "1 MB")


def test_figure_has_the_gain_of_each_setting_at_its_best_rate_with_its_interval(grown: Growth) -> None:
    lines = {trace.name: trace for trace in figure(grown).data}  # pyright: ignore[reportAttributeAccessIssue]
    assert set(lines) == {"plain LoRA r=4, 1,000 numbers", "the circuit, 50 numbers"}
    base = grown.comparisons[0].settings[0].first.base
    for place, value in enumerate(AMOUNTS.values()):
        gains = [math.log(base / (value + more)) for more in (0.5, 0.9, 0.2)]
        line = lines["the circuit, 50 numbers"]
        assert line.y[place] == pytest.approx(sum(gains) / 3)
        assert line.error_y.array[place] == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(gains))


def test_table_has_the_baselines_gain_and_what_others_keep_of_it(grown: Growth) -> None:
    plain, circuit = rows(grown)
    base = grown.comparisons[0].settings[0].first.base
    for place, value in enumerate(AMOUNTS.values(), 2):
        gain = sum(math.log(base / (value + more)) for more in (0, 0.3, -0.2)) / 3
        assert plain[place].startswith(f"{gain:.3f} ± ")
        assert plain[place].endswith(" nats")
        shares = [math.log(base / (value + ours)) / math.log(base / (value + other)) for ours, other in ((0.5, 0), (0.9, 0.3), (0.2, -0.2))]
        assert circuit[place].startswith(f"{100 * sum(shares) / 3:.1f} ± ")


def test_one_amount_alone_is_no_growth(tmp_path: Path) -> None:
    seeds(tmp_path, [20.0, 21.0], train_bytes=5_000)
    assert found(tmp_path) == []


def test_report_writes_it_into_page_tables_and_figures(grown: Growth, tmp_path: Path) -> None:
    main([f"runs={tmp_path}", f"out={tmp_path}/out"])
    assert "How much data it takes" in (tmp_path / "out" / "index.html").read_text()
    assert "| the circuit | 50 |" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "growth.png").stat().st_size > 10_000


def test_setting_that_shares_no_seed_with_the_baseline_has_its_gain(tmp_path: Path) -> None:
    for amount in AMOUNTS:
        write_run(tmp_path, seed=1, value=20.0, kind="none", train_bytes=amount)
        write_run(tmp_path, seed=2, value=21.0, train_bytes=amount)
    (growth,) = found(tmp_path)
    assert all(cell.endswith(" nats") for row in rows(growth) for cell in row[2:])


def test_better_is_not_called_worse(tmp_path: Path) -> None:
    for amount in AMOUNTS:
        seeds(tmp_path, [20.0, 20.1, 20.2], kind="none", train_bytes=amount)
        seeds(tmp_path, [18.0, 18.11, 18.19], train_bytes=amount)
        seeds(tmp_path, [22.0, 22.11, 22.19], train_bytes=amount, latents="table")
        seeds(tmp_path, [20.1, 20.2, 20.301], train_bytes=amount, latents="zeros")
    (growth,) = found(tmp_path)
    words = {row[0]: row[2].split(" %")[1] for row in rows(growth)[1:]}
    assert words == {"the circuit": ", better", "a learned table": ", worse", "nothing in its place": ", worse, as good"}


def test_settings_of_equal_size_are_lines_of_their_own(tmp_path: Path) -> None:
    for amount, better in zip(AMOUNTS, (1, 2, 1), strict=True):
        for layers in (1, 2):
            seeds(tmp_path, [20.0 + (layers == better), 20.5], train_bytes=amount, layers=layers)
    (growth,) = found(tmp_path)
    assert [row[0] for row in rows(growth)] == [
        "the circuit (layers=1)",
        "the circuit (layers=2)",
    ]
    base = growth.comparisons[0].settings[0].first.base
    first, _ = figure(growth).data  # pyright: ignore[reportGeneralTypeIssues]
    assert list(first.y) == [pytest.approx((math.log(base / value) + math.log(base / 20.5)) / 2) for value in (21.0, 20.0, 21.0)]


def test_table_of_the_results_is_that_of_the_records() -> None:
    (growth,) = found(ROOT / "docs" / "little_text")
    assert markdown_of(growth) in (ROOT / "docs" / "results.md").read_text()
