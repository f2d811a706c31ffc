"""The report's numbers against other ways to compute them, and its words against its numbers, on records made for it."""

import csv
import json
import math
import random
import re
import statistics
from pathlib import Path

import pytest
from conftest import ROOT
from made import ACCURACY, TEMPLATE, seeds, write_run
from scipy import stats

from qpa.commands.report import LONG, as_json, main
from qpa.errors import ConfigError, UsageError
from qpa.report.compare import compare, estimate
from qpa.report.runs import Run, find
from qpa.report.table import heads, markdown, rows
from qpa.report.verdict import label, sentences


def test_interval_is_students() -> None:
    values = [20.1, 20.9, 19.7, 20.4]
    found = estimate(values)
    assert found.half_width is not None
    low, high = stats.t.interval(0.95, 3, loc=found.mean, scale=stats.sem(values))
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    seeds(tmp_path, [20.0, 22.0, 25.0, 21.0], kind="none")
    seeds(tmp_path, [20.6, 22.4, 25.7], kind="qpa")
    (comparison,) = compare(find(tmp_path).finished)
    (difference,) = comparison.against_baseline
    assert difference.difference.seeds == 3
    assert difference.difference.mean == pytest.approx((0.6 + 0.4 + 0.7) / 3)
    assert difference.p == pytest.approx(stats.ttest_1samp([0.6, 0.4, 0.7], 0).pvalue)
    assert difference.significant


def test_rate_is_chosen_by_validation_and_not_by_test(tmp_path: Path) -> None:
    seeds(tmp_path, [30.0, 30.0], kind="none", lr=0.001, val=10.0)
    seeds(tmp_path, [20.0, 20.0], kind="none", lr=0.1, val=11.0)
    (comparison,) = compare(find(tmp_path).finished)
    assert comparison.baseline is not None
    assert comparison.baseline.first.learning_rate == 0.001


def test_front_is_what_nothing_beats(tmp_path: Path) -> None:
    draw = random.Random(0)
    points = [(draw.randint(1, 30), float(draw.randint(10, 40))) for _ in range(60)]
    for number, (trainable, value) in enumerate(points):
        write_run(tmp_path, seed=1, value=value, trainable=trainable, width=number)
    (comparison,) = compare(find(tmp_path).finished)
    found = {(s.first.trainable, s.test.mean) for s in comparison.front}
    smallest: dict[int, float] = {}
    for trainable, value in points:
        smallest[trainable] = min(value, smallest.get(trainable, math.inf))
    expected, best = set(), math.inf
    for trainable in sorted(smallest):  # going up, only what is better than all smaller ones
        if smallest[trainable] < best:
            best = smallest[trainable]
            expected.add((trainable, best))
    assert found == expected


def test_front_has_the_rate_that_validation_prefers_even_if_another_is_better_on_the_test(tmp_path: Path) -> None:
    write_run(tmp_path, seed=1, value=21.0, val=19.0, lr=0.01)
    write_run(tmp_path, seed=1, value=20.0, val=19.5, lr=0.02)
    (comparison,) = compare(find(tmp_path).finished)
    assert [s.first.learning_rate for s in comparison.front] == [s.first.learning_rate for s in comparison.best] == [0.01]
    assert len(comparison.settings) == 2


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([20.1, 20.9, 22.2], "does as well as a learned table"),
        ([18.1, 22.9, 22.2], "is not distinguishable, with 3 seeds, from a learned table"),
        ([25.1, 26.0, 27.2], "is better than a learned table"),
        ([15.1, 16.0, 17.2], "is worse than a learned table"),
        ([25.0], "cannot be told by one seed from a learned table"),
    ],
)
def test_first_sentence_says_whether_the_circuit_matters(tmp_path: Path, table: list[float], words: str) -> None:
    seeds(tmp_path, [20.0, 21.0, 22.0])
    seeds(tmp_path, table, latents="table")
    (comparison,) = compare(find(tmp_path).finished)
    told = sentences(comparison)
    assert told[0] == f"The circuit {words}."
    (difference,) = comparison.against_controls
    assert f"{abs(difference.difference.mean):.3g} {'lower' if difference.difference.mean < 0 else 'higher'}" in told[1]
    assert ("no interval" in told[1]) == (len(table) == 1)
    assert ("paired t-test p" in told[1]) == (len(table) > 1)
    assert ("would have been seen" in told[1]) == ("not distinguishable" in words)


def test_circuit_and_control_are_tuned_alike_among_the_rates_of_both(tmp_path: Path) -> None:
    seeds(tmp_path, [20.0, 20.5, 20.2], lr=0.01)
    seeds(tmp_path, [21.0, 21.5, 21.2], lr=0.03)
    seeds(tmp_path, [1.0, 1.1, 1.2], lr=0.1)
    seeds(tmp_path, [22.0, 22.4, 22.3], lr=0.01, latents="table")
    seeds(tmp_path, [18.0, 18.4, 18.3], lr=0.03, latents="table")
    (comparison,) = compare(find(tmp_path).finished)
    (difference,) = comparison.against_controls
    assert (difference.setting.first.learning_rate, difference.against.first.learning_rate) == (0.01, 0.03)
    assert sentences(comparison)[0] == "The circuit is worse than a learned table."


def test_circuit_is_compared_with_a_random_subspace_of_as_many_numbers_at_a_rate_of_its_own(tmp_path: Path) -> None:
    seeds(tmp_path, [20.0, 21.0, 22.0], lr=0.01)
    for numbers, values in ((50, [15.0, 16.1, 17.2]), (100, [1.0, 1.1, 1.2])):
        seeds(tmp_path, values, lr=0.03, latents="zeros", mapper="subspace", width=numbers, trainable=numbers)
    (comparison,) = compare(find(tmp_path).finished)
    told = sentences(comparison)
    assert told[0] == "The circuit is worse than a random subspace."
    assert "against a random subspace, whose rate is 0.03 and not 0.01, 4.9" in told[1]


def test_circuits_of_two_widths_are_judged_each_against_its_own_control(tmp_path: Path) -> None:
    for width, table in ((4, [25.0, 26.1, 27.2]), (8, [15.0, 16.1, 17.2])):
        seeds(tmp_path, [20.0, 21.0, 22.0], width=width, trainable=10 * width)
        seeds(tmp_path, table, width=width, trainable=10 * width, latents="table")
    (comparison,) = compare(find(tmp_path).finished)
    told = sentences(comparison)
    assert told[0] == "The circuit (width=4) is better than a learned table."
    assert told[2] == "The circuit (width=8) is worse than a learned table."


def test_control_is_one_whatever_the_circuits_layers(tmp_path: Path) -> None:
    for layers in (1, 2, 4):
        seeds(tmp_path, [20.0 + layers, 21.0 + layers, 22.5 + layers], layers=layers)
        seeds(tmp_path, [20.1, 21.3, 22.2], layers=layers, latents="zeros")
    (comparison,) = compare(find(tmp_path).finished)
    (difference,) = comparison.against_controls
    assert difference.setting.first.config["circuit.layers"] == 1
    assert len(comparison.settings) == 4


def test_single_seed_does_not_become_the_baseline(tmp_path: Path) -> None:
    seeds(tmp_path, [20.0, 21.0, 22.0], kind="none", lr=0.005)
    write_run(tmp_path, seed=1, value=19.0, kind="none", lr=0.006)
    seeds(tmp_path, [20.6, 21.4, 22.7])
    (comparison,) = compare(find(tmp_path).finished)
    assert comparison.baseline is not None
    assert comparison.baseline.first.learning_rate == 0.005
    assert all(d.difference.seeds == 3 for d in comparison.against_baseline)


def test_labels_are_short_and_no_two_alike(tmp_path: Path) -> None:
    seeds(tmp_path, [20.0, 21.0], kind="none")
    seeds(tmp_path, [20.5, 21.5])
    (comparison,) = compare(find(tmp_path).finished)
    assert [label(s, comparison) for s in comparison.settings] == ["the circuit", "plain LoRA r=4 on lm_head"]
    for alpha in (16, 32):
        seeds(tmp_path, [20.5, 21.5], lora_alpha=alpha)
    (comparison,) = compare(find(tmp_path).finished)
    labels = {label(s, comparison) for s in comparison.settings}
    assert labels == {
        "the circuit (lora_alpha=8)",
        "the circuit (lora_alpha=16)",
        "the circuit (lora_alpha=32)",
        "plain LoRA r=4 on lm_head",
    }


def test_tokens_of_all_processes_count_and_what_is_only_shown_does_not(tmp_path: Path) -> None:
    paths = [write_run(tmp_path, seed=seed, value=20.0, trainable=40 + seed) for seed in (1, 2, 3)]
    for path, key, value in ((paths[1], "checkpoint_every", 50), (paths[2], "devices", 2)):
        record = json.loads((path / "result.json").read_text())
        record["run_info"]["train_config"]["trainer"][key] = value
        record["run_info"]["train_config"]["optimizer"]["lr"] = 0.5
        (path / "result.json").write_text(json.dumps(record))
    one, shown, two = sorted(find(tmp_path).finished, key=lambda run: run.seed)
    assert (one.task == shown.task, one.tuned == shown.tuned, one.learning_rate == shown.learning_rate) == (True, True, False)
    assert (one.task == two.task, shown.learning_rate) == (False, 0.5)


def test_other_texts_are_other_tasks(tmp_path: Path) -> None:
    seeds(tmp_path, [20.0, 21.0], kind="none")
    seeds(tmp_path, [10.0, 11.0], text="another", train_files=["another.txt"])
    comparisons = compare(find(tmp_path).finished)
    named = {c.name.partition(",")[0] for c in comparisons}
    assert named == {f"SmolLM2-135M-Instruct on {text}.txt" for text in ("wikitext2/train", "another")}
    assert all(not c.against_baseline for c in comparisons)


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("qpa", "test", "perplexity"), "20", "test='20': Input should be a valid number"),
        (("qpa", "val", "perplexity"), None, "val=None: Input should be a valid number"),
        (("qpa", "params", "plain_peft"), 0, "plain_peft=0: Input should be greater than 0"),
        (("qpa", "test", "perplexity"), 0.0, "test=0.0: Input should be greater than 0"),
        (("qpa", "params", "circuit"), "3", "latents_params='3': Input should be a valid integer"),
        (("qpa", "metric"), ACCURACY, "KeyError: 'task'"),
        (("run_info", "train_config", "seed"), [1], "seed=[1]: Input should be a valid integer"),
        (("run_info", "train_config", "data"), "text", "TypeError"),
    ],
)
def test_record_with_an_odd_value_is_named_and_left_out(tmp_path: Path, where: tuple[str, ...], value: object, words: str) -> None:
    folder = write_run(tmp_path, seed=1, value=20.0)
    record = json.loads((folder / "result.json").read_text())
    inner = record
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    (folder / "result.json").write_text(json.dumps(record))
    found = find(tmp_path)
    assert not found.finished
    assert words in found.damaged[str(folder)]


def test_run_without_a_step_of_its_own_or_a_curve_is_still_a_run(tmp_path: Path) -> None:
    seeds(tmp_path / "runs", [20.0, 21.0], kind="none")
    folder = write_run(tmp_path / "runs", seed=1, value=22.0)
    record = json.loads((folder / "result.json").read_text())
    record["qpa"]["seconds_per_step"] = None
    (folder / "result.json").write_text(json.dumps(record))
    (folder / "metrics.csv").write_text("step,val/perplexity\n4,oops\n")
    main([f"runs={tmp_path}/runs", f"out={tmp_path}/out"])
    (comparison,) = compare(find(tmp_path / "runs").finished)
    assert len(comparison.settings) == 2


def test_gain_kept_is_the_share_of_the_baselines_nll_gain_by_seed(tmp_path: Path) -> None:
    base = json.loads(TEMPLATE)["qpa"]["test"]["base_perplexity"]
    seeds(tmp_path, [base / 2.0, base / 3.0], kind="none")
    seeds(tmp_path, [base / 1.5, base / 2.5, base / 1.1])  # the third has no baseline of its seed
    (comparison,) = compare(find(tmp_path).finished)
    (difference,) = comparison.against_baseline
    shares = [math.log(1.5) / math.log(2), math.log(2.5) / math.log(3)]
    assert difference.gain_kept is not None
    assert difference.gain_kept.mean == pytest.approx(sum(shares) / 2)
    assert any(f"{sum(shares) / 2:.1%}" in sentence and "of its gain is kept" in sentence for sentence in sentences(comparison))


def test_nothing_is_said_of_the_gain_of_a_baseline_that_gained_none(tmp_path: Path) -> None:
    base = json.loads(TEMPLATE)["qpa"]["test"]["base_perplexity"]
    seeds(tmp_path, [base / 2.0, base * 1.1], kind="none")
    seeds(tmp_path, [base / 1.5, base / 2.5])
    (comparison,) = compare(find(tmp_path).finished)
    assert comparison.against_baseline[0].gain_kept is None
    assert not any("gain" in sentence for sentence in sentences(comparison))


def test_report_names_what_failed_and_what_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    seeds(tmp_path / "runs", [20.0, 21.0])
    write_run(tmp_path / "runs", seed=3, value=1.0, status="failed", error="circuit.qubits=99: too many")
    broken = write_run(tmp_path / "runs", seed=4, value=1.0)
    (broken / "result.json").write_text('{"run_info": {')
    other = write_run(tmp_path / "runs", seed=5, value=1.0)
    (other / "result.json").write_text("[]")
    main([f"runs={tmp_path}/runs", f"out={tmp_path}/out"])
    said = capsys.readouterr().out
    assert "failed: circuit.qubits=99: too many" in said
    assert said.count("Damaged, left out:") == 2
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [run["test"] for run in report["runs"]] == [20.0, 21.0]
    rows = list(csv.DictReader((tmp_path / "out" / "report.csv").open()))
    assert {row["seed"]: float(row["test"]) for row in rows} == {"1": 20.0, "2": 21.0}
    assert set(Run.__dataclass_fields__) - set(LONG) < set(rows[0])


def test_folder_without_runs_and_wrong_arguments_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no result\.json anywhere"):
        find(tmp_path)
    with pytest.raises(UsageError, match="usage"):
        main(["folder"])


def test_table_has_mean_interval_paired_test_and_gain_of_every_setting(tmp_path: Path) -> None:
    plain, ours = [20.0, 21.0, 22.5], [20.5, 21.25, 23.5]
    seeds(tmp_path / "runs", plain, kind="none")
    seeds(tmp_path / "runs", ours)
    (comparison,) = compare(find(tmp_path / "runs").finished)
    (row,) = [row for row in rows(comparison) if row[0] == "the circuit"]
    base = comparison.settings[0].first.base
    above = [a - b for a, b in zip(ours, plain, strict=True)]
    kept = [100 * math.log(base / a) / math.log(base / b) for a, b in zip(ours, plain, strict=True)]
    p = stats.ttest_rel(ours, plain).pvalue  # pyright: ignore[reportAttributeAccessIssue]
    mean, half = zip(*[(statistics.fmean(x), stats.t.ppf(0.975, 2) * stats.sem(x)) for x in (ours, above, kept)], strict=True)
    assert row[1:3] == ("50", "5.00%")
    assert row[3] == f"{mean[0]:.2f} ± {half[0]:.2f} (3)"
    assert row[4] == f"{mean[1]:.2f} ± {half[1]:.2f}, p = {p:.2g}"
    assert row[5] == f"{mean[2]:.1f} ± {half[2]:.1f} %"


def test_table_says_what_adapting_costs_on_another_text_where_a_run_has_one(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = write_run(tmp_path / "runs", seed=seed, value=20.0, kind="none")
        record = json.loads((folder / "result.json").read_text())
        record["qpa"]["forgetting"] = {"perplexity": 30.0 + seed, "base_perplexity": 25.5, "tokens": 9}
        (folder / "result.json").write_text(json.dumps(record))
        write_run(tmp_path / "runs", seed=seed, value=20.5)
    (comparison,) = compare(find(tmp_path / "runs").finished)
    column = heads(comparison).index("another text (base 25.50)")
    half = stats.t.ppf(0.975, 1) * 0.5
    assert {row[0]: row[column] for row in rows(comparison)} == {
        "plain LoRA r=4 on lm_head, the baseline": f"31.50 ± {half:.2f} (2)",
        "the circuit": "",
    }


def test_table_shows_settings_that_cannot_be_compared_and_says_over_how_many_seeds(tmp_path: Path) -> None:
    seeds(tmp_path / "runs", [20.0, 21.0], kind="none")
    seeds(tmp_path / "runs", [20.5, 21.5, 22.0])
    for seed in (8, 9):  # at a rate that validation prefers, but on seeds that the baseline lacks
        write_run(tmp_path / "runs", seed=seed, value=19.0, val=1.0, latents="table")
    (comparison,) = compare(find(tmp_path / "runs").finished)
    table = {row[0]: row for row in rows(comparison)}
    assert set(table) == {"plain LoRA r=4 on lm_head, the baseline", "the circuit", "a learned table"}
    assert table["the circuit"][3].endswith("(3)")
    assert table["the circuit"][4].startswith("0.50 ± 0.00 (2)")
    assert table["a learned table"][3:6] == ("19.00 ± 0.00 (2)", "", "")


def test_table_without_a_baseline_has_each_setting_once_at_its_best_rate(tmp_path: Path) -> None:
    seeds(tmp_path / "runs", [31.0], lr=0.1)
    seeds(tmp_path / "runs", [21.0], lr=0.01)
    seeds(tmp_path / "runs", [26.0], latents="zeros", lr=0.01)
    (comparison,) = compare(find(tmp_path / "runs").finished)
    assert [row[3] for row in rows(comparison)] == ["21.00 (1)", "26.00 (1)"]


def test_markdown_shows_every_character_of_a_label_as_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", seed=1, value=20.0, kind="none")
    record = json.loads((folder / "result.json").read_text())
    modules = record["run_info"]["train_config"]["peft"]["target_modules"] = r".*\.(q_proj|v_proj)|.*head_*x*"
    (folder / "result.json").write_text(json.dumps(record))
    (comparison,) = compare(find(tmp_path / "runs").finished)
    (row,) = markdown(comparison).splitlines()[2:]
    cells = re.split(r"(?<!\\)\|", row)
    assert len(cells) == len(heads(comparison)) + 2
    assert modules in re.sub(r"\\(.)", r"\1", cells[1])
    assert not re.search(r"(?<!\\)[*_|]", cells[1])


def test_tables_of_the_results_are_those_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    results = Path("docs/results.md").read_text()
    tables = [markdown(comparison) for comparison in compare(find(Path("docs/results")).finished)]
    assert len(tables) == 6
    assert all(table in results for table in tables)


def test_committed_report_is_what_the_committed_records_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = find(Path("docs/results"))
    told = json.loads(json.dumps(as_json(found, compare(found.finished))))
    assert told == json.loads(Path("docs/results/report.json").read_text())


@pytest.mark.slow
def test_thousand_runs_make_a_small_page(tmp_path: Path) -> None:
    draw = random.Random(1)
    for number in range(334):
        base = 20 + 5 * draw.random()
        seeds(tmp_path / "runs", [base + draw.random() for _ in range(3)], trainable=10 * number + 10, width=number + 1)
    main([f"runs={tmp_path}/runs", f"out={tmp_path}/out"])
    assert (tmp_path / "out" / "index.html").stat().st_size < 5e6
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["runs"]) == 1002
