"""Configs and lineages on record that an earlier program wrote, in the words of today."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Where a key is now that a user may still type.
MOVED = {"generator.lr": "optimizer.lr", "blocks": "layers"}

LANGUAGE = "language"  # the task of all runs that do not say which

# What runs did before a key existed.
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
    "study": None,
    "task.kind": LANGUAGE,
    "trainer.capture": True,
    "trainer.checkpoint_every": 10,
    "trainer.max_epochs": None,
    "trainer.max_time": None,
    "trainer.num_nodes": 1,
    "trainer.patience": None,
    "trainer.strategy": "single",
}
MODEL = {"model.dtype": "auto", "model.quantization": None}
TEXT = {"data.special_tokens": False, "data.train_bytes": None}
ROWS = TEXT | {
    "data.answer_metrics": {},
    "data.answer_tokens": 64,
    "data.completion_column": None,
    "data.generate": 0,
    "data.label_column": None,
    "data.messages_column": None,
    "data.packing": None,
    "data.pair_column": None,
    "data.prompt_column": None,
    "data.skip_bad": False,
    "data.template": None,
    "data.text_column": None,
    "data.too_long": "cut",
    "data.tools_column": None,
    "data.train_on": "completions",
}
# Of these, what a checkpoint does not belong to, or what is not said of it where it is null.
MEASURING = ("data.answer_tokens", "data.generate", "data.template", "data.train_bytes")
ADDED_TO: dict[tuple[str, str], dict[str, Any]] = {  # one choice of a group, by the key and value that tell it
    ("data.source", "files"): ROWS | {"data.encoding": None},
    ("data.source", "hub"): ROWS | {"data.splits": {"train": None, "val": None, "test": None}, "data.text_column": "text"},
    ("data.source", "pydoc"): TEXT,
    ("logger.kind", "wandb"): {"logger.entity": None},
    ("model.source", "hub"): MODEL,
    ("model.source", "package"): MODEL,
}

# Keys that all choices of a group had, whether they had a use for them or not; `optimizer.lr` was the same as `generator.lr`.
DROPPED_FROM = {
    ("data.source", "files"): ("data.hub", "data.hub_config"),
    ("data.source", "hub"): ("data.train_files", "data.val_files"),
    ("data.source", "pydoc"): ("data.hub", "data.hub_config", "data.text_column", "data.train_files"),
    ("generator.kind", "none"): ("generator.circuits", "generator.start", "generator.lr"),
    ("generator.kind", "qpa"): ("generator.lr",),
    ("logger.kind", "none"): ("logger.entity", "logger.group", "logger.mode", "logger.project"),
    ("model.source", "hub"): ("model.file", "model.install", "model.package", "model.sha256"),
}

RENAMED = {
    ("mapper.kind", "mlp"): "paper",
    ("peft._target_", "qpa.bottleneck.BottleneckConfig"): "qpa.adapters.bottleneck.BottleneckConfig",
}

PERPLEXITY: dict[str, Any] = {"name": "perplexity", "unit": "", "better": "lower", "scale": "log"}


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config with all keys of today, and none but those; one that lacks any other key, or has another, is still refused."""
    flat = {**ADDED, **_flat(config)}
    for (key, choice), added in ADDED_TO.items():
        flat = {**added, **flat} if flat.get(key) == choice else flat
    return _nested(_today(flat))


def lineage(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's lineage, by dotted key, as today's program would have written it."""
    added = ADDED_TO.get(("data.source", str(flat.get("data.source"))), {})
    shared = {key: value for key, value in _flat_all(added) if key not in MEASURING}
    return _today({"task.kind": LANGUAGE, **shared, **flat})


def of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run on record, with what it was computed in where an older one left that to the machine."""
    config = completed(record["run_info"]["train_config"])
    used, trainer, model = record["qpa"].get("precision"), config["trainer"], config["model"]
    if used and trainer["precision"] == "auto":
        trainer["precision"] = used
        if model["dtype"] == "auto":
            model["dtype"] = "bfloat16" if used == "bf16-mixed" else "float32"
    return config


def judged(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a run on record learned (`kind`, `name`, how much it `read` and what is `counted`), and the `metric` it is judged by."""
    ours = record["qpa"]
    if "metric" in ours:
        return {"task": ours["task"], "metric": ours["metric"]}
    config = completed(record["run_info"]["train_config"])
    model, data, trainer = config["model"], config["data"], config["trainer"]
    processes = trainer["devices"] * trainer["num_nodes"]
    windows = data["batch_size"] * trainer["accumulate_grad_batches"] * processes * trainer["max_steps"]
    weights = " (random weights)" if model["weights"] == "random" else f" ({model['quantization']})" if model["quantization"] else ""
    text = ", ".join("/".join(Path(file).parts[-2:]) for file in data.get("train_files", ())) or data.get("hub") or data["source"]
    name = f"{str(model['path'] or model['hub']).rpartition('/')[2]}{weights} on {text}"
    task = {"kind": LANGUAGE, "name": name, "read": data["context"] * windows, "counted": "tokens"}
    return {"task": task, "metric": PERPLEXITY}


def _today(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Keys without use dropped, values renamed."""
    dropped = {key for (told_by, choice), keys in DROPPED_FROM.items() if flat.get(told_by) == choice for key in keys}
    return {key: _renamed(key, value) for key, value in flat.items() if key not in dropped}


def _renamed(key: str, value: Any) -> Any:
    return RENAMED.get((key, value), value) if isinstance(value, str) else value


def _flat_all(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """By dotted key, whatever is within."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat_all({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            yield name, value


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """By `group.key`, and by name what is in no group."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {str(name): value}
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The other way round; of a name that is a value and a group too, the value."""
    whole: dict[str, Any] = {}
    for path, value in flat.items():
        group, _, key = path.partition(".")
        if not key:
            whole[group] = value
        elif isinstance(section := whole.setdefault(group, {}), dict):
            section[key] = value
    return whole
