"""What can be known to be wrong before anything slow starts: sources, modules, chunks against qubits, memory."""

import psutil

from qpa import source
from qpa.config import Config
from qpa.errors import ConfigError
from qpa.layout import Layout, plan
from qpa.modules import linear_modules, lora_tensors, select

AMPLITUDE_BYTES = 4  # float32, real
STATES_KEPT = 3  # per block, for the backward pass: before its rotations, between their factors, after


def check(config: Config) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigError: the first thing found, with the way out.
    """
    source.check(config)
    if config.generator.kind == "qpa" and config.circuit.qubits:
        check_memory(config, circuits=1, qubits=config.circuit.qubits)
    architecture = source.architecture(config.model)
    modules = linear_modules(architecture, config.model.num_layers) if architecture else None
    if modules is None or "target_modules" not in config.peft:
        return  # not in our table: the same checks run on the real model later
    tensors = lora_tensors(select(modules, config.peft["target_modules"]), config.peft)
    if tensors and config.generator.kind == "qpa":
        check_memory(config, circuits=(layout := make_layout(config, tensors)).circuits, qubits=layout.qubits)


def make_layout(config: Config, tensors: list) -> Layout:
    """The config's layout of these tensors."""
    return plan(
        tensors,
        circuits=config.generator.circuits or "per_module",
        qubits=config.circuit.qubits,
        chunk_size=config.mapper.chunk_size,
    )


def check_memory(config: Config, *, circuits: int, qubits: int) -> None:
    """Refuse circuits whose states, kept for the backward pass, do not fit half of this machine's memory."""
    per_state = AMPLITUDE_BYTES * circuits * (STATES_KEPT * config.circuit.layers + 2)
    room = psutil.virtual_memory().total // 2
    needed = per_state << qubits
    if needed > room:
        most = max(1, (room // per_state).bit_length() - 1)
        size = f"{needed / 2**30:,.0f} GiB" if qubits < 64 else f"2**{needed.bit_length() - 31} GiB"
        raise ConfigError(
            "circuit.qubits", qubits, f"{circuits} circuit(s) of {qubits} qubits need {size} of memory; at most {most} qubits fit here"
        )
