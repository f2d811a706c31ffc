"""`python -m qpa.plan [KEY=VALUE ...]`: what a run would train, counted before anything is loaded.

Takes every key of `train.py`, and `plan.output=json` and `plan.target_ratio=SHARE`. The rule behind the search is
in `docs/planning.md`.
"""

import json
import sys
from collections import Counter
from typing import Any

import torch
from hydra.utils import get_class
from rich.console import Console
from rich.table import Table

from qpa.commands import cli
from qpa.config import OptimizerConfig, PlanConfig, checked, parse
from qpa.config.composing import composed
from qpa.config.context import Context
from qpa.core.circuits.cost import SECONDS_PER_SHOT
from qpa.core.circuits.cost import circuits_per_step as cost_of_step
from qpa.errors import ConfigError
from qpa.library.circuit import ansatz, execution
from qpa.runs import plan as plans
from qpa.runs import sizing
from qpa.runs.plan import Plan


def main(arguments: list[str]) -> None:
    """Plan and print."""
    plain = composed("plan", arguments)
    settings = checked(PlanConfig, plain.pop("plan"), within="plan")
    found = plans.make(parse(plain), Context())
    overrides: tuple[str, ...] = ()
    if settings.target_ratio is not None:
        overrides = sizing.search(found.config, found.tensors, settings.target_ratio)
        found = plans.make(parse(composed("train", [*(a for a in arguments if not a.startswith("plan.")), *overrides])), Context())
    if settings.output == "json":
        print(json.dumps(record(found) | {"overrides": list(overrides)}))
        return
    show(found)
    if advice := found.task.advice():
        print(advice)
    for note in found.notes():
        print(f"qpa: {note}", file=sys.stderr)
    if settings.target_ratio is not None:
        print(" ".join(overrides) or "nothing to change: this config is the best fit")


def record(plan: Plan) -> dict[str, Any]:
    """As one flat JSON object; `chunk_size` is null where chunks differ in size, `chunk_sizes` has them all."""
    layout, counts, sizes = plan.layout, plan.counts, chunk_sizes(plan)
    used = shots(plan)
    return {
        "adapted_modules": adapted_modules(plan),
        "generated": layout.generated if layout else 0,
        "circuits": layout.circuits if layout else 0,
        "qubits": layout.qubits if layout else 0,
        "layers": plan.config.circuit.layers if layout else 0,
        "chunk_size": next(iter(sizes)) if len(sizes) == 1 else None,
        "chunk_sizes": {str(size): chunks for size, chunks in sizes.items()},
        "circuit_params": counts.latents,
        "mapper_params": counts.mapper,
        "beside_params": counts.beside,
        "trainable": counts.trainable,
        "plain_peft": counts.plain_peft,
        "ratio": counts.ratio,
        "optimizer_bytes": optimizer_bytes(plan),
        "adapter_bytes": plan.adapter_bytes,
        "circuits_per_step": circuits_per_step(plan),
        "shots": used,
        "device_seconds": None if used is None else used * SECONDS_PER_SHOT,
        "advice": plan.task.advice(),
    }


def adapted_modules(plan: Plan) -> int:
    """How many modules are adapted."""
    return len({t.module for t in plan.tensors})


def chunk_sizes(plan: Plan) -> dict[int, int]:
    """How many chunks there are of each size."""
    return dict(Counter(plan.layout.lengths)) if plan.layout else {}


def circuits_per_step(plan: Plan) -> int:
    """Circuits that have to be run for one optimizer step, those for the gradient too."""
    config, layout = plan.config, plan.layout
    if layout is None or not config.settings.runs_circuits:
        return 0
    rule = execution(config.circuit).rule if config.latents.kind == "circuit" else "exact"  # no gradient of what is frozen
    return layout.circuits * cost_of_step(ansatz(config.circuit), rule, layers=config.circuit.layers, qubits=layout.qubits)


def shots(plan: Plan) -> int | None:
    """Of all steps; None where circuits are not sampled, or steps follow from data that is not prepared."""
    each, steps = plan.config.circuit.shots, plan.config.trainer.known_steps
    return circuits_per_step(plan) * each * steps if each and steps else None


def optimizer_bytes(plan: Plan) -> int:
    """Of the optimizer's own numbers."""
    return plan.counts.trainable * _bytes_per_number(plan.config.optimizer)


def _bytes_per_number(settings: OptimizerConfig) -> int:
    """What the optimizer keeps for every trained number: one of it takes one step on one number."""
    number = torch.nn.Parameter(torch.zeros(1))
    number.grad = torch.ones(1)
    try:
        optimizer = get_class(settings.target)([number], lr=settings.lr, **settings.arguments())
        optimizer.step()
    except (ImportError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ConfigError("optimizer", settings.target, f"refuses its arguments: {' '.join(str(error).split())}") from error
    kept = (value for value in optimizer.state[number].values() if isinstance(value, torch.Tensor) and value.shape == number.shape)
    return sum(value.element_size() for value in kept)


def show(plan: Plan) -> None:
    """Print a plan as a table."""
    table = Table(show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    layout, counts, used = plan.layout, plan.counts, shots(plan)
    table.add_row("adapted modules", f"{adapted_modules(plan):,}")
    table.add_row("weights generated (P)", f"{layout.generated if layout else 0:,}", end_section=layout is None)
    if layout:
        table.add_row("circuits x qubits x layers", f"{layout.circuits:,} x {layout.qubits} x {plan.config.circuit.layers}")
        sizes = ", ".join(f"{chunks:,} of {size:,}" for size, chunks in chunk_sizes(plan).items())
        table.add_row("chunks", sizes, end_section=True)
        table.add_row("trained: circuit angles", f"{counts.latents:,}")
        table.add_row("trained: mapper", f"{counts.mapper:,}")
        if counts.beside:
            table.add_row("trained: plainly beside them (head)", f"{counts.beside:,}")
    table.add_row("trained: total", f"[bold]{counts.trainable:,}[/bold]")
    table.add_row("plain PEFT would train", f"{counts.plain_peft:,}")
    table.add_row("ratio", f"[bold]{counts.ratio:.2%}[/bold]", end_section=True)
    if plan.config.circuit.shots:
        length = plan.config.trainer.length
        table.add_row("circuits per step", f"{circuits_per_step(plan):,}")
        table.add_row("shots of all steps", f"- (of {length}, counted once the data are read)" if used is None else f"{used:,}")
        hours = "-" if used is None else f"{used * SECONDS_PER_SHOT / 3600:,.2f} h"
        table.add_row(f"on a device, {SECONDS_PER_SHOT * 1e6:.0f} us a shot", hours, end_section=True)
    table.add_row("optimizer memory", _size(optimizer_bytes(plan)))
    table.add_row("exported adapter", _size(plan.adapter_bytes))
    Console(soft_wrap=True).print(table)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


script = cli.script(main)

if __name__ == "__main__":
    script()
