"""The report's statistics against their definitions, other libraries' and simulated truth."""

import random
from pathlib import Path

import numpy as np
import pytest
from made import seeds, write_run
from scipy import stats

from qpa.report import statistics
from qpa.report.compare import compare
from qpa.report.runs import find
from qpa.report.table import rows
from qpa.report.verdict import sentences


def test_holm_is_its_definition() -> None:
    draw = random.Random(0)
    for _ in range(50):
        found = [draw.random() ** 3 for _ in range(draw.randint(1, 12))]
        order = sorted(range(len(found)), key=found.__getitem__)
        expected, largest = [0.0] * len(found), 0.0
        for rank, place in enumerate(order):
            largest = max(largest, min(1.0, (len(found) - rank) * found[place]))
            expected[place] = largest
        assert statistics.holm(found) == pytest.approx(expected)


def test_what_was_not_tested_counts_for_nothing() -> None:
    assert statistics.holm([0.01, None, 0.04, None]) == [pytest.approx(0.02), None, pytest.approx(0.04), None]
    assert statistics.holm([None]) == [None]


@pytest.mark.parametrize("shares", [[0.98, 1.01, 1.0], [0.9, 1.1, 1.0], [0.94, 0.96], [1.2, 1.21, 1.19, 1.2], [1.02, 1.03, 1.025]])
def test_as_good_is_a_90_percent_interval_within_the_margin(shares: list[float]) -> None:
    low, high = stats.t.interval(0.9, len(shares) - 1, loc=np.mean(shares), scale=stats.sem(shares))
    p = statistics.equivalence_p(shares)
    assert p is not None
    assert (p < 0.05) == (low > 0.95 and high < 1.05)


@pytest.mark.parametrize(("pairs", "tests"), [(2, 4), (3, 1), (3, 19), (5, 7), (20, 3)])
def test_detectable_difference_is_seen_four_times_in_five(pairs: int, tests: int) -> None:
    effect = statistics.detectable(pairs, tests=tests)
    draws = np.random.default_rng(1).normal(effect, 1.0, (20_000, pairs))
    seen = stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05 / tests  # pyright: ignore[reportAttributeAccessIssue]
    assert seen.mean() == pytest.approx(0.8, abs=0.015)


def test_interval_over_other_texts_covers_the_truth_as_often_as_it_says() -> None:
    """Two models of a known difference in nats read the same windows; each text is 60 windows of 100 tokens."""
    draw, covered = np.random.default_rng(2), 0
    for _ in range(200):
        windows = draw.normal(300.0, 30.0, 60)  # hard and easy ones, for both
        ours, other = (np.stack([windows + better + draw.normal(0, 4, 60), np.full(60, 100.0)], 1) for better in (-5.0, 0.0))
        interval = statistics.over_pieces([(ours, other)], lambda sums: sums[..., 0] / sums[..., 1])
        assert interval is not None
        covered += interval[0] <= -0.05 <= interval[1]
    assert 0.89 <= covered / 200 <= 0.99


def test_pairing_leaves_out_how_hard_the_text_is() -> None:
    windows = np.random.default_rng(3).normal(300.0, 30.0, 50)
    sides = [np.stack([windows * factor, np.full(50, 100.0)], 1) for factor in (0.9, 1.0)]
    paired = statistics.over_pieces([(sides[0], sides[1])], lambda sums: np.log(sums[..., 0] / sums[..., 1]))
    assert paired == pytest.approx((np.log(0.9), np.log(0.9)))


def test_of_many_settings_one_that_is_better_by_chance_is_not_called_better(tmp_path: Path) -> None:
    draw = random.Random(4)
    plain = [20.0, 20.3, 19.9]
    seeds(tmp_path, plain, kind="none")
    for width in range(1, 13):
        seeds(tmp_path, [value + draw.uniform(-1, 1) for value in plain], width=width)
    seeds(tmp_path, [19.0, 19.21, 18.95], width=20)  # p = 0.003 alone
    (comparison,) = compare(find(tmp_path).finished)
    (found,) = [d for d in comparison.against_baseline if d.setting.first.config["mapper.width"] == 20]
    assert found.p is not None
    assert stats.ttest_rel([19.0, 19.21, 18.95], plain).pvalue < 0.01 < found.p  # pyright: ignore[reportAttributeAccessIssue]
    assert found.p == pytest.approx(13 * stats.ttest_rel([19.0, 19.21, 18.95], plain).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    assert (found.tests, found.significant) == (13, found.p < 0.05)


def test_as_good_is_said_only_within_the_margin_of_the_gain(tmp_path: Path) -> None:
    seeds(tmp_path, [20.0, 20.2, 19.9], kind="none")
    seeds(tmp_path, [20.0, 20.3, 19.85])
    (comparison,) = compare(find(tmp_path).finished)
    assert next(row[5] for row in rows(comparison) if row[0] == "the circuit").endswith("%, as good")
    seeds(tmp_path, [21.5, 21.7, 21.4], width=9)
    (comparison,) = compare(find(tmp_path).finished)
    assert [row[5].endswith("as good") for row in rows(comparison) if "circuit" in row[0]] == [True, False]


@pytest.mark.parametrize("other", [None, [(200.0, 100)] * 3, [(200.0, 99)] * 4])
def test_interval_over_text_is_said_where_both_read_the_same_pieces(tmp_path: Path, other: list[tuple[float, int]] | None) -> None:
    pieces = [(300.0 + 10 * place, 100) for place in range(4)]
    better = [(nll - 9 - place, tokens) for place, (nll, tokens) in enumerate(pieces)]
    write_run(tmp_path, seed=1, value=20.0, kind="none", pieces=pieces)
    write_run(tmp_path, seed=1, value=19.0, pieces=better)
    (comparison,) = compare(find(tmp_path).finished)
    (difference,) = comparison.against_baseline
    assert difference.over_data is not None
    assert difference.over_data[0] < difference.over_data[1] < 0
    assert any("over other held-out data -" in sentence for sentence in sentences(comparison))
    write_run(tmp_path, seed=1, value=19.0, pieces=other, latents="table")
    (comparison,) = compare(find(tmp_path).finished)
    assert [d.over_data for d in comparison.against_controls] == [None]


def test_a_certain_difference_can_be_as_good_and_both_is_said(tmp_path: Path) -> None:
    seeds(tmp_path, [20.0, 20.3, 19.9])
    seeds(tmp_path, [19.9, 20.2001, 19.8], latents="zeros")
    (comparison,) = compare(find(tmp_path).finished)
    assert sentences(comparison)[0] == "The circuit is worse than (by less than 5% of its gain) nothing in its place."


def test_more_tests_need_a_larger_difference() -> None:
    for pairs in (2, 3, 5, 10):
        found = [statistics.detectable(pairs, tests=tests) for tests in (1, 2, 3, 4, 10, 50)]
        assert found == sorted(found)
        assert len({*found}) == 6


def test_piece_with_nothing_in_it_counts_for_nothing() -> None:
    sides = [np.array([[10.0 * factor, 5], [0, 0], [12.0 * factor, 5]]) for factor in (1.0, 1.1)]
    found = statistics.over_pieces([(sides[0], sides[1])], lambda sums: sums[..., 0] / sums[..., 1])
    assert found == statistics.over_pieces([(sides[0][[0, 2]], sides[1][[0, 2]])], lambda sums: sums[..., 0] / sums[..., 1])
