"""The share of a baseline's gain that a run keeps, and baselines that cannot be compared with."""

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import planned, train_run

from qpa.config import Config
from qpa.errors import ConfigError
from qpa.runs import baseline, record
from qpa.tasks.task import Metric

MakeConfig = Callable[..., Config]


@pytest.fixture
def trained(make_config: MakeConfig, tmp_path: Path) -> Callable[..., record.Record]:
    """Train into `tmp_path/NAME` and read the record."""

    def train(name: str, *overrides: str) -> record.Record:
        train_run(make_config("trainer.max_steps=12", f"run_dir={tmp_path}/{name}", f"name={name}", *overrides))
        return record.read(tmp_path / name)

    return train


def nll_gained(result: record.Record, split: str) -> float:
    found = result["qpa"][split]
    return math.log(found["base_perplexity"]) - math.log(found["perplexity"])


@pytest.mark.slow
def test_gain_kept_is_the_share_of_the_baselines_nll(trained: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plain = trained("plain", "generator=none")
    alone = trained("ours")
    assert "gain_kept" not in alone["qpa"]["test"]
    compared = trained("ours", f"baseline={tmp_path}/plain")  # finished before: shown again, with the baseline
    assert compared["run_info"]["created_at"] == alone["run_info"]["created_at"]
    again = trained("again", f"baseline={tmp_path}/plain", "optimizer.lr=1e-3")
    for ours in (compared, again):
        for split in ("test", "val"):
            assert ours["qpa"][split]["gain_kept"] == pytest.approx(nll_gained(ours, split) / nll_gained(plain, split))
    shown = f"{again['qpa']['test']['gain_kept']:.1%}"
    line = next(line for line in capsys.readouterr().out.splitlines()[::-1] if "gain kept of plain" in line)
    assert shown in line


def test_baseline_without_gain_keeps_nothing_of_nothing(trained: Callable, tmp_path: Path) -> None:
    trained("plain", "generator=none")
    worse = json.loads((tmp_path / "plain" / "result.json").read_text())
    worse["qpa"]["test"]["perplexity"] = worse["qpa"]["test"]["base_perplexity"]
    (tmp_path / "plain" / "result.json").write_text(json.dumps(worse))
    assert trained("ours", f"baseline={tmp_path}/plain")["qpa"]["test"]["gain_kept"] is None


def test_baseline_of_another_experiment_is_refused(trained: Callable, tmp_path: Path, text_file: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(text_file.read_text()[:9000])
    trained("plain", "generator=none")
    for overrides, problem in (
        (["trainer=ddp", "trainer.devices=2"], "trainer.devices=1, this one has 2"),
        ([f"data.train_files=[{other}]"], "other text"),
        (["data.context=16"], "data.context=32, this one has 16"),
        (["trainer.max_steps=11"], "trainer.max_steps=12, this one has 11"),
        (["model.num_layers=1"], "model.num_layers=2, this one has 1"),
    ):
        with pytest.raises(ConfigError, match=problem):
            trained("ours", f"baseline={tmp_path}/plain", *overrides)
    with pytest.raises(ConfigError, match="no finished run"):
        trained("ours", f"baseline={tmp_path}/nowhere")
    older = json.loads((tmp_path / "plain" / "result.json").read_text())
    del older["qpa"]["texts"]
    (tmp_path / "plain" / "result.json").write_text(json.dumps(older))
    with pytest.raises(ConfigError, match="older qpa"):
        trained("ours", f"baseline={tmp_path}/plain")
    assert not (tmp_path / "ours").exists()


def test_baseline_of_another_task_or_metric_is_refused(trained: Callable, tmp_path: Path) -> None:
    plain = trained("plain", "generator=none")
    path = tmp_path / "plain" / "result.json"
    accuracy = {"name": "accuracy", "unit": "%", "better": "higher", "scale": "linear"}
    for kind, metric, problem in (
        ("vision", accuracy, "is a run of the task vision, this one is of language"),
        ("language", accuracy, r"judged by accuracy \(%, higher is better, linear\), this one is by perplexity \(lower is better, log\)"),
    ):
        plain["qpa"] |= {"metric": metric, "task": {"kind": kind}}
        path.write_text(json.dumps(plain))
        with pytest.raises(ConfigError, match=problem):
            trained("ours", f"baseline={tmp_path}/plain")
    plain["qpa"]["metric"] = {"name": "accuracy"}
    path.write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match="damaged"):
        trained("ours", f"baseline={tmp_path}/plain")
    assert not (tmp_path / "ours").exists()


def test_gain_of_a_metric_of_which_more_is_better_is_a_difference_of_values(make_config: MakeConfig, tmp_path: Path) -> None:
    metric = {"name": "return", "unit": "", "better": "higher", "scale": "linear"}

    def found(value: float) -> record.Record:
        splits = {split: {"return": value, "base_return": -300.0} for split in ("test", "val")}
        return {"run_info": {"experiment_name": "it"}, "qpa": splits | {"fingerprint": "0", "metric": metric, "task": {"kind": "control"}}}

    (tmp_path / "result.json").write_text(json.dumps(found(-100.0)))
    ours = found(-150.0)
    plan = planned(make_config())
    judged_so = dataclasses.replace(plan, config=plan.config.model_copy(update={"baseline": str(tmp_path)}), task=copy.copy(plan.task))
    judged_so.task.metric = Metric(**metric)
    baseline.compare(judged_so, ours)
    assert ours["qpa"]["test"]["gain_kept"] == ours["qpa"]["val"]["gain_kept"] == 0.75
    worse = Metric(**(metric | {"better": "lower"}))
    assert baseline.gain_kept(worse, (-300.0, -150.0), (-300.0, -100.0)) is None
