"""What the tests of labelled texts share: small tables of real sentences, and configs of tiny random models that read them."""

import json
from collections.abc import Iterable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from conftest import LLAMA

from qpa.config import Config, parse
from qpa.config.composing import composed

BERT = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 4, "num_hidden_layers": 2}
MODELS = {"smollm2": LLAMA | {"num_hidden_layers": 2}, "minilm": BERT, "gpt2": {"vocab_size": 300, "n_embd": 32, "n_head": 4, "n_layer": 2}}
SENTENCES = [part.strip() for text in topics.values() for part in text.split(". ") if 20 < len(part.strip()) < 120][:400]

Rows = list[dict[str, Any]]


def kind(sentence: str) -> str:
    """One of three unequal classes."""
    return "code" if "()" in sentence or '"' in sentence else "long" if len(sentence) > 80 else "short"


def labelled(count: int = 90) -> Rows:
    return [{"text": sentence, "label": kind(sentence)} for sentence in SENTENCES[:count]]


def paired(count: int = 60) -> Rows:
    couples = zip(SENTENCES[:count], SENTENCES[count:], strict=False)
    return [{"premise": one, "hypothesis": other, "label": int(len(one) > len(other))} for one, other in couples]


def several(count: int = 60) -> Rows:
    marks = {"a": "a", "comma": ",", "quote": '"'}
    return [{"sentence": s, "labels": [name for name, mark in marks.items() if mark in s]} for s in SENTENCES[:count]]


def written(rows: Iterable[object], file: Path) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" if not isinstance(row, str) else row + "\n" for row in rows), encoding="utf-8")
    return file


def arguments(file: Path, folder: Path, *overrides: str, model: str = "smollm2") -> list[str]:
    """Of the command line: a tiny random model and a table."""
    shape = ["model.weights=random", *(f"model.architecture.{key}={value}" for key, value in MODELS[model].items())]
    data = ["data=files", f"data.train_files=[{file}]", "data.val_fraction=0.3", "data.context=64", "data.batch_size=4"]
    trainer = ["trainer.max_steps=4", "trainer.val_every=2", "trainer.accelerator=cpu", "optimizer.lr=0.01", "mapper.width=4"]
    places = [f"cache_dir={folder}/cache", f"run_dir={folder}/run", "logger=none", "name=tiny"]
    return ["task=classification", f"model={model}", *shape, *data, *trainer, *places, *overrides]


def config(file: Path, folder: Path, *overrides: str, model: str = "smollm2") -> Config:
    return parse(composed("train", arguments(file, folder, *overrides, model=model)))
