"""The report's numbers against other ways to compute them, and its words against its numbers, on records made for it."""

import csv
import json
import math
import random
from pathlib import Path

import pytest
from scipy import stats

from qpa.errors import ConfigError, UsageError
from qpa.report.__main__ import LONG, main
from qpa.report.compare import compare, estimate
from qpa.report.runs import Run, find
from qpa.report.verdict import sentences

LORA = {"_target_": "peft.LoraConfig", "r": 8, "target_modules": "all-linear"}


def write_run(root: Path, *, seed: int, perplexity: float, latents: str = "circuit", kind: str = "qpa", **changed: object) -> Path:
    """A record as a run leaves it, with what the report reads."""
    trainable = changed.get("trainable", 1000 if kind == "none" else 50)
    lr, val = changed.get("lr", 0.01), changed.get("val", perplexity)
    config = {
        "model": {"hub": "some/model"}, "peft": LORA, "generator": {"kind": kind, "lr": lr}, "latents": {"kind": latents},
        "circuit": {"layers": 2}, "mapper": {"width": 4}, "seed": seed, "name": "run",
        "data": {"protocol": "packed", "context": 32, "batch_size": 2}, "trainer": {"accumulate_grad_batches": 1, "max_steps": 10},
    }  # fmt: skip
    record = {
        "run_info": {
            "experiment_name": "run",
            "command": f"python train.py seed={seed}",
            "train_config": config,
            "error_msg": changed.get("error"),
        },
        "train_info": {"status": changed.get("status", "success"), "file_size": 10},
        "qpa": {
            "params": {"trainable": trainable, "plain_peft": 1000, "circuit": 0, "mapper": 0 if kind == "none" else trainable},
            "test": {"perplexity": perplexity, "base_perplexity": changed.get("base", 40.0), "tokens": 100},
            "val": {"perplexity": val, "base_perplexity": 40.0, "tokens": 100},
            "seconds_per_step": 1.0, "peak_memory_bytes": 10,
        },
    }  # fmt: skip
    folder = root / f"{kind}-{latents}-{seed}-{trainable}-{lr}-{changed.get('base', 40.0)}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(record))
    (folder / "metrics.csv").write_text(f"epoch,step,train/loss,val/perplexity\n0,4,3.0,\n0,4,,{perplexity + 2}\n0,9,,{perplexity}\n")
    return folder


def seeds(root: Path, perplexities: list[float], **changed: object) -> None:
    for seed, perplexity in enumerate(perplexities, 1):
        write_run(root, seed=seed, perplexity=perplexity, **changed)  # pyright: ignore[reportArgumentType]


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
    for number, (trainable, perplexity) in enumerate(points):
        write_run(tmp_path, seed=1, perplexity=perplexity, trainable=trainable, lr=number)
    (comparison,) = compare(find(tmp_path).finished)
    found = {(s.first.trainable, s.perplexity.mean) for s in comparison.front}
    smallest: dict[int, float] = {}
    for trainable, perplexity in points:
        smallest[trainable] = min(perplexity, smallest.get(trainable, math.inf))
    expected, best = set(), math.inf
    for trainable in sorted(smallest):  # going up, only what is better than all smaller ones
        if smallest[trainable] < best:
            best = smallest[trainable]
            expected.add((trainable, best))
    assert found == expected


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([20.1, 20.9, 22.2], "is not distinguishable from a learned table"),
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


def test_other_texts_are_other_tasks(tmp_path: Path) -> None:
    seeds(tmp_path, [20.0, 21.0], kind="none")
    seeds(tmp_path, [10.0, 11.0], base=30.0)
    comparisons = compare(find(tmp_path).finished)
    assert len(comparisons) == 2
    assert all(not c.against_baseline for c in comparisons)


def test_report_names_what_failed_and_what_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    seeds(tmp_path / "runs", [20.0, 21.0])
    write_run(tmp_path / "runs", seed=3, perplexity=1.0, status="failed", error="circuit.qubits=99: too many")
    broken = write_run(tmp_path / "runs", seed=4, perplexity=1.0)
    (broken / "result.json").write_text('{"run_info": {')
    other = write_run(tmp_path / "runs", seed=5, perplexity=1.0)
    (other / "result.json").write_text("[]")
    main([f"runs={tmp_path}/runs", f"out={tmp_path}/out"])
    said = capsys.readouterr().out
    assert "failed: circuit.qubits=99: too many" in said
    assert said.count("Damaged, left out:") == 2
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [run["perplexity"] for run in report["runs"]] == [20.0, 21.0]
    rows = list(csv.DictReader((tmp_path / "out" / "report.csv").open()))
    assert {row["seed"]: float(row["perplexity"]) for row in rows} == {"1": 20.0, "2": 21.0}
    assert set(Run.__dataclass_fields__) - set(LONG) < set(rows[0])


def test_folder_without_runs_and_wrong_arguments_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no result\.json anywhere"):
        find(tmp_path)
    with pytest.raises(UsageError, match="usage"):
        main(["folder"])
