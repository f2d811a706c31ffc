"""What `task=vision` stands for where nothing else is named: a published network, all of it generated as published."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import train_run
from images import chosen, config, folder_of
from safetensors.torch import load_file

from qpa.commands import plan
from qpa.config.composing import composed
from qpa.runs import record

PUBLISHED = ["task=vision", "data=digits"]


def choices(*overrides: str) -> dict[str, Any]:
    found = composed("train", ["name=tiny", *overrides])
    return {"data": found["data"]["source"], "model": found["model"]["source"], "peft": found["peft"]["_target_"].rsplit(".")[-1]}


def test_task_chooses_and_the_command_line_wins() -> None:
    assert choices() == {"data": "pydoc", "model": "package", "peft": "LoraConfig"}
    assert choices("task=vision") == {"data": "image_package", "model": "cnn", "peft": "WholeConfig"}
    for order in (["task=vision", "model=vit", "data=cifar10", "peft=lora"], ["peft=lora", "data=cifar10", "model=vit", "task=vision"]):
        assert choices(*order) == {"data": "image_hub", "model": "image_hub", "peft": "LoraConfig"}


@pytest.mark.parametrize("layers", [1, 16])
@pytest.mark.parametrize(
    ("model", "mapper"), [("mnist_cnn", 249), ("cifar_cnn data.channels=3 mapper.hidden=[40,200,40]", 17_121)], ids=["mnist", "cifar"]
)
def test_published_counts_are_those_of_the_plan(capsys: pytest.CaptureFixture, model: str, mapper: int, layers: int) -> None:
    plan.main([*PUBLISHED, *f"model={model}".split(), f"circuit.layers={layers}", "plan.output=json"])
    found = json.loads(capsys.readouterr().out)
    assert found["trainable"] == mapper + layers * (78 if mapper == 249 else 114)
    assert found["generated"] == found["plain_peft"] == (6_690 if mapper == 249 else 285_226)


@pytest.mark.parametrize("generator", ["none", "paper", "qpa"])
def test_whole_networks_are_trained_and_read_by_stock_torch(tmp_path: Path, generator: str) -> None:
    """The run itself compares what is exported with what was trained."""
    method = ["peft=whole", f"generator={generator}", "mapper=quantum_train", "circuit=u3_cu3_ring"]
    found = config(tmp_path, *method, data=folder_of(tmp_path / "digits", chosen()))
    train_run(found)
    test = record.read(tmp_path / "run")["qpa"]["test"]
    assert 0 <= test["accuracy"] <= 1
    layers = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.MaxPool2d(2), torch.nn.Conv2d(4, 6, 3, padding=1), torch.nn.MaxPool2d(2)
    names = "conv1", "pool1", "conv2", "pool2", "flatten", "linear1", "linear2"
    network = torch.nn.Sequential()
    for name, layer in zip(names, (*layers, torch.nn.Flatten(), torch.nn.Linear(24, 12), torch.nn.Linear(12, 3)), strict=True):
        network.add_module(name, layer)
    network.load_state_dict(load_file(tmp_path / "run" / "adapter" / "model.safetensors"))
