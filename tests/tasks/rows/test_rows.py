"""Rows are the same whatever file they lie in, and read anew each time."""

import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from backports import zstd

from qpa.config import Config, FilesDataConfig, HubDataConfig
from qpa.files import digest
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.reading import Rows, read
from qpa.tasks.rows.split import shuffled_split

MakeConfig = Callable[..., Config]
Read = Callable[..., Rows]
PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd.compress}
FORMS = (
    *("a.jsonl", "a.ndjson", "a.json", "lines.json", "wrapped.json", "latin.jsonl", "utf16.jsonl", "crlf.jsonl"),
    *("a.parquet", "file.arrow", "stream.arrow", "saved", "dict/train", "shards", "shards/*.jsonl"),
    *(f"{name}{ending}" for name in ("a.jsonl", "a.json", "a.parquet", "file.arrow") for ending in PACK),
)


def conversation(number: int) -> dict[str, Any]:
    """Some of them call a tool and say nothing, some have no source, and a few have another column."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "look", "arguments": {f"key {number % 2}": number}}]}
    answer = {"role": "assistant", "content": f"Zwölf \N{GRINNING FACE} {number}"}
    messages = [{"role": "user", "content": f"Question {number}?"}, call if number % 3 == 0 else answer]
    row = {"messages": messages, "source": None if number % 5 == 0 else "here", "score": number / 2, "sure": number % 2 == 0}
    return row | ({"tags": ["a", "b"]} if number % 7 == 0 else {})


CONVERSATIONS = [conversation(number) for number in range(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same conversations in every form."""
    folder = tmp_path_factory.mktemp("forms")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in CONVERSATIONS]
    escaped = [json.dumps(row) + "\n" for row in CONVERSATIONS]
    for name in ("a.jsonl", "a.ndjson", "lines.json"):
        (folder / name).write_text("\n".join(lines))  # blank lines between
    (folder / "crlf.jsonl").write_bytes(b"\xef\xbb\xbf" + "".join(lines).replace("\n", "\r\n").encode())
    (folder / "latin.jsonl").write_text("".join(escaped), encoding="latin-1")
    (folder / "utf16.jsonl").write_text("".join(lines), encoding="utf-16")
    (folder / "a.json").write_text(json.dumps(CONVERSATIONS, indent=2))
    (folder / "wrapped.json").write_text(json.dumps({"version": 1, "data": CONVERSATIONS}))
    (folder / "shards").mkdir()
    (folder / "shards" / "1.jsonl").write_text("".join(lines[:90]))
    (folder / "shards" / "2.jsonl").write_text("".join(lines[90:]))
    (folder / "shards" / "README.md").write_text("About them.")
    table = datasets.Dataset.from_list([{"tags": None, **row} for row in CONVERSATIONS])
    table.to_parquet(folder / "a.parquet")
    table.save_to_disk(folder / "saved")
    datasets.DatasetDict({"train": table, "test": table.select(range(9))}).save_to_disk(folder / "dict")
    shutil.copy(next((folder / "saved").glob("*.arrow")), folder / "stream.arrow")
    with pyarrow.OSFile(str(folder / "file.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table.data.schema) as out:
        out.write_table(table.data.table)
    for name in ("a.jsonl", "a.json", "a.parquet", "file.arrow"):
        for ending, pack in PACK.items():
            (folder / f"{name}{ending}").write_bytes(pack((folder / name).read_bytes()))
    return folder


@pytest.fixture
def reads(make_config: MakeConfig, tmp_path: Path) -> Read:
    """The rows of a file in the training split."""

    def rows(*files: Path, **settings: object) -> Rows:
        names = ",".join(f"'{file}'" for file in files)
        config = make_config("data=files", f"data.train_files=[{names}]", *(f"data.{key}={value}" for key, value in settings.items()))
        assert isinstance(config.data, FilesDataConfig)
        return read(config.data, tmp_path / "cache", Faults("data", skip=config.data.skip_bad))["train"]

    return rows


def without_nulls(value: Any) -> Any:
    """Independent of ours: through JSON."""
    return json.loads(json.dumps(value), object_hook=lambda found: {key: item for key, item in found.items() if item is not None})


@pytest.mark.parametrize("form", FORMS)
def test_rows_and_digest_are_the_same_in_every_form(reads: Read, folder: Path, form: str) -> None:
    rows = reads(folder / form)
    assert [without_nulls(row.values) for row in rows] == without_nulls(CONVERSATIONS)
    assert [row.values["messages"] for row in rows] == [without_nulls(row)["messages"] for row in CONVERSATIONS]
    assert rows.digest == reads(folder / "a.jsonl").digest
    assert len(rows) == 200
    assert set(rows.columns) == {"messages", "source", "score", "sure", "tags"}
    assert not rows.text


def test_null_at_the_top_is_kept_as_none(reads: Read, folder: Path) -> None:
    for form in ("a.jsonl", "a.parquet"):
        assert next(iter(reads(folder / form))).values["source"] is None


@pytest.mark.parametrize("change", ["order", "value", "fewer"])
def test_other_rows_have_another_digest(reads: Read, folder: Path, tmp_path: Path, change: str) -> None:
    rows = {"order": CONVERSATIONS[::-1], "value": [*CONVERSATIONS[:-1], {**CONVERSATIONS[-1], "score": 0}], "fewer": CONVERSATIONS[1:]}
    (tmp_path / "a.json").write_text(json.dumps(rows[change]))
    assert reads(tmp_path / "a.json").digest != reads(folder / "a.json").digest


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz"])
def test_tables_hold_strings(reads: Read, tmp_path: Path, ending: str) -> None:
    text = 'text,label\r\n"two\r\nlines, and ""quotes""",1\r\n\r\n,0\r\n'
    text = text.replace(",", "\t").replace("lines\t", "lines,") if ending == ".tsv" else text
    (tmp_path / f"a{ending}").write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    rows = list(reads(tmp_path / f"a{ending}"))
    assert [row.values for row in rows] == [{"text": 'two\r\nlines, and "quotes"', "label": "1"}, {"text": "", "label": "0"}]
    assert [row.place.rpartition(":")[2] for row in rows] == ["2", "5"]


def test_places_are_lines_of_files_and_numbers_of_rows(reads: Read, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [row.place for row in reads(tmp_path / "a.jsonl")] == ["a.jsonl:1", "a.jsonl:3"]
    assert [row.place for row in reads(folder / "a.parquet")][-1] == "a.parquet row 200"
    assert [row.place for row in reads(tmp_path / "a.jsonl", folder / "a.jsonl")][1:3] == [f"{tmp_path}/a.jsonl:3", f"{folder}/a.jsonl:1"]


@pytest.mark.parametrize("text", ["one\ntwo", "one\n\ntwo\n", "\none \x0c\x1e\u2028\x85 two\n\n", "no end", "a\r\nb\rc\n"])
def test_lines_of_text_joined_are_the_text(reads: Read, tmp_path: Path, text: str) -> None:
    for name, content in (("a.txt", text.encode()), ("a.md.gz", gzip.compress(text.encode())), ("a.unknown", text.encode())):
        (tmp_path / name).write_bytes(content)
        rows = reads(tmp_path / name)
        assert rows.text
        assert rows.columns == ["text"]
        assert "\n".join(row.values["text"] for row in rows) == text.replace("\r\n", "\n").replace("\r", "\n")
    both = reads(tmp_path / "a.txt", tmp_path / "a.unknown")
    assert "\n".join(row.values["text"] for row in both) == "\n".join([text.replace("\r\n", "\n").replace("\r", "\n")] * 2)


def test_digest_of_text_is_that_of_the_files_bytes_unpacked(reads: Read, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text\r\n")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"some text\r\n"))
    assert reads(tmp_path / "a.txt").digest == reads(tmp_path / "a.txt.gz").digest == digest(tmp_path / "a.txt")
    assert reads(tmp_path / "a.txt", tmp_path / "a.txt.gz").digests == [digest(tmp_path / "a.txt")] * 2


def test_digest_comes_from_the_cache_until_the_file_changes(reads: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n')
    first, length = reads(file).digest, len(reads(file))
    with monkeypatch.context() as patched:
        patched.setattr("qpa.tasks.rows.reading.Rows._scan", lambda _: pytest.fail("read again"))
        assert (reads(file).digest, len(reads(file))) == (first, length)
    file.write_text('{"a": 2}\n')
    os.utime(file, ns=(1, 1))
    assert reads(file).digest != first
    for kept in (tmp_path / "cache" / "digests").iterdir():
        kept.write_text("{")
    assert reads(file).digest


def test_rows_are_read_anew_each_time_and_side_by_side(reads: Read, folder: Path) -> None:
    for form in ("a.jsonl", "a.parquet", "saved", "a.json"):
        rows = reads(folder / form)
        pairs = [(one.values["score"], other.values["score"]) for one, other in zip(rows, rows, strict=True)]
        assert pairs == [(number / 2, number / 2) for number in range(200)]


def test_columns_of_images_and_dates_are_left_out_and_told(reads: Read, tmp_path: Path) -> None:
    table = pyarrow.table({"text": ["a"], "image": [{"bytes": b"\xff", "path": "a"}], "when": pyarrow.array([1], pyarrow.timestamp("ms"))})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = reads(tmp_path / "a.parquet")
    assert [row.values for row in rows] == [{"text": "a"}]
    assert rows.left_out == {"image": "struct<bytes: binary, path: string>", "when": "timestamp[ms]"}


def test_mixed_values_that_datasets_keeps_as_json_are_what_they_were(reads: Read, tmp_path: Path) -> None:
    given = [{"a": 1, "b": [{"c": "x"}]}, {"a": "one", "b": [{"c": {"d": 2.5}}]}]
    datasets.Dataset.from_list(given, on_mixed_types="use_json").save_to_disk(tmp_path / "saved")
    assert [row.values for row in reads(tmp_path / "saved")] == given


def test_names_of_class_labels_are_told(reads: Read, tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"text": ["a"], "label": [1]}, features=features)
    table.save_to_disk(tmp_path / "saved")
    table.to_parquet(tmp_path / "a.parquet")
    for form in ("saved", "a.parquet"):
        rows = reads(tmp_path / form)
        assert rows.label_names == {"label": ["no", "yes"]}
        assert [row.values for row in rows] == [{"text": "a", "label": 1}]


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_held_out_share_and_the_rest_are_all_rows_once_in_order(reads: Read, folder: Path, share: float) -> None:
    whole = reads(folder / "a.jsonl")
    rest, held_out = shuffled_split(whole, share)
    numbers = [[2 * row.values["score"] for row in part] for part in (rest, held_out)]
    assert numbers == [sorted(part) for part in numbers]
    assert sorted(numbers[0] + numbers[1]) == list(range(200))
    assert [len(rest), len(held_out)] == [len(part) for part in numbers]
    assert len(held_out) == min(max(1, round(200 * share)), 199)
    assert len({rest.digest, held_out.digest, whole.digest}) == 3
    again = shuffled_split(reads(folder / "a.parquet"), share)
    assert [part.digest for part in again] == [rest.digest, held_out.digest]
    assert [row.values["score"] * 2 for row in again[1]] == numbers[1]


def test_every_row_is_as_likely_to_be_held_out() -> None:
    from qpa.tasks.rows.split import _chosen

    held_out = [at for at, chosen in enumerate(_chosen(100_000, 10_000)) if chosen]
    assert len(held_out) == 10_000
    per_tenth = [sum(at // 10_000 == tenth for at in held_out) for tenth in range(10)]
    assert all(abs(count - 1000) < 150 for count in per_tenth)  # five standard deviations


@pytest.fixture
def hub_rows(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Rows]]:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")

    def rows(*overrides: str) -> dict[str, Rows]:
        config = make_config("data=hub", *overrides)
        assert isinstance(config.data, HubDataConfig)
        return read(config.data, tmp_path / "cache", Faults("data.hub", skip=False))

    return rows


def test_a_saved_folder_and_one_of_parquet_are_the_same_as_the_file(
    hub_rows: Callable[..., dict[str, Rows]], reads: Read, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "hub").mkdir()
    shutil.copy(folder / "a.parquet", tmp_path / "hub" / "train.parquet")
    shutil.copy(folder / "a.parquet", tmp_path / "hub" / "validation.parquet")
    for place in (folder / "dict", folder / "saved", tmp_path / "hub"):
        rows = hub_rows(f"data.hub={place}")
        assert rows["train"].digest == reads(folder / "a.jsonl").digest
        assert next(iter(rows["train"])).place == "hub train row 1"
        assert rows["train"].key == ("data.hub", str(place))
    assert list(hub_rows(f"data.hub={folder}/dict")) == ["train", "test"]
    assert list(hub_rows(f"data.hub={tmp_path}/hub")) == ["train", "val"]


def test_splits_of_other_names_are_named(hub_rows: Callable[..., dict[str, Rows]], folder: Path) -> None:
    rows = hub_rows(f"data.hub={folder}/dict", "data.splits.train=test", "data.splits.val=train")
    assert [(split, len(found)) for split, found in rows.items()] == [("train", 9), ("val", 200), ("test", 9)]


def test_files_beside_a_data_set_are_read_as_files(hub_rows: Callable[..., dict[str, Rows]], folder: Path) -> None:
    rows = hub_rows(f"data.hub={folder}/dict", f"data.test_files=[{folder}/a.jsonl]", f"data.forgetting_files=[{folder}/shards]")
    assert [(split, len(found)) for split, found in rows.items()] == [("train", 200), ("test", 200), ("forgetting", 200)]


def lines_of(count: int) -> Iterator[str]:
    for number in range(count):
        yield json.dumps({"messages": [{"role": "user", "content": f"{number} " + "word " * 190, "name": None}], "n": number}) + "\n"


MEASURE = """
import re, sys
from pathlib import Path
from qpa.config import FilesDataConfig
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.split import shuffled_split
from qpa.tasks.rows.reading import of_files
if sys.argv[1].endswith("parquet"):
    import pyarrow.parquet
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024  # of this process alone
rows = of_files({"train": [sys.argv[1]]}, None, Path(sys.argv[2]), Faults("data", skip=True))["train"]
before = peak()
count = sum(1 for row in rows) + sum(1 for part in shuffled_split(rows, 0.1) for row in part)
print(count, rows.digest, peak() - before)
"""


@pytest.mark.slow
def test_memory_is_flat_whatever_the_size(tmp_path: Path) -> None:
    """Some 200 MB: read, hashed, and split."""
    with (tmp_path / "a.jsonl").open("w") as file:
        file.writelines(lines_of(200_000))
    assert (tmp_path / "a.jsonl").stat().st_size > 195e6
    datasets.Dataset.from_generator(
        lambda: ({"messages": json.loads(line)["messages"], "n": number} for number, line in enumerate(lines_of(200_000))),
        cache_dir=str(tmp_path / "made"),
    ).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes(), 1))
    digests = set()
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / name), str(tmp_path / "cache")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        count, found, above = done.stdout.split()
        digests.add(found)
        assert int(count) == 400_000
        assert float(above) < 150, name
        print(name, above, "MiB")
    assert len(digests) == 1
