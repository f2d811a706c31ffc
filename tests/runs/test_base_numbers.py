"""What the base model reaches is measured once on a machine, and again when anything that it depends on is another."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import flat, folder_of, train_run
from safetensors.torch import load_file, save_file

from qpa.config import Config
from qpa.runs import measure, record
from qpa.runs.evaluate import evaluate
from qpa.tasks.task import Learner

MakeConfig = Callable[..., Config]


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Learner]:
    """Models whose held-out data has been read after training."""
    found: list[Learner] = []
    read = measure._read

    def watched(plan, trainer, learner, known):
        found.append(learner)
        return read(plan, trainer, learner, known)

    monkeypatch.setattr(measure, "_read", watched)
    return found


def test_second_run_has_the_base_numbers_of_the_first_without_reading_the_base(
    make_config: MakeConfig, readings: list[Learner], tmp_path: Path
) -> None:
    first, second = (make_config(f"run_dir={tmp_path}/{name}", f"optimizer.lr={rate}") for name, rate in (("one", 0.01), ("two", 0.1)))
    train_run(first)
    assert len(readings) == 2  # adapted, and base
    train_run(second)
    assert len(readings) == 3
    one, two = (record.read(folder_of(config))["qpa"] for config in (first, second))
    for split in ("val", "test"):
        assert one[split]["base_perplexity"] == two[split]["base_perplexity"]
        assert one[split]["perplexity"] != two[split]["perplexity"]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "other",
    ["seed=2", "data.batch_size=2", "data.max_held_out_windows=4", "data.context=48", "model.num_layers=1", "model.dtype=bfloat16"],
)  # the seed draws the random weights
def test_anything_the_base_numbers_depend_on_has_them_measured_again(
    make_config: MakeConfig, readings: list[Learner], tmp_path: Path, other: str
) -> None:
    short = ["trainer.max_steps=1", "model.dtype=float32"]
    train_run(make_config(f"run_dir={tmp_path}/one", *short))
    train_run(make_config(f"run_dir={tmp_path}/two", *short, other))
    assert len(readings) == 4
    one, two = (record.read(tmp_path / name)["qpa"]["test"]["base_perplexity"] for name in ("one", "two"))
    assert one != two or other == "data.batch_size=2"


@pytest.mark.slow
def test_another_model_in_the_same_folder_is_measured_again(
    make_config: MakeConfig, saved_base: Callable[..., Path], readings: list[Learner], tmp_path: Path
) -> None:
    base = saved_base("smollm2")
    path = ["model.weights=published", f"model.path={base}", "model.num_layers=null", "trainer.max_steps=1"]
    train_run(make_config(f"run_dir={tmp_path}/one", *path))
    weights = load_file(base / "model.safetensors")
    save_file({name: 1.1 * tensor for name, tensor in weights.items()}, base / "model.safetensors", metadata={"format": "pt"})
    train_run(make_config(f"run_dir={tmp_path}/two", *path))
    assert len(readings) == 4


@pytest.mark.slow
def test_damaged_file_is_measured_again(make_config: MakeConfig, readings: list[Learner], tmp_path: Path) -> None:
    train_run(make_config(f"run_dir={tmp_path}/one", "trainer.max_steps=1"))
    (kept,) = (tmp_path / "cache" / "base").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:20])
    train_run(make_config(f"run_dir={tmp_path}/two", "trainer.max_steps=1"))
    assert len(readings) == 4
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("data", ["data.protocol=packed", "data.protocol=paper"])
def test_validation_on_record_is_that_of_the_exported_adapter(make_config: MakeConfig, tmp_path: Path, data: str) -> None:
    """It is taken from training, where the best step was validated, and not read again."""
    config = make_config("optimizer.lr=0.3", "trainer.max_steps=6", "trainer.val_every=2", "peft.lora_dropout=0.1", data)
    train_run(config)
    found = record.read(folder_of(config))["qpa"]
    _, again = evaluate(config, folder_of(config))
    assert flat(found["val"]) == pytest.approx(flat(again["val"]), rel=1e-6)
    assert flat(found["test"]) == pytest.approx(flat(again["test"]), rel=1e-6)
    assert found["val"]["tokens"] == again["val"]["tokens"]


def test_validation_of_an_earlier_process_on_fewer_windows_is_not_taken_for_this_ones(make_config: MakeConfig, tmp_path: Path) -> None:
    first = ["optimizer.lr=0.01", "trainer.val_every=1", f"run_dir={tmp_path}/run", "data.max_held_out_windows=1"]
    train_run(make_config(*first, "trainer.max_steps=2"))
    again = [*first[:-1], "data.max_held_out_windows=4", "ckpt=last", "force=true", "optimizer.lr=1000"]  # never better
    config = make_config(*again, "trainer.max_steps=3")
    train_run(config)
    found, (_, read) = record.read(folder_of(config))["qpa"], evaluate(config, folder_of(config))
    assert found["val"]["tokens"] == read["val"]["tokens"]
    assert flat(found["val"]) == pytest.approx(flat(read["val"]), rel=1e-6)


def test_base_numbers_that_cannot_be_kept_cost_no_run(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full, or another run writes the same just now."""

    def refused(path: Path, found: object) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(measure, "write_json", refused)
    config = make_config("trainer.max_steps=1")
    train_run(config)
    assert record.read(folder_of(config))["qpa"]["test"]["base_perplexity"] > 0
