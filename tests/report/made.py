"""Records made for the report's tests: a real one, with other numbers."""

import json
import random
from pathlib import Path
from typing import Any

from conftest import real_record

TEMPLATE = real_record()
PERPLEXITY = {"name": "perplexity", "unit": "", "better": "lower", "scale": "log"}
ACCURACY = {"name": "accuracy", "unit": "%", "better": "higher", "scale": "linear"}
RETURN = {"name": "return", "unit": "", "better": "higher", "scale": "linear"}
BASES = {"accuracy": 40.0, "return": -300.0}
TASKS = {"accuracy": {"kind": "vision", "name": "ViT on CIFAR-10"}, "return": {"kind": "control", "name": "MLP on Pendulum-v1"}}


def write_run(
    root: Path,
    *,
    seed: int,
    value: float,
    latents: str = "circuit",
    kind: str = "qpa",
    metric: dict[str, str] | None = None,
    **changed: Any,
) -> Path:
    """A real record with these numbers, and with others for what the report compares besides, drawn for each run."""
    record = json.loads(TEMPLATE)
    config, ours, draw = record["run_info"]["train_config"], record["qpa"], random.Random(seed)
    trainable = changed.get("trainable", 1000 if kind == "none" else 50)
    for group, key in (("generator", "lr"), ("mapper", "width"), ("circuit", "layers"), ("peft", "lora_alpha"), ("data", "train_files")):
        config[group][key] = changed.get(key, config[group][key])
    config |= {"seed": seed, "latents": {"kind": latents}}
    config["generator"]["kind"] = kind
    config["mapper"]["kind"] = changed.get("mapper", config["mapper"]["kind"])
    if changed.get("train_bytes"):
        config["data"]["train_bytes"] = changed["train_bytes"]
    config["optimizer"]["lr"] = config["generator"]["lr"]
    record["run_info"] |= {"command": f"python train.py seed={seed}", "error_msg": changed.get("error")}
    record["train_info"] |= {"status": changed.get("status", "success"), "file_size": draw.randint(10**6, 10**7)}
    ours["params"] |= {"trainable": trainable, "plain_peft": 1000, "circuit": 0, "mapper": 0 if kind == "none" else trainable}
    name = metric["name"] if metric else "perplexity"
    if metric:
        ours |= {"metric": metric, "task": TASKS[name] | {"read": 960, "counted": "examples"}}
        base = {f"base_{name}": changed.get("base", BASES[name]), "examples": 100}
        ours |= {"test": base.copy(), "val": base.copy()}
    ours["test"][name] = value
    ours["val"][name] = changed.get("val", value)
    if changed.get("pieces"):
        ours["test"]["pieces"] = changed["pieces"]
    ours["texts"]["train"] = [changed.get("text", "digest")]
    ours |= {"seconds_per_step": draw.uniform(1, 2), "peak_memory_bytes": draw.randint(2**30, 2**32)}
    folder = root / "-".join(map(str, (name, kind, latents, seed, *(v for k, v in changed.items() if k != "pieces"))))
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(record))
    (folder / "metrics.csv").write_text(f"epoch,step,train/loss,val/{name}\n0,4,3.0,\n0,4,,{value + 2}\n0,9,,{value}\n")
    return folder


def seeds(root: Path, values: list[float], **changed: Any) -> None:
    for seed, value in enumerate(values, 1):
        write_run(root, seed=seed, value=value, **changed)
