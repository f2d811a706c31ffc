"""`python -m qpa.plan [KEY=VALUE ...]`: what a run would train, counted before anything is loaded.

Takes every key of `train.py`, and `plan.output=json` and `plan.target_ratio=SHARE`. The rule behind the search is
in `docs/planning.md`.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import get_class
from rich.console import Console
from rich.table import Table

from qpa.commands import cli
from qpa.commands.composing import composed
from qpa.config import Config, PlanConfig, checked, parse
from qpa.core.circuits import backends
from qpa.core.circuits.cost import SECONDS_PER_SHOT, circuits_per_step
from qpa.core.counts import Parameters, direct
from qpa.core.layout import AdapterTensor, Layout
from qpa.errors import ConfigError
from qpa.runs import preflight, sizing
from qpa.runs.recipe import counted
from qpa.tasks.language import source

WEIGHT_BYTES = 4  # generated and exported weights are fp32


@dataclass(frozen=True)
class Plan:
    """A run's counts.

    Attributes:
        modules: how many modules are adapted.
        generated: `P`, all weights of the adapter (0 where they are trained themselves).
        chunk_sizes: how many chunks there are of each size.
        parameters: what is trained.
        optimizer_bytes: the optimizer's own numbers.
        adapter_bytes: tensors of the exported adapter.
        circuits_per_step: that have to be run for one optimizer step, those for the gradient too.
        shots: of all steps; None where circuits are not sampled.
        overrides: what to add to the command line for it, where it was searched for.
    """

    modules: int
    generated: int
    circuits: int
    qubits: int
    layers: int
    chunk_sizes: dict[int, int]
    parameters: Parameters
    optimizer_bytes: int
    adapter_bytes: int
    circuits_per_step: int = 0
    shots: int | None = None
    overrides: tuple[str, ...] = ()

    @property
    def device_seconds(self) -> float | None:
        """How long a device would be busy with all shots."""
        return None if self.shots is None else self.shots * SECONDS_PER_SHOT

    def record(self) -> dict[str, Any]:
        """As one flat JSON object; `chunk_size` is null where chunks differ in size, `chunk_sizes` has them all."""
        sizes = self.chunk_sizes
        return {
            "adapted_modules": self.modules,
            "generated": self.generated,
            "circuits": self.circuits,
            "qubits": self.qubits,
            "layers": self.layers,
            "chunk_size": next(iter(sizes)) if len(sizes) == 1 else None,
            "chunk_sizes": {str(size): chunks for size, chunks in sizes.items()},
            "circuit_params": self.parameters.circuit,
            "mapper_params": self.parameters.mapper,
            "trainable": self.parameters.trainable,
            "plain_peft": self.parameters.plain_peft,
            "ratio": self.parameters.ratio,
            "optimizer_bytes": self.optimizer_bytes,
            "adapter_bytes": self.adapter_bytes,
            "circuits_per_step": self.circuits_per_step,
            "shots": self.shots,
            "device_seconds": self.device_seconds,
            "overrides": list(self.overrides),
        }


def main(arguments: list[str]) -> None:
    """Plan and print."""
    plain = composed("plan", arguments)
    settings = checked(PlanConfig, plain.pop("plan"), within="plan")
    config = parse(plain)
    preflight.check(config)
    tensors, adapter_bytes = planned_adapter(config)
    overrides: tuple[str, ...] = ()
    if settings.target_ratio is not None:
        overrides = sizing.search(config, tensors, settings.target_ratio)
        config = parse(composed("train", [*(a for a in arguments if not a.startswith("plan.")), *overrides]))
    found = make_plan(config, tensors, adapter_bytes, overrides)
    if settings.output == "json":
        print(json.dumps(found.record()))
    else:
        show(found)
        if settings.target_ratio is not None:
            print(" ".join(overrides) or "nothing to change: this config is the best fit")


def planned_adapter(config: Config) -> tuple[list[AdapterTensor], int]:
    """What the PEFT method trains, and bytes saved: from the config alone where that tells, else from real modules on the meta device."""
    known = preflight.known_tensors(config)
    if known is not None:
        return known, sum(t.size for t in known) * WEIGHT_BYTES
    from qpa.runs import parts as assembly  # transformers and peft: seconds
    from qpa.training.quiet import quiet

    quiet()
    return assembly.planned_adapter(config, source.config_folder(config.model))


def make_plan(config: Config, tensors: list[AdapterTensor], adapter_bytes: int, overrides: tuple[str, ...] = ()) -> Plan:
    """Count a run.

    Raises:
        ConfigError: chunks and qubits do not fit.
    """
    plain = sum(t.size for t in tensors)
    layout = preflight.check_layout(config, tensors)
    parameters = direct(plain) if layout is None else counted(config, layout)
    run = _circuits_per_step(config, layout) if layout else 0
    return Plan(
        modules=len({t.module for t in tensors}),
        generated=layout.generated if layout else 0,
        circuits=layout.circuits if layout else 0,
        qubits=layout.qubits if layout else 0,
        layers=config.circuit.layers if layout else 0,
        chunk_sizes=dict(Counter(layout.lengths)) if layout else {},
        parameters=parameters,
        optimizer_bytes=parameters.trainable * _optimizer_bytes(config),
        adapter_bytes=adapter_bytes,
        circuits_per_step=run,
        shots=run * config.circuit.shots * config.trainer.max_steps if config.circuit.shots else None,
        overrides=overrides,
    )


def _circuits_per_step(config: Config, layout: Layout) -> int:
    if config.latents.kind not in ("circuit", "frozen_circuit"):
        return 0
    angles = backends.ansatz(config.circuit).rotation_layers(config.circuit.layers) * layout.qubits
    rule = config.circuit.rule if config.latents.kind == "circuit" else "exact"  # no gradient of what is frozen
    return layout.circuits * circuits_per_step(rule, angles)


def _optimizer_bytes(config: Config) -> int:
    """What the optimizer keeps for every trained number, bytes: one of it takes one step on one number."""
    number = torch.nn.Parameter(torch.zeros(1))
    number.grad = torch.ones(1)
    try:
        optimizer = get_class(config.optimizer.target)([number], lr=config.optimizer.lr, **config.optimizer.arguments())
        optimizer.step()
    except (ImportError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ConfigError("optimizer", config.optimizer.target, f"refuses its arguments: {' '.join(str(error).split())}") from error
    kept = (value for value in optimizer.state[number].values() if isinstance(value, torch.Tensor) and value.shape == number.shape)
    return sum(value.element_size() for value in kept)


def show(found: Plan) -> None:
    """Print a plan as a table."""
    table = Table(show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    parameters = found.parameters
    table.add_row("adapted modules", f"{found.modules:,}")
    table.add_row("weights generated (P)", f"{found.generated:,}", end_section=not found.generated)
    if found.generated:
        table.add_row("circuits x qubits x layers", f"{found.circuits:,} x {found.qubits} x {found.layers}")
        sizes = ", ".join(f"{chunks:,} of {size:,}" for size, chunks in found.chunk_sizes.items())
        table.add_row("chunks", sizes, end_section=True)
        table.add_row("trained: circuit angles", f"{parameters.circuit:,}")
        table.add_row("trained: mapper", f"{parameters.mapper:,}")
    table.add_row("trained: total", f"[bold]{parameters.trainable:,}[/bold]")
    table.add_row("plain PEFT would train", f"{parameters.plain_peft:,}")
    table.add_row("ratio", f"[bold]{parameters.ratio:.2%}[/bold]", end_section=True)
    if found.shots is not None and found.device_seconds is not None:
        table.add_row("circuits per step", f"{found.circuits_per_step:,}")
        table.add_row("shots of all steps", f"{found.shots:,}")
        table.add_row(f"on a device, {SECONDS_PER_SHOT * 1e6:.0f} us a shot", f"{found.device_seconds / 3600:,.2f} h", end_section=True)
    table.add_row("optimizer memory", _size(found.optimizer_bytes))
    table.add_row("exported adapter", _size(found.adapter_bytes))
    Console(soft_wrap=True).print(table)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


if __name__ == "__main__":
    with cli.one_line_errors():
        main(sys.argv[1:])
