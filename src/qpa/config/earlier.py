"""Configs on record that were written before a key existed: what their runs did then is what these values say."""

from collections.abc import Mapping
from typing import Any

ADDED: dict[str, Any] = {
    "baseline": None,
    "circuit.device": None,
    "circuit.entangler": "linear",
    "circuit.final_rotations": False,
    "circuit.gate": "CNOT",
    "circuit.gradient": None,
    "circuit.mitigate_readout": False,
    "circuit.noise": None,
    "circuit.rotations": ["RY"],
    "circuit.shots": None,
    "data.special_tokens": False,
    "data.text_column": "text",
    "logger.entity": None,
    "model.dtype": "auto",
    "model.quantization": None,
    "trainer.checkpoint_every": 10,
    "trainer.num_nodes": 1,
    "trainer.strategy": "single",
}


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config with all keys of today; one that lacks any other key is still refused."""
    whole = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    for path, value in ADDED.items():
        group, _, key = path.rpartition(".")
        section = whole.get(group) if group else whole
        if isinstance(section, dict):
            section.setdefault(key, value)
    return whole


def of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run on record, with what it was computed in where an older one left that to the machine."""
    config = completed(record["run_info"]["train_config"])
    used, trainer, model = record["qpa"].get("precision"), config["trainer"], config["model"]
    if used and trainer["precision"] == "auto":
        trainer["precision"] = used
        if model["dtype"] == "auto":
            model["dtype"] = "bfloat16" if used == "bf16-mixed" else "float32"
    return config
