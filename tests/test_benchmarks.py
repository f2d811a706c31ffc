"""What benchmarks write is JSON, whatever fails: null where there is no number, with the reason beside it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ansaetze, circuits, compact, head, processes, scaling, shared, step
from benchmarks.timing import NotTimedError, each, finish


class Failing:
    """Fails at its first `times` calls."""

    def __init__(self, times: float) -> None:
        self.times, self.calls = times, 0

    def __call__(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        if self.calls <= self.times:
            raise ValueError("no luck")
        return torch.ones


def written(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The file, which is the last line too; NaN and infinity are no JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    record = json.loads(Path("outputs", "benchmarks", f"{name}-quick.json").read_text(), parse_constant=refuse)
    assert json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=refuse) == record
    return record


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_fails_once_is_tried_once_more_and_what_fails_twice_has_its_reason() -> None:
    sides = {"sound": Failing(0), "once": Failing(1), "always": Failing(math.inf)}
    found, why_not = each(sides)
    assert [side.calls for side in sides.values()] == [1, 2, 2]
    assert found == {"sound": torch.ones, "once": torch.ones, "always": None}
    assert why_not == {"always": "ValueError: no luck"}


def test_numbers_that_are_none_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    finish("it", True, {"seconds": {"a": math.nan, "b": [math.inf, 1.0]}}, gpu=False)
    assert written("it", capsys)["seconds"] == {"a": None, "b": [None, 1.0]}


def test_a_missing_and_a_wrong_simulator_are_null_and_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong() -> Any:
        return lambda angles: torch.zeros(len(angles), 2 ** angles.shape[-1]) + 0 * angles.sum()

    peers = {"torchquantum": Failing(math.inf), "wrong": wrong, "PennyLane": circuits.PEERS["PennyLane default.qubit, backprop"]}
    monkeypatch.setattr(circuits, "PEERS", peers)
    monkeypatch.setattr(circuits, "MOST_SECONDS", 60)
    monkeypatch.setattr(circuits, "medians", lambda sides, **_: {name: (side(), 1.0)[1] for name, side in sides.items()})
    circuits.main(quick=True)
    record = written("circuits", capsys)
    assert record["vs_torchquantum"] is record["vs_torchquantum_per_circuit_at_64"] is None
    assert (record["best_peer"], record["vs_best_peer"]) == ("PennyLane", 1.0)
    for row in record["rows"]:
        assert row["seconds"] | {"torchquantum": None, "wrong": None} == row["seconds"]
        assert row["why_not"] == {"torchquantum": "ValueError: no luck", "wrong": "differs by 1"}


def test_without_any_other_simulator_ours_is_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(circuits, "PEERS", {"torchquantum": Failing(math.inf)})
    monkeypatch.setattr(circuits, "medians", lambda sides, **_: dict.fromkeys(sides, 1.0))
    circuits.main(quick=True)
    record = written("circuits", capsys)
    assert record["best_peer"] is record["vs_best_peer"] is None


def test_an_ansatz_that_another_backend_does_not_have_is_null(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ansaetze, "PEERS", ansaetze.PEERS | {"torchquantum": Failing(math.inf)})
    monkeypatch.setattr(ansaetze, "medians", lambda sides, **_: dict.fromkeys(sides, 1.0))
    ansaetze.main(quick=True)
    for row in written("ansaetze", capsys)["rows"]:
        assert row["seconds"] == {"qpa": 1.0, "PennyLane default.qubit": 1.0, "torchquantum": None}
        assert row["why_not"] == {"torchquantum": "ValueError: no luck"}


@pytest.mark.parametrize("benchmark", [head, step, scaling, compact])
def test_a_case_that_fails_is_null(benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "measure", Failing(math.inf))
    benchmark.main(quick=True)
    record = written(benchmark.__name__.split(".")[-1], capsys)
    numbers, reasons = (record.get(key, record.get("seconds")) for key in ("rows", "why_not"))
    assert reasons
    leaves = [leaf for value in numbers.values() for leaf in (value.values() if isinstance(value, dict) else [value])]
    assert leaves == [None] * len(leaves)


def test_of_large_adapters_as_many_are_written_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compact, "SIDES", {name: compact.SIDES[name] for name in ("compact, width 2", "LoRA r=8")})
    monkeypatch.setattr(compact, "ROOM", 1_500_000)
    monkeypatch.setattr(compact, "ONTO_BASE", 1)
    compact.main(quick=True)
    rows = written("compact", capsys)["rows"]
    assert rows["LoRA r=8"]["written"] == 3 < rows["compact, width 2"]["written"] < 20
    lora = rows["LoRA r=8"]
    assert lora["memory_mb"] == 1000 * 4 * lora["trained"] / 1e6
    assert 1 < lora["disk_mb"] / lora["memory_mb"] < 1.1
    assert all(row[key] > 0 for row in rows.values() for key in ("disk_ms", "held_ms", "onto_base_ms"))


def test_processes_that_fail_are_null(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(processes, "FIGURE", Path("scaling.png"))
    monkeypatch.setattr(processes, "SHAPE", ["no=key"])  # which train.py refuses; here there is no train.py either
    processes.main(quick=True)
    record = written("processes", capsys)
    assert (record["measured"], record["speedup"]) == ({"1": None, "2": None}, None)
    assert all("train.py" in reason for reason in record["why_not"].values())
    assert Path("scaling.png").read_bytes().startswith(b"\x89PNG")


def test_a_shared_base_that_fails_is_null_and_the_models_word_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shared.sys, "executable", "false")
    shared.main(quick=True)
    record = written("shared", capsys)
    assert (record["measured"], record["less"]) == ({"ddp": None, "fsdp": None}, None)
    assert record["llama_70b"]["gathered"] == pytest.approx(243.26e9, rel=1e-4)


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="the process of PEFT ended with 1"):
        step.peak_bytes((), 256)


def test_too_slow_or_too_large_a_simulator_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    angles, weights = torch.rand(1, 2, 3), torch.rand(1, 8)
    ours = circuits.statevector.simulator(circuits.RY_CNOT)
    expected = circuits.found(ours, angles.double(), weights.double())
    assert callable(circuits.timeable(ours, angles, expected, weights))
    monkeypatch.setattr(circuits, "MOST_SECONDS", 0)
    with pytest.raises(NotTimedError, match="from one call"):
        circuits.timeable(ours, angles, expected, weights)
    monkeypatch.setattr(circuits, "MOST_BYTES", 0)
    with pytest.raises(NotTimedError, match="not tried"):
        circuits.timeable(ours, angles, expected, weights)
