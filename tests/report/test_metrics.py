"""Tasks that are judged by other metrics than perplexity: directions, scales, units and words."""

import csv
import json
import math
import random
import statistics
from pathlib import Path

import numpy as np
import pytest
from made import ACCURACY, BASES, PERPLEXITY, RETURN, TASKS, seeds, write_run

from qpa.commands.report import main
from qpa.report.axes import axes
from qpa.report.compare import Comparison, compare
from qpa.report.figures import all_figures, mean_curve
from qpa.report.gains import gain, sizes
from qpa.report.images import write_figure
from qpa.report.looks import COLOURS
from qpa.report.page import captions
from qpa.report.runs import find
from qpa.report.table import heads, rows
from qpa.report.verdict import label, sentences

ERROR = {"name": "error", "unit": "%", "better": "lower", "scale": "linear"}


def compared(root: Path) -> Comparison:
    (comparison,) = compare(find(root).finished)
    return comparison


def test_metric_and_its_opposite_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything chosen by accuracy is what would be chosen by the share of errors, 100 % less the accuracy."""
    monkeypatch.setitem(BASES, "error", 100 - BASES["accuracy"])
    monkeypatch.setitem(TASKS, "error", TASKS["accuracy"])
    draw = random.Random(3)
    for number in range(24):
        kind, latents = ("none", "circuit") if number < 4 else ("qpa", draw.choice(["circuit", "table"]))
        own = {"trainable": draw.randint(20, 90), "width": number // 4, "lr": draw.choice([0.01, 0.03]), "kind": kind, "latents": latents}
        for seed in range(draw.randint(1, 4)):
            value, val = draw.uniform(45, 95), draw.uniform(45, 95)
            write_run(tmp_path / "up" / str(number), seed=seed, value=value, metric=ACCURACY, val=val, **own)
            write_run(tmp_path / "down" / str(number), seed=seed, value=100 - value, metric=ERROR, val=100 - val, **own)
    up, down = compared(tmp_path / "up"), compared(tmp_path / "down")
    assert up.baseline is not None
    assert down.baseline is not None
    assert up.baseline.first.setting == down.baseline.first.setting
    for chosen in ("settings", "best", "front"):
        assert [s.first.setting for s in getattr(up, chosen)] == [s.first.setting for s in getattr(down, chosen)]
    assert len(up.front) > 1
    for found in (up, down):
        assert list(all_figures(found)["pareto"].data[0].y) == [s.test.mean for s in found.front]
    assert len(up.against_controls) > 2
    for ours, theirs in zip(up.against_baseline + up.against_controls, down.against_baseline + down.against_controls, strict=True):
        assert ours.difference.mean == pytest.approx(-theirs.difference.mean)
        assert ours.p == pytest.approx(theirs.p)
        assert (ours.better, ours.significant) == (theirs.better, theirs.significant)
        assert (ours.gain_kept and ours.gain_kept.mean) == pytest.approx(theirs.gain_kept and theirs.gain_kept.mean)
    assert [line for line in sentences(up) if "distinguish" in line] == [line for line in sentences(down) if "distinguish" in line]


@pytest.mark.parametrize(
    ("metric", "plain", "circuit", "table", "base"),
    [
        (ACCURACY, [90.0, 91.0, 92.0], [80.0, 81.5, 83.0], [70.0, 71.0, 72.2], 40.0),
        (RETURN, [-9.0, -8.0, 7.0], [-40.0, -30.0, -22.0], [-90.0, -85.0, -70.0], -300.0),
    ],
    ids=["accuracy", "return"],
)
def test_words_and_gains_of_a_metric_of_which_more_is_better(
    tmp_path: Path, metric: dict[str, str], plain: list[float], circuit: list[float], table: list[float], base: float
) -> None:
    seeds(tmp_path, plain, metric=metric, kind="none")
    seeds(tmp_path, circuit, metric=metric)
    seeds(tmp_path, table, metric=metric, latents="table")
    comparison = compared(tmp_path)
    told = sentences(comparison)
    above = statistics.fmean(a - b for a, b in zip(circuit, table, strict=True))
    below = statistics.fmean(b - a for a, b in zip(circuit, plain, strict=True))
    kept = statistics.fmean((a - base) / (b - base) for a, b in zip(circuit, plain, strict=True))
    points, unit = (" points", " %") if metric is ACCURACY else ("", "")
    assert told[0] == "The circuit is better than a learned table."
    assert told[1].startswith(f"Its {metric['name']}: against a learned table {above:.3g}{points} higher, 95 % interval +")
    assert told[2].startswith(f"Plain LoRA r=4 on lm_head, 1,000 numbers: {metric['name']} {statistics.fmean(plain):.3f} ± ")
    assert told[2].endswith(f"{unit}.")
    (line,) = [line for line in told if line.startswith("At 5.00% of its numbers, the circuit")]
    assert f"{below:.3g}{points} lower" in line
    assert f"{kept:.1%}" in line
    assert "of its gain is kept" in line
    assert not any("perplexity" in line for line in told)


def test_large_numbers_are_said_without_an_exponent(tmp_path: Path) -> None:
    seeds(tmp_path, [900.0, 1500.0, 1210.0], metric=RETURN, kind="none")
    seeds(tmp_path, [100.0, 400.0, 320.0], metric=RETURN)
    told = " ".join(sentences(compared(tmp_path)))
    assert "return 1203.333 ± 750" in told
    assert "930 lower, 95 % interval -1,310 to -548" in told
    assert "e+" not in told


def test_table_and_figures_name_metric_and_unit(tmp_path: Path) -> None:
    seeds(tmp_path, [90.0, 91.0], metric=ACCURACY, kind="none")
    seeds(tmp_path, [88.0, 89.5], metric=ACCURACY)
    comparison = compared(tmp_path)
    assert heads(comparison)[3] == axes(comparison.metric)["test"].title == "test accuracy, %"
    (row,) = [row for row in rows(comparison) if row[0] == "the circuit"]
    assert row[4].startswith("-1.75 ± ")
    figures = {name: figure.layout for name, figure in all_figures(comparison).items()}
    assert figures["pareto"].yaxis.title.text == "test accuracy, %"
    assert figures["differences"].xaxis.title.text == "difference of test accuracy, points"
    assert figures["curves"].yaxis.title.text == "validation accuracy, %"
    assert "right is better" in captions(comparison)["differences"]


def test_curves_of_runs_that_are_measured_at_other_places_are_averaged_where_both_are(tmp_path: Path) -> None:
    """Two straight lines, of which the mean is one again."""
    rising = tuple((place, 2.0 * place) for place in range(50, 400, 70))
    falling = ((10, -10.0), (310, -310.0))
    places, means = mean_curve([rising, falling], alike=False)
    assert (places[0], 300 <= places[-1] <= 310) == (50, True)
    np.testing.assert_allclose(means, 0.5 * np.array(places), rtol=1e-5)
    assert mean_curve([((1, 2.0), (3, 4.0)), ((3, 6.0),)], alike=True) == ([1, 3], [2.0, 5.0])
    assert mean_curve([], alike=False) == ([], [])


def test_baseline_and_rates_are_those_with_the_higher_validation_accuracy(tmp_path: Path) -> None:
    seeds(tmp_path, [70.0, 71.0], metric=ACCURACY, kind="none", lr=0.001, val=75.0)
    seeds(tmp_path, [90.0, 91.0], metric=ACCURACY, kind="none", lr=0.1, val=74.0)
    comparison = compared(tmp_path)
    assert comparison.baseline is not None
    assert comparison.baseline.first.learning_rate == 0.001


def test_small_numbers_keep_three_digits(tmp_path: Path) -> None:
    metric = PERPLEXITY | {"name": "accuracy"}  # of ratios, as a relative error is
    seeds(tmp_path, [0.000123, 0.000125], metric=metric, kind="none", base=0.01)
    seeds(tmp_path, [0.000456, 0.000458], metric=metric, base=0.01)
    comparison = compared(tmp_path)
    (row,) = [row for row in rows(comparison) if row[0] == "the circuit"]
    assert row[3].startswith("0.000457 ± ")
    assert row[4].startswith("0.000333 ± ")
    kept = statistics.fmean(math.log(0.01 / a) / math.log(0.01 / b) for a, b in ((0.000456, 0.000123), (0.000458, 0.000125)))
    assert row[5].startswith(f"{100 * kept:.1f} ± ")
    assert any("accuracy 0.000124 ± " in line for line in sentences(comparison))


def test_zero_and_negative_values_are_numbers_but_of_a_metric_on_a_log_scale(tmp_path: Path) -> None:
    write_run(tmp_path, seed=1, value=0.0, metric=ACCURACY)
    write_run(tmp_path, seed=1, value=-12.5, metric=RETURN)
    broken = write_run(tmp_path, seed=1, value=-1.0)
    odd = write_run(tmp_path, seed=2, value=1.0, metric=ACCURACY | {"better": "up"})
    found = find(tmp_path)
    assert sorted(run.test for run in found.finished) == [-12.5, 0.0]
    assert found.damaged == {
        str(broken): "test=-1.0: Input should be greater than 0",
        str(odd): "better='up': Input should be 'lower' or 'higher'",
    }


def test_runs_of_other_metrics_or_tasks_are_not_compared(tmp_path: Path) -> None:
    seeds(tmp_path / "runs", [20.0, 21.0], kind="none")
    seeds(tmp_path / "runs", [90.0, 91.0], metric=ACCURACY)
    seeds(tmp_path / "runs", [-90.0, -91.0], metric=RETURN, kind="none")
    comparisons = compare(find(tmp_path / "runs").finished)
    assert sorted(c.name for c in comparisons) == [
        "MLP on Pendulum-v1, 960 examples read",
        "SmolLM2-135M-Instruct on wikitext2/train.txt, 122,880 tokens read",
        "ViT on CIFAR-10, 960 examples read",
    ]
    assert not any(c.against_baseline for c in comparisons)
    main([f"runs={tmp_path}/runs", f"out={tmp_path}/out"])
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {task["metric"]["name"]: task["metric"]["better"] for task in told["tasks"]} == {
        "perplexity": "lower",
        "accuracy": "higher",
        "return": "higher",
    }
    table = [(row["metric"], float(row["test"])) for row in csv.DictReader((tmp_path / "out" / "report.csv").open())]
    assert sorted(table) == [("accuracy", 90), ("accuracy", 91), ("perplexity", 20), ("perplexity", 21), ("return", -91), ("return", -90)]
    assert "test accuracy, %" in (tmp_path / "out" / "report.md").read_text()
    assert "test accuracy, %" in (tmp_path / "out" / "index.html").read_text()


def test_what_a_plug_in_puts_in_the_circuits_place_goes_by_its_own_name(tmp_path: Path) -> None:
    seeds(tmp_path, [20.0, 21.0, 22.0], kind="none")
    seeds(tmp_path, [21.0, 22.0, 23.1])
    seeds(tmp_path, [31.0, 32.0, 33.0], latents="oracle")
    comparison = compared(tmp_path)
    assert sentences(comparison)[0] == "The circuit is better than oracle."
    assert "oracle" in [label(s, comparison) for s in comparison.settings]
    figures = all_figures(comparison)
    (colour,) = {trace.marker.color for trace in figures["pareto"].data if trace.name == "oracle"}
    assert colour not in COLOURS.values()
    for name, figure in figures.items():
        write_figure(tmp_path / f"{name}.png", figure)


def test_gains_are_drawn_by_size_beside_what_is_generated(tmp_path: Path) -> None:
    base = 40.0
    plain = [90.0, 91.0, 92.0]
    seeds(tmp_path, plain, metric=ACCURACY, kind="none")
    values = {("qpa", "circuit", 50): 80.0, ("qpa", "table", 52): 82.0, ("none", "circuit", 60): 70.0, ("none", "circuit", 300): 85.0}
    values[("qpa", "circuit", 10)] = 60.0
    for (kind, latents, trainable), value in values.items():
        seeds(
            tmp_path, [value, value + 1, value + 3], metric=ACCURACY, kind=kind, latents=latents, trainable=trainable, lora_alpha=trainable
        )
    comparison = compared(tmp_path)
    groups = sizes(comparison, comparison.best)
    assert [[one.setting.first.trainable for one in group] for group in groups] == [[60, 52, 50], [10]]
    figure = gain(comparison, groups)
    drawn = [(trace.yaxis, round(trace.x[0], 9)) for trace in figure.data]
    kept = {
        trainable: statistics.fmean((value + x - base) / (p - base) for x, p in zip((0, 1, 3), plain, strict=True))
        for (_, _, trainable), value in values.items()
    }
    assert drawn == [(axis, round(100 * kept[trainable], 9)) for axis, trainable in (("y", 60), ("y", 52), ("y", 50), ("y2", 10))]
    assert [title.text for title in figure.layout.annotations] == [
        "5.00% to 6.00% of LoRA r=4's trained numbers",
        "1.00% of LoRA r=4's trained numbers",
    ]
    for shape, trace in zip(figure.layout.shapes, (figure.data[2], figure.data[3]), strict=True):
        assert (shape.x0, shape.x1) == pytest.approx((trace.x[0] - trace.error_x.array[0], trace.x[0] + trace.error_x.array[0]))
