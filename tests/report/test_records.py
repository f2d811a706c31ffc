"""A study's records in one file: nothing is lost, and what is damaged is named by file and line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from made import ACCURACY, seeds, write_run

from qpa.commands.report import main
from qpa.errors import ConfigError, UsageError
from qpa.report.runs import find


def kept(root: Path) -> Path:
    """The records under `root/runs` as one study."""
    main([f"runs={root}/runs", f"study={root}/kept/study.jsonl"])
    return root / "kept" / "study.jsonl"


def test_study_says_what_the_folders_said(tmp_path: Path) -> None:
    seeds(tmp_path / "runs" / "one", [20.0, 21.0], kind="none")
    seeds(tmp_path / "runs", [90.1, 0.1 + 0.2], metric=ACCURACY)
    write_run(tmp_path / "runs", seed=9, value=1.0, status="failed", error="too many")
    study = kept(tmp_path)
    lines = [json.loads(line) for line in study.read_text().splitlines()]
    for line in lines:
        assert line["record"] == json.loads((tmp_path / "runs" / line["folder"] / "result.json").read_text())
    folders, there = find(tmp_path / "runs"), find(study)
    assert there == find(study.parent)
    assert [replace(run, folder="") for run in there.finished] == [replace(run, folder="") for run in folders.finished]
    assert [run.folder for run in folders.finished] == [str(tmp_path / "runs" / run.folder) for run in there.finished]
    assert all(run.curve == ((5, run.test + 2), (10, run.test)) for run in there.finished)
    assert list(there.unfinished.values()) == list(folders.unfinished.values()) == ["failed: too many"]
    main([f"runs={study}", f"study={tmp_path}/again.jsonl"])
    assert (tmp_path / "again.jsonl").read_bytes() == study.read_bytes()


def test_damaged_line_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    seeds(tmp_path / "runs", [20.0, 21.0, 22.0])
    study = kept(tmp_path)
    first, second, third = study.read_text().splitlines()
    other = json.loads(second) | {"folder": 7}
    deep = "[" * 100_000
    curve = json.loads(third) | {"curve": [[1, "high"]]}
    study.write_text("\n".join([first, second[:-9], "", "[]", '{"folder": "x"}', json.dumps(other), deep, json.dumps(curve), third]) + "\n")
    main([f"runs={study}", f"out={tmp_path}/out"])
    found = find(study)
    assert [run.test for run in found.finished] == [20.0, 22.0]
    assert list(found.damaged) == [f"{study}:{number}" for number in (2, 4, 5, 6, 7, 8)]
    said = capsys.readouterr().out
    assert said.count("Damaged, left out:") == 6
    assert f"Damaged, left out: {study}:5 (KeyError: 'record')" in said


def test_damaged_records_are_named_and_not_put_into_a_study(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    seeds(tmp_path / "runs", [20.0, 21.0])
    broken = write_run(tmp_path / "runs", seed=3, value=1.0)
    (broken / "result.json").write_text("{")
    study = kept(tmp_path)
    assert len(study.read_text().splitlines()) == 2
    assert f"Damaged, left out: {broken}" in capsys.readouterr().out


def test_data_that_lie_beside_runs_are_no_study(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    seeds(tmp_path / "runs", [20.0, 21.0])
    (tmp_path / "runs" / "chats.jsonl").write_text('{"messages": []}\n' * 3)
    assert len(kept(tmp_path).read_text().splitlines()) == 2
    assert "Damaged" not in capsys.readouterr().out


def test_study_that_would_be_counted_twice_or_is_none_is_refused(tmp_path: Path) -> None:
    seeds(tmp_path / "runs", [20.0])
    with pytest.raises(ConfigError, match="count its runs twice"):
        main([f"runs={tmp_path}/runs", f"study={tmp_path}/runs/deeper/study.jsonl"])
    with pytest.raises(ConfigError, match=r"ends in \.jsonl"):
        main([f"runs={tmp_path}/runs", f"study={tmp_path}/study.json"])
    with pytest.raises(UsageError, match="usage"):
        main([f"runs={tmp_path}/runs", f"study={tmp_path}/study.jsonl", f"out={tmp_path}/out"])
    with pytest.raises(ConfigError, match="no study"):
        find(tmp_path / "runs" / "result.json")


def test_committed_records_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = find(Path("docs/results"))
    assert len(found.finished) == 188
    assert not found.unfinished
    assert not found.damaged
    assert sum(bool(run.curve) for run in found.finished) == 67
