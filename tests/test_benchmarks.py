"""What benchmarks write is JSON, whatever fails: null where there is no number, with the reason beside it."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ansaetze, circuits, compact, generation, gpu_table, head, loops, pieces, processes, scaling, shared, start, step
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
    monkeypatch.setattr(loops.Rates, "measured", lambda _: loops.Rates(1e12, 1e9))


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


@pytest.mark.parametrize("benchmark", [head, step, scaling, compact, generation, pieces])
def test_a_case_that_fails_is_null(benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "measure", Failing(math.inf))
    benchmark.main(quick=True)
    record = written(benchmark.__name__.split(".")[-1], capsys)
    numbers, reasons = (record.get(key, record.get("seconds")) for key in ("rows", "why_not"))
    assert reasons
    leaves = [leaf for value in numbers.values() for leaf in (value.values() if isinstance(value, dict) else [value])]
    assert leaves == [None] * len(leaves)


@pytest.mark.slow
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


@pytest.mark.parametrize("benchmark", [generation, pieces])
def test_every_side_of_a_small_benchmark_has_a_number_or_a_reason(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "medians", lambda sides, **_: {name: (side(), 1.0)[1] for name, side in sides.items()})
    benchmark.main(quick=True)
    for row in written(benchmark.__name__.split(".")[-1], capsys)["rows"].values():
        assert row["floor_seconds"] > 0
        assert {name for name, seconds in row["seconds"].items() if seconds is None} == row["why_not"].keys()
        assert sum(seconds is not None for seconds in row["seconds"].values()) >= 2


def test_circuits_on_a_card_are_compared_with_torchquantums(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(circuits, "ON_CARD", [2])
    monkeypatch.setattr(circuits, "medians", lambda sides, **_: {name: (side(), 2.0)[1] for name, side in sides.items()})
    circuits.on_card(quick=True)
    (row,) = written("circuits-card", capsys)["rows"]
    timed = {name for name, seconds in row["seconds"].items() if seconds}
    assert timed >= {"qpa", "torchquantum", "circuit.backend=torchquantum"}
    assert row["times_faster_than_torchquantum"]["qpa"] == 1


@pytest.mark.slow
def test_whole_loops_take_turns_and_are_held_against_the_floor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    turns: list[str] = []
    side = loops.Bench.side
    monkeypatch.setattr(loops.Bench, "side", lambda self, name, tokens: turns.append(name) or side(self, name, tokens))
    loops.main(quick=True)
    (row,) = written("step-card", capsys)["rows"].values()
    there = [name for name in loops.SIDES if name not in row["why_not"]]
    assert {loops.TRAINER, loops.PLAIN} <= {*there}
    assert turns[-len(there) :] == there[::-1]
    assert row["weights"] == 300 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 80
    assert row["floor_seconds"] == 4 * row["weights"] / 1e9
    for name in there:
        assert row["seconds"][name] > 0
        assert row["tokens_per_second"][name] == 64 / row["seconds"][name]
        assert row["gap"][name] == row["seconds"][name] / row["floor_seconds"]


def test_no_case_is_begun_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    loops.main(quick=True, seconds=-1)
    assert written("step-card", capsys)["why_not"] == {"tiny, 64 tokens": "no time was left"}


@pytest.mark.slow
def test_first_step_of_a_process_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    start.main(quick=True)
    assert written("start", capsys)["seconds"]["tiny"] > 1


def test_process_that_makes_no_step_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"no step was made; last said: .*no"):
        start.until_first_step(("no=key",))


def test_table_has_a_line_for_all_that_was_written_and_says_which_goals_are_met(capsys: pytest.CaptureFixture[str]) -> None:
    sides = dict.fromkeys(loops.SIDES, 1.0)
    row = {
        **{"floor_seconds": 0.5, "seconds": sides | {loops.PLAIN: None}, "share_of_rate": sides, "tokens_per_second": sides},
        **{"peak_bytes": sides, "qpa_of_trainer": 0.3, "qpa_of_plain_captured": 1.0, "why_not": {loops.PLAIN: "no luck"}},
    }
    result = {"operations_per_second": 1e15, "bytes_per_second": 1e12, "why_not": {"Llama-3-8B shape": "no time was left"}}
    finish("step-card", False, result | {"rows": {"SmolLM2, 512 tokens": row, "Gemma-2-2B, 8,192 tokens": row, "GPT-2": None}})
    finish("start", False, {"seconds": {"Gemma-2-2B": 20.0}})
    capsys.readouterr()
    gpu_table.main(quick=False)
    said = capsys.readouterr().out
    for line in (
        r"QPA, captured / transformers' Trainer +0.300  <= 0.2  MISSED",
        r"QPA, captured / plain LoRA, captured +1.000  <= 1.02  met",
    ):
        assert re.search(line, said), said
    assert re.search(r"1.000 of rate  >= 0.45  met", said)
    assert re.search(r"Gemma-2-2B: first step after +20.0 s  <= 15  MISSED", said)
    assert "plain LoRA: no luck" in said
    assert "Llama-3-8B shape: no time was left" in said
    assert re.search(r"circuits-card: not run +-", said)
