"""The real config, composed by Hydra and shrunk to a model of a few thousand weights; no network, no GPU."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from qpa.config import Config
    from qpa.runs.parts import Parts
    from qpa.runs.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors, and as many test processes as cores

# One tiny shape per architecture: heads and widths differ, so that a transposed or swapped shape cannot pass unseen.
LLAMA = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
TINY = {
    "smollm2": LLAMA,
    "gpt2": {"vocab_size": 300, "n_embd": 32, "n_head": 4, "bos_token_id": 256, "eos_token_id": 256},
    "gemma": LLAMA,
    "gemma2": LLAMA | {"query_pre_attn_scalar": 8},
    "gemma3_270m": LLAMA | {"query_pre_attn_scalar": 8},
}
FEW = "data.max_held_out_windows=8"  # reading all would take most of a tiny run's time
FITTING = {"peft=fourierft": ["peft.n_frequency=50"], "peft=vblora": ["peft.vector_length=8", "peft.num_vectors=16"]}  # tiny widths
FITTING |= {f"experiment=all_linear/{name}_5": FITTING[f"peft={name}"] for name in ("fourierft", "vblora")}


CASES = 1  # of a test's, run each time


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the cases of a test, all but `CASES` of them, or `n` where it is marked `few(n)`, evenly spaced, are slow ones."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if not item.get_closest_marker("slow"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for several in cases.values():
        mark = several[0].get_closest_marker("few")
        most = mark.args[0] if mark else CASES
        kept = {round(i * len(several) / most) for i in range(most)}
        for number, item in enumerate(several):
            if number not in kept:
                item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `gpu` needs a card, or as many as the mark says; where they are not, it is skipped."""
    for mark in item.iter_markers("gpu"):
        import torch

        needed = mark.args[0] if mark.args else 1
        if torch.cuda.device_count() < needed:
            pytest.skip(f"needs {needed} CUDA device{'s' if needed > 1 else ''}")


def command_line(text_file: Path, folder: Path) -> list[str]:
    """Overrides for a process of its own: a tiny random model, a short text, a cache in `folder`, runs that are named `tiny`."""
    shape = ["model.weights=random", "model.num_layers=1", *(f"model.architecture.{key}={value}" for key, value in LLAMA.items())]
    text = ["data=text", f"data.train_files=[{text_file}]", "data.val_fraction=0.1", "data.context=32", "data.batch_size=2", FEW]
    return [*shape, *text, f"cache_dir={folder}/cache", "name=tiny", "trainer.val_every=1000"]


def committed_records() -> Iterator[dict[str, Any]]:
    """The `result.json` of every committed run, study by study."""
    for study in sorted((ROOT / "docs" / "results").glob("*.jsonl")):
        yield from (json.loads(line)["record"] for line in study.read_text().splitlines())


def real_record() -> str:
    """A committed `result.json` of a run whose trained circuits generate LoRA r=4 of the head: of all these, the first."""
    for record in committed_records():
        config = record["run_info"]["train_config"]
        kinds = config["generator"]["kind"], config["latents"]["kind"], config["mapper"]["kind"]
        if kinds == ("qpa", "circuit", "codes") and (config["peft"]["r"], config["peft"]["target_modules"]) == (4, ["lm_head"]):
            return json.dumps(record)
    raise AssertionError("there is no such record")


def flat(scores: Mapping[str, Any]) -> dict[str, float]:
    """What a split's record holds, each number under a name of its own: pytest compares no lists within dicts."""
    found: dict[str, float] = {}
    for name, value in scores.items():
        found |= flat({f"{name}.{i}": inner for i, inner in enumerate(value)}) if isinstance(value, list) else {name: value}
    return found


def planned(config: "Config", kept: dict | None = None) -> "Plan":
    """The plan of a config's run, in a process that keeps what is `kept`."""
    from qpa.config.context import Context
    from qpa.runs import plan

    return plan.make(config, Context(kept={} if kept is None else kept))


def build(config: "Config", kept: dict | None = None) -> "Parts":
    """The objects of a config's run."""
    from qpa.runs import parts

    return parts.build(planned(config, kept))


def train_run(config: "Config") -> None:
    """The whole run, as `train.py` has it."""
    from qpa.config.context import Context
    from qpa.runs import run

    run.train(run.ready(config, Context()))


def fingerprint(config: "Config") -> str:
    """What a config's run is known by, whether or not it could run."""
    from qpa.runs.plan import fingerprint

    return fingerprint(config, _content(config))


def lineage(config: "Config") -> dict[str, Any]:
    """What a checkpoint of a config's run says of itself."""
    from qpa.runs.plan import lineage

    return lineage(config, _content(config))


def _content(config: "Config") -> dict[str, Any]:
    from qpa.config.context import Context
    from qpa.tasks.task import find

    return find(config.task.kind)(config, Context()).content()


def folder_of(config: "Config") -> Path:
    """Where a config's run lies."""
    return Path(config.run_dir) if config.run_dir else planned(config).folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some real prose of the standard library: 20,000 characters."""
    from pydoc_data.topics import topics

    path = tmp_path_factory.mktemp("text") / "topics.txt"
    path.write_text("\n\n".join(topics.values())[:20_000])
    return path


@pytest.fixture
def compose_config(tmp_path: Path, text_file: Path) -> Callable[..., DictConfig]:
    """Compose `conf/train.yaml` with a tiny random model and a short text, then the given overrides."""

    def composed(*overrides: str, model: str = "smollm2") -> DictConfig:
        shape = [f"model.architecture.{key}={value}" for key, value in TINY[model].items()]
        files = [] if any(choice.startswith("data=") for choice in overrides) else [f"data.train_files=[{text_file}]"]
        text = [*files, "data.val_fraction=0.2", "data.context=32", "data.batch_size=4", FEW]
        trainer = ["trainer.max_steps=4", "trainer.val_every=2", "trainer.accelerator=cpu"]
        places = [f"cache_dir={tmp_path}/cache", f"run_dir={tmp_path}/run", "logger=none"]
        without = ("paper", "quantum_train", "qtrl", "mapper=subspace", "peft=whole")  # the mappers of these have none
        width = [] if any(name in choice for choice in overrides for name in without) else ["mapper.width=4"]
        fitting = [key for method in overrides for key in FITTING.get(method, [])]
        defaults = [f"model={model}", "model.weights=random", "model.num_layers=2", *shape, "data=text", *text, *trainer, *places, *width]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("train", overrides=[*defaults, *fitting, *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        OmegaConf.set_struct(config, False)
        config.pop("hydra")
        return config

    return composed


@pytest.fixture
def make_config(compose_config: Callable[..., DictConfig]):
    """The same, checked."""
    from qpa.config import parse

    return lambda *overrides, model="smollm2": parse(compose_config(*overrides, model=model))


@pytest.fixture
def saved_base(make_config, tmp_path: Path) -> Callable[..., Path]:
    """A tiny model saved in fp32 as a user would have it, with a byte tokenizer beside it."""

    def save(model: str) -> Path:
        from qpa.tasks.pretrained.tokenizer import BYTE_BOS, byte_encoder

        folder = tmp_path / f"base-{model}"
        planned(make_config(model=model)).task.base().float().save_pretrained(folder)
        byte_encoder().tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": BYTE_BOS, "tokenizer_class": "PreTrainedTokenizerFast"}))
        return folder

    return save
