"""Whole runs on images: what they report against scikit-learn on stock peft's logits, however the images come, whatever reads them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, planned, train_run
from images import VIT, arguments, chosen, config, dataset_of, folder_of
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from transformers import AutoConfig, AutoModelForImageClassification

from qpa.adapters import saved
from qpa.config import Config
from qpa.runs import export, record
from qpa.tasks.vision import drawing
from qpa.tasks.vision.task import Vision


def run(found: Config) -> dict[str, Any]:
    train_run(found)
    assert found.run_dir
    return record.read(Path(found.run_dir))["qpa"]


def task_of(found: Config) -> Vision:
    task = planned(found).task
    assert isinstance(task, Vision)
    return task


def stock_logits(found: Config, split: str) -> tuple[np.ndarray, np.ndarray]:
    """What stock peft says of a split's images, each normalised by hand, and the truth."""
    task = task_of(found)
    model = PeftModel.from_pretrained(task.base(), f"{found.run_dir}/adapter").eval()
    pictures, view = task.pictures[split], task.view
    images = torch.from_numpy(pictures.pixels).float()
    if images.shape[-1] != view.size:
        images = torch.nn.functional.interpolate(images, (view.size, view.size), mode="bilinear", antialias=True)
    mean, std = (np.reshape(numbers, (1, -1, 1, 1)).astype(np.float32) for numbers in (view.mean, view.std))
    with torch.no_grad():
        said = model((images / 255 - mean) / std)
    return getattr(said, "logits", said).numpy(), pictures.labels


def calibration_error(shares: np.ndarray, truth: np.ndarray) -> float:
    """Of fifteen bins of confidence, the mean distance to accuracy (Guo et al. 2017)."""
    confidence, right = shares.max(1), shares.argmax(1) == truth
    bins = np.clip(np.ceil(confidence * 15).astype(int), 1, 15)
    return sum((bins == b).mean() * abs(confidence[bins == b].mean() - right[bins == b].mean()) for b in np.unique(bins))


@pytest.mark.few(2)
@pytest.mark.parametrize("overrides", [[], ["generator=none"]], ids=["qpa", "none"])
@pytest.mark.parametrize("model", ["cnn", "vit", "lite0"])
def test_what_is_reported_is_scikit_learns_of_stock_pefts_logits(tmp_path: Path, model: str, overrides: list[str]) -> None:
    found = config(tmp_path, *overrides, data=folder_of(tmp_path / "digits", chosen()), model=model)
    ours = run(found)
    for split in ("val", "test"):
        logits, truth = stock_logits(found, split)
        shares = torch.from_numpy(logits).softmax(1).numpy()
        assert ours[split]["accuracy"] == pytest.approx(accuracy_score(truth, logits.argmax(1)))
        assert ours[split]["loss"] == pytest.approx(log_loss(truth, shares, labels=range(3)), rel=1e-4)
        assert ours[split]["calibration"] == pytest.approx(calibration_error(shares, truth), abs=1e-5)
        assert ours[split]["confusion"] == confusion_matrix(truth, logits.argmax(1), labels=range(3)).tolist()
        assert ours[split]["examples"] == len(truth)
        losses = -np.log(shares[np.arange(len(truth)), truth])
        worst = np.array(ours[split]["worst"])
        assert worst[:, 3] == pytest.approx(np.sort(losses)[::-1][:16], rel=1e-3)
        places = worst[:, 0].astype(int)
        assert worst[:, 3] == pytest.approx(losses[places], rel=1e-3)
        assert worst[:, 1:3].tolist() == np.stack([truth, logits.argmax(1)], axis=1)[places].tolist()
    assert Image.open(tmp_path / "run" / "drawn.png").format == "PNG"
    head = {"cnn": 0, "vit": 16 * 3 + 3, "lite0": 1280 * 3 + 3}[model]
    params = ours["params"]
    assert params.get("beside", 0) == (0 if overrides else head)
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert params["plain_peft"] == sum(tensor.numel() for tensor in saved.values())
    assert json.loads((tmp_path / "run" / "adapter" / "classes.json").read_text())["classes"] == ["0", "1", "2"]


@pytest.mark.slow
def test_images_give_the_same_run_whichever_way_they_come(tmp_path: Path) -> None:
    rows = chosen()
    dataset_of(rows).save_to_disk(tmp_path / "saved")
    folder = run(config(tmp_path, data=folder_of(tmp_path / "digits", rows)))
    saved = run(config(tmp_path, "data=image_hub", f"data.hub={tmp_path}/saved", "data.val_fraction=0.2", f"run_dir={tmp_path}/other"))
    assert saved["texts"] == folder["texts"]
    assert saved["test"] == folder["test"]
    adapters = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("run", "other")]
    torch.testing.assert_close(*adapters, rtol=0, atol=0)


@pytest.mark.parametrize("overrides", [[], ["generator=none"]], ids=["qpa", "none"])
@pytest.mark.parametrize("model", ["cnn", "lite0"])
@pytest.mark.few(1)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, model: str, overrides: list[str]) -> None:
    """Also where images pass by layers at random."""
    data = folder_of(tmp_path / "digits", chosen())
    fixed = [*overrides, "trainer.val_every=4", "trainer.checkpoint_every=2"]
    whole = run(config(tmp_path, *fixed, data=data, model=model))
    checkpoint = tmp_path / "run" / "checkpoints" / "previous.ckpt"
    resumed = run(config(tmp_path, *fixed, f"run_dir={tmp_path}/half", f"ckpt={checkpoint}", data=data, model=model))
    assert resumed["resumed_from_step"] == 2
    assert resumed["test"] == whole["test"]


@pytest.mark.parametrize(
    ("peft", "model"),
    [
        ("dora", "cnn"),
        ("dora", "lite0"),
        ("dora", "vit"),
        ("lokr", "cnn"),
        ("ia3 peft.feedforward_modules=[]", "cnn"),
        ("vera", "vit"),
        ("fourierft peft.n_frequency=20", "vit"),
        ("adapter peft.target_modules=[attention]", "vit"),
    ],
)
@pytest.mark.few(1)
def test_other_methods_are_read_by_peft_with_their_heads(tmp_path: Path, peft: str, model: str) -> None:
    """The run itself compares what is exported with what was trained."""
    overrides = [f"peft={peft}".split()[0], *peft.split()[1:], "trainer.max_steps=2"]
    found = config(tmp_path, *overrides, data=folder_of(tmp_path / "digits", chosen()), model=model)
    assert 0 <= run(found)["test"]["accuracy"] <= 1


@pytest.mark.parametrize(("saved", "stands"), [(3, "its head is as it was saved"), (5, "its head is new, and not trained")])
def test_a_saved_model_keeps_its_head_where_it_has_as_many_classes(tmp_path: Path, saved: int, stands: str) -> None:
    model = AutoModelForImageClassification.from_config(AutoConfig.for_model(**VIT, num_labels=saved))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.25], "image_std": [2.0], "size": {"height": 8}})
    )
    found = config(tmp_path, f"model.path={tmp_path}/model", data=folder_of(tmp_path / "digits", chosen()), model="saved")
    task = task_of(found)
    assert task.view.mean == (0.25,) and task.view.std == (2.0,) and task.view.size == 8
    base: Any = task.base()
    weights = model.state_dict()
    for name, tensor in base.state_dict().items():
        if saved == 3 or not name.startswith("classifier"):
            assert torch.equal(tensor, weights[name])
    assert task.protocol()["base"] == stands
    assert run(found)["params"]["beside"] == 51


def test_statistics_of_batch_norm_stay_the_base_models(tmp_path: Path) -> None:
    task = task_of(config(tmp_path, data=folder_of(tmp_path / "digits", chosen()), model="lite0"))
    base = task.base().train()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    base(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(base.state_dict(), before, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.few(1)
@pytest.mark.parametrize(("model", "method"), [("cnn", "whole generator=paper mapper=quantum_train"), ("lite0", "lora"), ("vit", "lora")])
def test_onnxruntime_says_of_the_exported_graph_what_the_saved_model_says(tmp_path: Path, model: str, method: str) -> None:
    import onnxruntime

    overrides = [f"peft={method}".split()[0], *method.split()[1:], "trainer.max_steps=2"]
    found = config(tmp_path, *overrides, data=folder_of(tmp_path / "digits", chosen()), model=model)
    run(found)
    folder = Path(str(found.run_dir))
    export.onnx(found, folder)
    task = task_of(found)
    images = task.learner(task.base()).seen(torch.from_numpy(task.pictures["test"].pixels[:7]))
    session: Any = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    (said,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        expected = saved.load_adapter(task.base(own=True), folder / "adapter").eval()(images)
    np.testing.assert_allclose(said, getattr(expected, "logits", expected).numpy(), atol=1e-4, rtol=1e-4)
    assert json.loads((folder / "onnx" / "classes.json").read_text())["classes"] == list(task.names)


def test_first_filters_and_worst_images_are_drawn(tmp_path: Path) -> None:
    found = config(tmp_path, "trainer.max_steps=2", data=folder_of(tmp_path / "digits", chosen()), model="cnn")
    run(found)
    assert Image.open(Path(str(found.run_dir)) / "drawn.png").size[0] > 500
    filters = drawing.first_filters(task_of(found).base())
    assert filters is not None and filters.shape == (4, 1, 3, 3)


@pytest.mark.slow
def test_two_processes_equal_one_with_double_batch(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "digits", chosen())
    alone = run(config(tmp_path, data=data))
    shared = ["trainer=ddp", "trainer.max_steps=4", "trainer.val_every=2", "data.batch_size=2", f"run_dir={tmp_path}/two"]
    command = [sys.executable, ROOT / "train.py", *arguments(tmp_path, *shared, data=data)]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    together = record.read(tmp_path / "two")["qpa"]
    for score in ("accuracy", "loss", "calibration"):
        assert together["test"][score] == pytest.approx(alone["test"][score], rel=1e-4)
    assert together["test"]["confusion"] == alone["test"]["confusion"]
