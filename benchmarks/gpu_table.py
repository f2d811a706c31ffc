"""`python -m benchmarks.gpu_table [--quick]`: what the benchmarks of a card have written, in one table, beside the goals. No torch here."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path("outputs/benchmarks")
Record = dict[str, Any]


class Line(NamedTuple):
    """What was measured, the number, and its goal; None where there is none."""

    what: str
    value: str
    goal: str = ""
    met: bool | None = None


def main(quick: bool) -> None:
    """Print all there is."""
    lines = [line for name, show in SHOWN.items() for line in _lines(name, show, quick)]
    width = max(len(line.what) for line in lines)
    print(f"\n{'measured':<{width}}  {'':>26}  goal")
    for line in lines:
        verdict = "" if line.met is None else "  met" if line.met else "  MISSED"
        print(f"{line.what:<{width}}  {line.value:>26}  {line.goal}{verdict}")


def _lines(name: str, show: Any, quick: bool) -> Iterator[Line]:
    path = FOLDER / f"{name}{'-quick' if quick else ''}.json"
    if not path.is_file():
        yield Line(f"{name}: not run", "-")
        return
    record = json.loads(path.read_text())
    yield Line(f"{name} on {record['machine']['device']}, torch {record['machine']['torch']}", "")
    yield from show(record)
    yield from _reasons(record, "")


def _reasons(found: Record, within: str) -> Iterator[Line]:
    """Why there is no number: of the whole, and of each row that does not say so itself."""
    for key, reason in found.get("why_not", {}).items():
        yield Line(f"  {within}{key}: {reason[:90]}", "-")
    rows = found.get("rows", {})
    named = rows.items() if isinstance(rows, dict) else ((f"K={row['K']}", row) for row in rows)
    for name, row in named:
        if row and "qpa_of_trainer" not in row:
            yield from _reasons(row, f"{name}, ")


def loops(record: Record) -> Iterator[Line]:
    """Of whole training loops."""
    yield Line("  measured matrix rate, bf16", f"{record['operations_per_second'] / 1e12:.1f} TFLOP/s")
    yield Line("  measured bandwidth", f"{record['bytes_per_second'] / 1e9:.0f} GB/s")
    for name, row in record["rows"].items():
        yield from _loops(name, row) if row else ()


def _loops(name: str, row: Record) -> Iterator[Line]:
    yield Line(f"  {name}: floor", f"{row['floor_seconds']:.5f} s")
    headline = name.startswith("Gemma-2-2B, 8,192")
    for side, seconds in row["seconds"].items():
        if seconds is None:
            yield Line(f"    {side}: {row['why_not'].get(side, '')[:90]}", "-")
            continue
        share, peak = row["share_of_rate"][side], row["peak_bytes"][side] / 2**30
        goal = at_least(share, 0.45) if headline and side == "QPA, captured" else ("", None)
        yield Line(
            f"    {side}: {row['tokens_per_second'][side]:,.0f} tokens/s, {peak:.1f} GiB", f"{seconds:.4f} s, {share:.3f} of rate", *goal
        )
    small = name.startswith("SmolLM2, 512")
    for key, what, most in (("qpa_of_trainer", "transformers' Trainer", 0.2), ("qpa_of_plain_captured", "plain LoRA, captured", 1.02)):
        value = row[key]
        yield Line(f"    QPA, captured / {what}", number(value, ".3f"), *(at_most(value, most) if small else ("", None)))


def circuits(record: Record) -> Iterator[Line]:
    """Of circuits."""
    for row in record["rows"]:
        for side, seconds in row["seconds"].items():
            yield Line(f"  K={row['K']}: {side}", number(seconds and 1e3 * seconds, ".3f", " ms"))
        for side, times in row["times_faster_than_torchquantum"].items():
            goal = at_least(times, 50) if row["K"] == 210 else ("", None)
            yield Line(f"  K={row['K']}: {side}, times faster than torchquantum", number(times, ".1f"), *goal)


def start(record: Record) -> Iterator[Line]:
    """Of the first step."""
    for name, seconds in record["seconds"].items():
        goal = at_most(seconds, 15) if name == "Gemma-2-2B" else ("", None)
        yield Line(f"  {name}: first step after", number(seconds, ".1f", " s"), *goal)


def generation(record: Record) -> Iterator[Line]:
    """Of the generator alone."""
    for count, row in record["rows"].items():
        for kind, seconds in (row or {"seconds": {}})["seconds"].items():
            yield Line(f"  K={count}: {kind}", number(seconds and 1e3 * seconds, ".3f", " ms"))
        if row:
            yield Line(f"  K={count}: floor", number(1e3 * row["floor_seconds"], ".3f", " ms"))


def pieces(record: Record) -> Iterator[Line]:
    """Of the loss."""
    for name, row in record["rows"].items():
        for side, seconds in (row or {"seconds": {}})["seconds"].items():
            peak = row["peak_bytes"].get(side, 0) / 2**30
            yield Line(f"  {name}, {side}", number(seconds and 1e3 * seconds, ".2f", f" ms, {peak:.2f} GiB"))
        if row:
            yield Line(f"  {name}, floor", number(1e3 * row["floor_seconds"], ".2f", " ms"))


def head(record: Record) -> Iterator[Line]:
    """Of head-only runs."""
    for name, row in record["rows"].items():
        for key, value in (row or {}).items():
            yield Line(f"  {name}: {key}", number(value, ".3f"))


def number(value: float | None, form: str, unit: str = "") -> str:
    """A dash where there is none."""
    return "-" if value is None else f"{value:{form}}{unit}"


def at_most(value: float | None, most: float) -> tuple[str, bool | None]:
    """A goal, and whether it is met."""
    return f"<= {most:g}", None if value is None else value <= most


def at_least(value: float | None, least: float) -> tuple[str, bool | None]:
    """Likewise."""
    return f">= {least:g}", None if value is None else value >= least


SHOWN = {
    "step-card": loops,
    "start": start,
    "circuits-card": circuits,
    "generation": generation,
    "pieces": pieces,
    "head": head,
}


if __name__ == "__main__":
    main("--quick" in sys.argv)
