"""What can be known to be wrong before anything slow starts: sources, modules, chunks against qubits, memory."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

from qpa.adapters import base_weights
from qpa.adapters.modules import HEAD, depth_key, linear_modules, lora_tensors, position_key, select
from qpa.config import Config
from qpa.core.circuits import backends
from qpa.core.circuits.cost import circuits_per_step
from qpa.core.layout import AdapterTensor, Layout, plan
from qpa.errors import ConfigError
from qpa.tasks.language import source

REAL_STATES = 56  # float32, that `circuits.statevector` takes with all it needs, however many blocks (measured, 18 to 23 qubits)
UNILORA_KEYS = {"_target_", "task_type", "target_modules", "r", "theta_d_length"}  # one vector, whatever it is spread over
UNILORA_LENGTH = 256  # peft's default
PLAIN_WEIGHTS_ONLY = {"peft.UniLoraConfig", "peft.TinyLoraConfig", "peft.LoKrConfig"}  # quantised ones they misread, or cannot shape
MOST_LAYERS = 1_000  # the deepest transformer published (DeepNet, arXiv 2203.00555)
COMPLEX_STATES = 2  # that torchquantum keeps for every qubit of every block: one per gate


def check(config: Config) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigError: the first thing found, with the way out.
    """
    source.check(config)
    base_weights.check(config.peft, dtype=config.model.dtype, quantization=config.model.quantization)
    _check_method(config)
    if config.generator.kind == "qpa" and config.circuit.qubits:
        check_memory(config, circuits=1, qubits=config.circuit.qubits)
    architecture = source.architecture(config.model)
    if architecture is None:
        return  # only the hub knows it: the same checks run on the real model later
    with _readable():
        _check_size(config, architecture)
    tensors = known_tensors(config)
    if tensors is not None:
        check_layout(config, tensors)


def _check_size(config: Config, architecture: dict[str, Any]) -> None:
    layers, positions = (architecture.get(key) for key in (depth_key(architecture), position_key(architecture)))
    if config.model.num_layers and layers and config.model.num_layers > layers:
        raise ConfigError("model.num_layers", config.model.num_layers, f"this model has {layers} layers; at most {layers}")
    depth = config.model.num_layers or layers
    if depth and depth > MOST_LAYERS:
        key = f"model.architecture.{depth_key(architecture)}"
        raise ConfigError(key, depth, f"at most {MOST_LAYERS:,}; or give a smaller model.num_layers")
    prompt = config.peft.get("num_virtual_tokens", 0)
    if positions and config.data.context + prompt > positions:
        beside = f", peft.num_virtual_tokens={prompt} of them taken" if prompt else ""
        raise ConfigError("data.context", config.data.context, f"this model reads at most {positions} tokens at once{beside}")


@contextmanager
def _readable() -> Iterator[None]:
    """An architecture can be anything: it is the user's, or a folder's `config.json`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError("model.architecture", "...", f"lacks a size, or has one that is no number ({reason})") from error


def _check_method(config: Config) -> None:
    """Pairs of settings that do not work together."""
    method = config.peft.get("_target_")
    prompt = config.peft.get("num_virtual_tokens", 1)
    if not isinstance(prompt, int) or prompt < 1:
        raise ConfigError("peft.num_virtual_tokens", prompt, "should be an integer of at least 1")
    if config.trainer.compile and not shutil.which(os.environ.get("CXX", "g++")):
        raise ConfigError("trainer.compile", True, "needs a C++ compiler, and none is on the PATH; install g++, or set it to false")
    if method == "peft.PrefixTuningConfig" and config.model.gradient_checkpointing:
        raise ConfigError(
            "model.gradient_checkpointing",
            True,
            "prefixes are a key-value cache, which recomputing drops; set it to false, or use another peft",
        )
    if config.model.quantization and method in PLAIN_WEIGHTS_ONLY:
        problem = f"{str(method).removeprefix('peft.')} reads the base's numbers themselves; choose another peft, or leave it out"
        raise ConfigError("model.quantization", config.model.quantization, problem)
    if config.trainer.processes > 1 and _runs_circuits(config) and config.circuit.samples:
        problem = "every process would sample circuits of its own, and train another adapter; leave trainer=ddp, or shots, out"
        raise ConfigError("trainer.strategy", config.trainer.strategy, problem)
    if config.peft.get("use_dora") and HEAD in str(config.peft.get("target_modules")):
        print(f"qpa: DoRA on {HEAD} multiplies out the whole head at every step: slow, and large in memory", file=sys.stderr)


def _runs_circuits(config: Config) -> bool:
    return config.generator.kind == "qpa" and config.latents.kind in ("circuit", "frozen_circuit")


def known_tensors(config: Config) -> list[AdapterTensor] | None:
    """The adapter's tensors from the config's numbers alone; None where only the real modules tell.

    Raises:
        ConfigError: `peft.target_modules` matches nothing.
    """
    architecture = source.architecture(config.model)
    with _readable():
        modules = linear_modules(architecture, config.model.num_layers) if architecture else None
        sizes = [size for m in modules or () for size in (m.inputs, m.outputs)]
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError("a size should be an integer of at least 1")
    method = str(config.peft.get("_target_"))
    adapts_linear = "target_modules" in config.peft and method.startswith("peft.") and method not in base_weights.TRAINERS
    if modules is None or not adapts_linear:
        return None
    chosen = select(modules, config.peft["target_modules"])
    if set(config.peft) <= UNILORA_KEYS and method == "peft.UniLoraConfig":
        length = config.peft.get("theta_d_length", UNILORA_LENGTH)
        if not isinstance(length, int) or length < 1:
            raise ConfigError("peft.theta_d_length", length, "should be an integer of at least 1")
        return [AdapterTensor("unilora_theta_d", (length,), "unilora_theta_d")]
    return lora_tensors(chosen, config.peft) if chosen else None


def check_layout(config: Config, tensors: Sequence[AdapterTensor]) -> Layout | None:
    """The config's layout of these tensors, None where nothing is generated.

    Raises:
        ConfigError: chunks and qubits do not fit, or the circuits do not fit the memory.
    """
    if config.generator.kind == "none":
        return None
    layout = make_layout(config, tensors)
    check_memory(config, circuits=layout.circuits, qubits=layout.qubits)
    if _runs_circuits(config):
        backends.check(config.circuit, qubits=layout.qubits)
    return layout


def make_layout(config: Config, tensors: Sequence[AdapterTensor]) -> Layout:
    """The config's layout of these tensors."""
    return plan(
        tensors,
        circuits=config.generator.circuits or "per_module",
        qubits=config.circuit.qubits,
        chunk_size=config.mapper.chunk_size,
    )


def check_memory(config: Config, *, circuits: int, qubits: int) -> None:
    """Refuse circuits whose states do not fit half of this machine's memory."""
    room = psutil.virtual_memory().total // 2
    per_state = _state_bytes(config, circuits=circuits, qubits=qubits)
    needed = per_state << qubits
    if needed > room:
        most = max(1, (room // per_state).bit_length() - 1)
        size = f"{needed / 2**30:,.0f} GiB" if qubits < 64 else f"2**{needed.bit_length() - 31} GiB"
        raise ConfigError(
            "circuit.qubits",
            qubits,
            f"{circuits} circuit(s) of {qubits} qubits{_shifted(config)} need {size} of memory; at most {most} qubits fit here",
        )


def _shifted(config: Config) -> str:
    return ", those of circuit.gradient=parameter_shift with them," if config.circuit.rule == "parameter_shift" else ""


def _state_bytes(config: Config, *, circuits: int, qubits: int) -> int:
    """Of all circuits of a step, for each basis state."""
    circuit = config.circuit
    ansatz = backends.ansatz(circuit)
    angles = ansatz.rotation_layers(circuit.layers) * qubits
    at_once = circuits * circuits_per_step(circuit.rule, angles)
    if circuit.backend == "statevector":
        tables = 4 * 2 * qubits  # of the gradient's signs, once for all circuits
        return at_once * 4 * REAL_STATES * (1 if ansatz.real else 2) + tables
    kept = COMPLEX_STATES * angles if circuit.rule == "exact" else COMPLEX_STATES
    return at_once * 8 * kept
