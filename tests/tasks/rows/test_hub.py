"""Data sets as the real `datasets` library reads them from a local folder: their text, or one line that says what is the matter."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT, command_line, fingerprint, folder_of, train_run
from texts import read, three

from qpa.config import Config
from qpa.errors import ConfigError
from qpa.tasks.language import splits

MakeConfig = Callable[..., Config]
Files = dict[str, bytes | str | list | pyarrow.Table]
TRAIN = [f"Line {n} of the training text, which is long enough for a window." for n in range(60)]
VAL = [f"Line {n} of the validation text." for n in range(20)]
TEST = [f"Line {n} of the test text." for n in range(20)]
SPLITS = {"train": TRAIN, "validation": VAL, "test": TEST}


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def dataset(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Config]:
    """A config with a data set of the given files: tables as Parquet, lists as JSON lines of `text`, words as they are."""

    def made(files: Files, *overrides: str) -> Config:
        folder = tmp_path / "set"
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, content)
        folder.mkdir(exist_ok=True)
        return make_config("data=hub", "data.context=32", f"data.hub={folder}", *overrides)

    return made


def write(path: Path, content: bytes | str | list | pyarrow.Table) -> None:
    if isinstance(content, pyarrow.Table):
        pyarrow.parquet.write_table(content, path)
    elif isinstance(content, list):
        path.write_text("".join(json.dumps({"text": row}) + "\n" for row in content))
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def table(rows: list, kind: Any = None, column: str = "text") -> pyarrow.Table:
    return pyarrow.table({column: pyarrow.array(rows, kind), "number": list(range(len(rows)))})


def csv(rows: list[str]) -> str:
    return "text,number\n" + "".join(f'"{row}",{n}\n' for n, row in enumerate(rows))


@pytest.mark.parametrize(
    ("files", "overrides"),
    [
        ({"train.parquet": table(TRAIN), "validation.parquet": table(VAL), "test.parquet": table(TEST)}, []),
        ({f"data/{name}-{n:05}-of-00002.parquet": table(rows[9:] if n else rows[:9]) for name, rows in SPLITS.items() for n in (0, 1)}, []),
        ({"train.jsonl": TRAIN, "valid.jsonl": VAL, "eval.jsonl": TEST}, []),
        ({"train.csv": csv(TRAIN), "val.csv": csv(VAL), "testing.csv": csv(TEST)}, []),
        ({f"{name}.parquet": table(rows, None, "body") for name, rows in SPLITS.items()}, ["body"]),
        ({f"{name}.parquet": table(rows, pyarrow.large_string()) for name, rows in SPLITS.items()}, []),
        ({"train.txt": "\n".join(TRAIN), "validation.txt": "\n".join(VAL), "test.txt": "\n".join(TEST)}, []),
    ],
    ids=["parquet", "shards", "jsonl", "csv", "another column", "large strings", "text"],
)  # fmt: skip
def test_every_split_is_read_from_its_text_column(dataset: Callable[..., Config], files: Files, overrides: list[str]) -> None:
    texts = read(dataset(files, *(f"data.text_column={column}" for column in overrides)).data)
    assert vars(texts) == three("\n".join(TRAIN), "\n".join(VAL), "\n".join(TEST))


def test_split_named_otherwise_in_the_card_is_found(dataset: Callable[..., Config]) -> None:
    splits = "".join(f"  - {{split: {name}, path: {name[0]}.jsonl}}\n" for name in ("training", "dev", "evaluation"))
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n"
    texts = read(dataset({"README.md": card, "t.jsonl": TRAIN, "d.jsonl": VAL, "e.jsonl": TEST}).data)
    assert vars(texts) == three("\n".join(TRAIN), "\n".join(VAL), "\n".join(TEST))


def test_configuration_is_chosen_and_those_there_are_listed(dataset: Callable[..., Config]) -> None:
    card = "---\nconfigs:\n- {config_name: one, data_files: a.jsonl}\n- {config_name: two, data_files: b.jsonl}\n---\n"
    files: Files = {"README.md": card, "a.jsonl": TRAIN, "b.jsonl": TEST * 5}
    assert read(dataset(files, "data.hub_config=two").data).train.startswith(TEST[0])
    for config in ("null", "three"):
        with pytest.raises(ConfigError, match=r"data.hub_config=(None|three): .*'one', 'two'"):
            read(dataset(files, f"data.hub_config={config}").data)


def test_validation_text_is_cut_from_the_training_text_where_there_is_none(dataset: Callable[..., Config]) -> None:
    files: Files = {"train.jsonl": TRAIN, "test.jsonl": TEST}
    texts = read(dataset(files, "data.val_fraction=0.2").data)
    assert texts.train + texts.val == "\n".join(TRAIN)
    assert len(texts.val) == pytest.approx(0.2 * len(texts.train + texts.val), abs=len(TRAIN[0]) + 1)
    assert texts.test == "\n".join(TEST)
    with pytest.raises(ConfigError, match=r"data.val_fraction=None: .*validation split"):
        read(dataset(files, "data.val_fraction=null").data)


def test_test_text_is_half_of_the_validation_text_where_there_is_none(dataset: Callable[..., Config], tmp_path: Path) -> None:
    files: Files = {"train.jsonl": TRAIN, "validation.jsonl": VAL}
    texts = read(dataset(files).data)
    assert texts.train == "\n".join(TRAIN)
    assert texts.val + texts.test == "\n".join(VAL)
    assert len(texts.val) == pytest.approx(len(texts.test), abs=2 * len(VAL[0]) + 4)  # cut at a line end
    (tmp_path / "other.txt").write_text("A text of its own.")
    texts = read(dataset(files, f"data.test_files=[{tmp_path}/other.txt]").data)
    assert (texts.val, texts.test) == ("\n".join(VAL), "A text of its own.")


def test_null_rows_are_left_out_and_counted_and_empty_ones_are_empty_lines(
    dataset: Callable[..., Config], capsys: pytest.CaptureFixture
) -> None:
    rows = [TRAIN[0], None, "", TRAIN[1], None, *TRAIN[2:], "ends in a line end\n", "last"]
    texts = read(dataset({"train.jsonl": rows, "validation.jsonl": VAL, "test.jsonl": TEST}).data)
    assert texts.train == "\n".join([TRAIN[0], "", *TRAIN[1:], "ends in a line end", "last"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 of 65 rows of the train split" in line


MESSAGES = [[{"role": "user", "content": "Hello"}]] * 9
REFUSED = {
    "another column": ({"train.parquet": table(TRAIN, None, "body")}, "data.text_column=text: .* body: str, number: int$"),
    "messages": ({"train.jsonl": MESSAGES}, "data.text_column=text: .*no text but list"),
    "dicts": ({"train.jsonl": [{"a": "b"}] * 9}, "data.text_column=text: .*no text but dict"),
    "numbers": ({"train.csv": "text\n1\n2\n"}, "data.text_column=text: .*no text but int"),
    "dates": ({"train.parquet": table([1, 2], pyarrow.timestamp("s"))}, "data.text_column=text: .*timestamp"),
    "bytes": ({"train.parquet": table([b"a"])}, "data.text_column=text: .*binary"),
    "lists of words": ({"train.parquet": table([["a"]])}, "data.text_column=text: .*no text but list"),
    "mixed": ({"train.jsonl": ["a", 5, ["b"]]}, "data.hub=hub train row 2: .*no text but 5"),
    "images": ({"train/a.png": b"\x89PNG\r\n\x1a\n"}, "data.text_column=text: .*there are image"),
    "labels": (
        {
            "README.md": "---\ndataset_info:\n  features:\n  - name: text\n    dtype: {class_label: {names: {'0': a}}}\n---\n",
            "train.jsonl": [0] * 9,
        },
        "data.text_column=text: .*no text but int",
    ),
    "no train split": (
        {"test.jsonl": TEST, "validation.jsonl": VAL},
        "data.hub=.*no train split, only (test, validation|validation, test)",
    ),
    "nulls alone": ({"train.jsonl": [None] * 9}, "data.hub=.*: the train text is empty"),
    "no rows": ({"train.parquet": table(TRAIN), "test.parquet": table(TEST).slice(0, 0)}, "data.hub=.*cannot be read"),
    "no bytes": ({"train.jsonl": TRAIN, "test.jsonl": ""}, "data.hub=.*cannot be read .*no data"),
    "no files": ({}, "data.hub=.*cannot be read .*any data files"),
    "damaged Parquet": ({"train.parquet": b"PAR1 and nothing" * 9}, "data.hub=.*cannot be read .*Parquet"),
    "JSON that ends early": ({"train.jsonl": '{"text": "a"}\n{"te'}, "data.hub=.*cannot be read .*JSON"),
    "damaged card": ({"README.md": "---\nconfigs: [\n---\n", "train.jsonl": TRAIN}, "data.hub=.*cannot be read"),
    "splits that differ": ({"train.jsonl": TRAIN, "test.jsonl": '{"body": "a"}\n'}, "data.hub=.*cannot be read .*cast"),
    "two formats": ({"train.jsonl": TRAIN, "test.csv": "text\na\n"}, "data.hub=.*cannot be read"),
    "a loading script": ({"set.py": "raise SystemExit(9)", "train.jsonl": TRAIN}, "data.hub=.*cannot be read .*scripts"),
    "no UTF-8": ({"train.jsonl": b'{"text": "caf\xe9"}\n'}, "data.hub=hub train row 1: is no UTF-8 text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_as_text_is_one_line(dataset: Callable[..., Config], name: str) -> None:
    files, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message) as caught:
        read(dataset(files, "data.text_column=text").data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "..", "no/such/folder", "-", "a b", "x" * 300, "https://example.org/x", "owner/name@main"])
def test_name_that_no_dataset_has_is_one_line(make_config: MakeConfig, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "without" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "without" / "data")
    with pytest.raises(ConfigError, match=r"data\.hub=") as caught:
        read(make_config("data=hub", f"data.hub='{name}'").data)
    assert "\n" not in str(caught.value)


def test_folder_of_very_many_files_is_refused_before_all_are_read(dataset: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpa.files.MOST_FILES", 2)
    config = dataset({"a/train.jsonl": TRAIN, "b/validation.jsonl": VAL, "c/test.jsonl": TEST})
    for ask in (lambda: splits.digests(config.data, Path()), lambda: read(config.data)):
        with pytest.raises(ConfigError, match=r"data\.hub=.*more than 2 files"):
            ask()


def test_other_files_in_the_folder_are_another_run(dataset: Callable[..., Config]) -> None:
    files: list[Files] = [{"train.jsonl": TRAIN}, {"train.jsonl": TRAIN[1:]}, {"validation.jsonl": VAL}, {}]
    one, other, more, same = (fingerprint(dataset(change)) for change in files)
    assert len({one, other, more}) == 3
    assert more == same


def test_run_trains_on_a_folder_of_parquet_and_records_which(dataset: Callable[..., Config]) -> None:
    config = dataset({f"{split}.parquet": table(rows) for split, rows in SPLITS.items()}, "data.max_held_out_windows=null")
    train_run(config)
    found = json.loads((folder_of(config) / "result.json").read_text())["qpa"]
    assert found["test"]["tokens"] == len(
        "\n".join(TEST)
    )  # bytes: each window's BOS is predicted from nothing, but the text's first byte is
    assert [line.split()[0] for line in found["texts"]["hub"]] == ["test.parquet", "train.parquet", "validation.parquet"]


@pytest.mark.slow
@pytest.mark.few(1)
@pytest.mark.parametrize("content", [b"PAR1 and nothing" * 9, b""])
def test_libraries_say_nothing_beside_our_line(tmp_path: Path, text_file: Path, content: bytes) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.parquet").write_bytes(content)
    changed = ["data=hub", f"data.hub={tmp_path}/set"]
    arguments = [a for a in command_line(text_file, tmp_path) if not a.startswith(("data=", "data.train_files"))]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "train.py", *arguments, *changed, f"run_dir={tmp_path}/run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"qpa: data.hub={tmp_path}/set: cannot be read (")
