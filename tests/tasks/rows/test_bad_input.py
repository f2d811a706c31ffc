"""What cannot be read is one line that says which key, which file, which line, and the way out; or it is counted."""

import gzip
import json
import lzma
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from backports import zstd

from qpa.config import Config, FilesDataConfig, HubDataConfig
from qpa.errors import ConfigError
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.reading import read

MakeConfig = Callable[..., Config]
Files = dict[str, bytes | str]
GOOD = "".join(json.dumps({"text": f"Zeile {number}"}) + "\n" for number in range(5))
LONG = "".join(json.dumps({"text": f"Zeile {number} äöü"}, ensure_ascii=False) + "\n" for number in range(50_000))  # more than is looked at
NOISE = bytes(range(256)) * 400


def parquet(table: pyarrow.Table) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


TABLE = parquet(pyarrow.table({"text": ["a"] * 9999}))
REFUSED: dict[str, tuple[Files, str, str]] = {  # files, what is given, what the line says of it
    "missing": ({}, "nowhere.jsonl", r"nowhere.jsonl: cannot be read \(No such file"),
    "no name": ({}, "''", r": give a file"),
    "nothing matches": ({"a.txt": "a"}, "*.jsonl", r"\*.jsonl: matches no file"),
    "empty": ({"a.jsonl": ""}, "a.jsonl", r"a.jsonl: is empty"),
    "empty among others": ({"a.jsonl": GOOD, "b.jsonl": ""}, "*.jsonl", r"b.jsonl: is empty"),
    "blank": ({"a.jsonl": "\n \n"}, "a.jsonl", r"a.jsonl: has no rows"),
    "blank text": ({"a.txt": "\n \n"}, "a.txt", r"a.txt: is empty"),
    "empty within": ({"a.txt.gz": gzip.compress(b"")}, "a.txt.gz", r"a.txt.gz: is empty"),
    "no rows in an array": ({"a.json": "[]"}, "a.json", r"a.json: has no rows"),
    "header alone": ({"a.csv": "text,label\n"}, "a.csv", r"a.csv: has no rows"),
    "no rows in Parquet": ({"a.parquet": parquet(pyarrow.table({"text": []}))}, "a.parquet", r"a.parquet: has no rows"),
    "folder without data": ({"set/a.png": NOISE, "set/.hidden.jsonl": GOOD}, "set", r"set: has no files of a known kind \(.txt"),
    "folder of splits": (
        {"set/dataset_dict.json": '{"splits": ["train", "test"]}', "set/train/a.txt": "a"},
        "set",
        r"set: has the splits train, test; give one of them, as \S*set/train",
    ),
    "damaged saved folder": ({"set/dataset_info.json": "{", "set/state.json": "{"}, "set", r"set: cannot be read as a folder of"),
    "text and rows": ({"a.txt": "a", "b.jsonl": GOOD}, "[ab].*", r"a.txt: is plain text, but \S*b.jsonl holds rows"),
    "broken first line": ({"a.jsonl": "{\n" + GOOD}, "a.jsonl", r"a.jsonl:1: is no JSON \(.* at character 2\); .*data.skip_bad=true"),
    "cut gzip": ({"a.jsonl.gz": gzip.compress(LONG.encode())[:-9]}, "a.jsonl.gz", r"a.jsonl.gz: cannot be unpacked \(Comp.*ended"),
    "cut xz": ({"a.txt.xz": lzma.compress(LONG.encode())[:-900]}, "a.txt.xz", r"a.txt.xz: cannot be unpacked \(Comp.*ended"),
    "cut Zstandard": ({"a.txt.zst": zstd.compress(LONG.encode())[:-90]}, "a.txt.zst", r".*cannot be unpacked \(Comp.*ended"),
    "damaged gzip": (
        {"a.jsonl.gz": gzip.compress(LONG.encode())[:60] + NOISE},
        "a.jsonl.gz",
        r"a.jsonl.gz: cannot be unpacked \(Error -3",
    ),
    "no gzip": ({"a.jsonl.gz": GOOD}, "a.jsonl.gz", r"a.jsonl.gz: cannot be unpacked \(Not a gzipped file.*is .gz right"),
    "no bzip2": ({"a.jsonl.bz2": GOOD}, "a.jsonl.bz2", r"a.jsonl.bz2: cannot be unpacked \(Invalid"),
    "no xz": ({"a.jsonl.xz": GOOD}, "a.jsonl.xz", r"a.jsonl.xz: cannot be unpacked \(Input format"),
    "no Zstandard": ({"a.jsonl.zst": GOOD}, "a.jsonl.zst", r"a.jsonl.zst: cannot be unpacked \(Unable"),
    "gzip by another name": ({"a.jsonl": gzip.compress(GOOD.encode())}, "a.jsonl", r".*gzip; let its name end in .gz"),
    "Parquet by another name": ({"a.csv": TABLE}, "a.csv", r"a.csv: .*Parquet; let its name end in .parquet"),
    "no Parquet": ({"a.parquet": GOOD}, "a.parquet", r"a.parquet: cannot be read as Parquet \(.*its ending right"),
    "cut Parquet": ({"a.parquet": TABLE[:-20]}, "a.parquet", r"a.parquet: cannot be read as Parquet"),
    "damaged Parquet": ({"a.parquet": TABLE[:4] + NOISE[:40] + TABLE[44:]}, "a.parquet", r"a.parquet: cannot be read"),
    "no Parquet, packed": ({"a.parquet.gz": gzip.compress(GOOD.encode())}, "a.parquet.gz", r": cannot be read as Parquet"),
    "no Arrow": ({"a.arrow": GOOD}, "a.arrow", r"a.arrow: cannot be read as Arrow"),
    "binary JSON lines": ({"a.jsonl": NOISE}, "a.jsonl", r"a.jsonl: is no UTF-8 text; it looks like a binary file"),
    "binary table": ({"a.csv": NOISE}, "a.csv", r"a.csv: is no UTF-8 text; it looks like a binary file"),
    "another encoding": ({"a.jsonl": LONG.encode("latin-1")}, "a.jsonl", r".*WINDOWS-1252 .*data.encoding=WINDOWS-1252"),
    "broken array": ({"a.json": '[{"a": 1},\n {"a": }]'}, "a.json", r"a.json: is no JSON \(Expecting value at line 2, character 8\)"),
    "several lists": ({"a.json": '{"a": [1], "b": [2]}'}, "a.json", r"a.json: is one object with several lists \(a, b\)"),
    "no objects": ({"a.json": "[1, 2]"}, "a.json", r"a.json row 1: is no object but a int"),
    "a number": ({"a.json": "5"}, "a.json", r"a.json row 1: is no object but a int"),
    "endless brackets": ({"a.json": "[" * 10**5}, "a.json", r"a.json: is no JSON that can be read \(nested too deeply\)"),
    "header with a column twice": ({"a.csv": "text,text\na,b\n"}, "a.csv", r"a.csv: has two columns 'text'"),
    "column twice in Parquet": (
        {"a.parquet": parquet(pyarrow.table([["a"], ["b"]], names=["text", "text"]))},
        "a.parquet",
        r"a.parquet: has two columns 'text'",
    ),
}  # fmt: skip
BROKEN: dict[str, tuple[str, bytes, str, str]] = {  # a file's ending, a broken line, where it is found, what is said
    "cut object": (".jsonl", b'{"text": "Zei', "a.jsonl:3", "is no JSON (Unterminated string starting at at character 10)"),
    "two objects": (".jsonl", b'{"text": "a"} {"text": "b"}', "a.jsonl:3", "is no JSON (Extra data at character 15)"),
    "a list": (".jsonl", b'["text"]', "a.jsonl:3", "is no object but a list"),
    "null": (".jsonl", b"null", "a.jsonl:3", "is no object but null"),
    "brackets": (".jsonl", b"[" * 10**5, "a.jsonl:3", "is no JSON that can be read (nested too deeply)"),
    "nested": (".jsonl", b'{"a":' * 600 + b"1" + b"}" * 600, "a.jsonl:3", "nested too deeply"),
    "a long number": (".jsonl", b'{"n": ' + b"1" * 5000 + b"}", "a.jsonl:3", "is no JSON that can be read (Exceeds the limit"),
    "half a character": (".jsonl", b'{"text": "\\ud83d"}', "a.jsonl:3", r"holds half of a character (\ud83d)"),
    "a NUL": (".jsonl", b'{"text": "a\0"}', "a.jsonl:3", "has NULs (byte 0x00 at "),
    "no UTF-8": (".jsonl", b'{"text": "caf\xe9"}', "a.jsonl:3", "is UTF-8 but for byte 0xe9 at "),
    "no UTF-8 in text": (".txt", b"caf\xe9", "a.txt:3", "is UTF-8 but for byte 0xe9 at "),
    "packed": (".jsonl.gz", b'{"text"', "a.jsonl.gz:3", "is no JSON (Expecting ':' delimiter at character 8)"),
    "too many fields": (".csv", b"c,d,e,f", "a.csv:3", "has 4 fields, but the header 1"),
    "too few fields": (".tsv", b"c", "a.tsv:3", "has 1 fields, but the header 2"),
    "text after a quote": (".csv", b'"a"b', "a.csv:3", "is no row of a table (',' expected after '\"')"),
    "a NUL in a table": (".csv", b"\0", "a.csv:3", "has NULs"),
    "no object in an array": (".json", b"5", "a.json row 3", "is no object but a int"),
}


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def refusal(make_config: MakeConfig, tmp_path: Path) -> Callable[..., str]:
    """The one line that a reading of all rows ends with."""

    def line(given: str, *overrides: str) -> str:
        item = given if given == "''" else f"'{tmp_path}/{given}'"
        config = make_config("data=files", f"data.train_files=[{item}]", *overrides)
        assert isinstance(config.data, FilesDataConfig)
        with pytest.raises(ConfigError) as caught:
            for _ in read(config.data, tmp_path / "cache", Faults("data", skip=config.data.skip_bad))["train"]:
                pass
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return line


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_one_line(refusal: Callable[..., str], tmp_path: Path, name: str) -> None:
    files, given, message = REFUSED[name]
    write(tmp_path, files)
    line = refusal(given)
    assert re.match(rf"data\.train_files=\S*{message}", line), line


@pytest.mark.parametrize(
    "name", [name for name, (_, _, message) in REFUSED.items() if "skip_bad" not in message and "row 1" not in message]
)
def test_what_is_no_row_is_not_skipped(refusal: Callable[..., str], tmp_path: Path, name: str) -> None:
    files, given, _ = REFUSED[name]
    write(tmp_path, files)
    assert refusal(given, "data.skip_bad=true") == refusal(given)


def with_broken_line(ending: str, broken: bytes) -> bytes:
    """The third line, or row, of many is broken."""
    if ending == ".json":
        return b'[{"text": "a"}, {"text": "b"}, ' + broken + b', {"text": "d"}]'
    rows = {".csv": ("text", "a", "d"), ".tsv": ("text\tn", "a\t1", "d\t2"), ".txt": ("grün", "blau", "weiß")}
    first, second, last = rows.get(ending, ('{"text": "grün"}', '{"text": "blau"}', '{"text": "weiß"}'))
    content = f"{first}\n{second}\n".encode() + broken + b"\n" + f"{last}\n".encode() * 6
    return gzip.compress(content) if ending.endswith(".gz") else content


@pytest.mark.parametrize("name", BROKEN)
def test_broken_row_is_named_by_its_line_or_counted(
    make_config: MakeConfig, refusal: Callable[..., str], tmp_path: Path, name: str
) -> None:
    ending, broken, place, problem = BROKEN[name]
    write(tmp_path, {f"a{ending}": with_broken_line(ending, broken)})
    line = refusal(f"a{ending}")
    assert line.startswith(f"data.train_files={place}: ")
    assert problem in line
    assert line.endswith("; mend it, or leave such rows out with data.skip_bad=true")
    config = make_config("data=files", f"data.train_files=[{tmp_path}/a{ending}]", "data.skip_bad=true")
    assert isinstance(config.data, FilesDataConfig)
    faults = Faults("data", skip=True)
    rows = read(config.data, tmp_path / "cache", faults)["train"]
    kept = [row.values["text"] for row in rows]
    assert len(kept) == len(rows) == {".json": 3, ".csv": 7, ".tsv": 7, ".txt": 9}.get(ending, 8)
    assert kept[-2 if ending == ".txt" else -1] in ("weiß", "d")
    assert faults.count == 1  # though it was read again
    said = faults.said()
    assert said is not None
    assert said.startswith(f"1 row left out: {place} (")
    assert problem in said


def test_many_broken_rows_are_counted_once_each(make_config: MakeConfig, tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": GOOD + "{\n" * 1234 + GOOD, "b.jsonl": "[]\n" + GOOD})
    config = make_config("data=files", f"data.train_files=['{tmp_path}/*.jsonl']", "data.skip_bad=true")
    assert isinstance(config.data, FilesDataConfig)
    faults = Faults("data", skip=True)
    rows = read(config.data, tmp_path / "cache", faults)["train"]
    assert [len(rows), sum(1 for _ in rows), faults.count] == [15, 15, 1235]
    said = faults.said()
    assert said is not None
    assert said.startswith("1,235 rows left out, the first: a.jsonl:6 (is no JSON (")


def test_a_quote_that_is_never_closed_is_named_by_the_line_it_begins_in(refusal: Callable[..., str], tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": 'text\na\n"b\n' + "c\n" * 50_000})
    assert refusal("a.csv").startswith("data.train_files=a.csv:3: is no row of a table (unexpected end of data)")


def test_broken_line_far_within_is_found(refusal: Callable[..., str], tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": (LONG * 2).encode() + b'{"text": "caf\xe9"}\n'})
    at = len((LONG * 2).encode()) + len('{"text": "caf')
    assert f"a.jsonl:100001: is no UTF-8 text; it is UTF-8 but for byte 0xe9 at {at:,}, perhaps more" in refusal("a.jsonl")


@pytest.mark.parametrize("encoding", ["utf9", "hex", "rot13", "''", "undefined", "'a\\0b'"])
def test_encoding_that_does_not_exist_is_refused(refusal: Callable[..., str], tmp_path: Path, encoding: str) -> None:
    write(tmp_path, {"a.jsonl": GOOD})
    assert refusal("a.jsonl", f"data.encoding={encoding}").startswith("data.encoding=")


@pytest.mark.parametrize(
    ("encoding", "content"), [("ascii", GOOD.encode() + b'{"text": "\xff"}\n'), ("cp1252", GOOD.encode() + b'{"text": "\x81"}\n')]
)
def test_bytes_that_the_given_encoding_has_not_are_named_by_their_line(
    refusal: Callable[..., str], tmp_path: Path, encoding: str, content: bytes
) -> None:
    write(tmp_path, {"a.jsonl": content})
    assert refusal("a.jsonl", f"data.encoding={encoding}").startswith(
        f"data.train_files=a.jsonl:6: is no {encoding} text; data.encoding names another"
    )


def test_cut_utf16_is_one_line(refusal: Callable[..., str], tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": GOOD.encode("utf-16")[:-1]})
    assert "utf-16" in refusal("a.jsonl").lower()


def test_folder_and_pattern_of_very_many_files_are_refused(
    refusal: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qpa.files.MOST_FILES", 2)
    write(tmp_path, {f"set/{name}.jsonl": GOOD for name in "abc"})
    assert "has more than 2 files" in refusal("set")
    assert "matches more than 2 files" in refusal("set/*.jsonl")


def test_no_files_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("data=files", "data.train_files=[]")
    assert isinstance(config.data, FilesDataConfig)
    with pytest.raises(ConfigError, match=r"data.train_files=\[\]: give at least one file"):
        read(config.data, tmp_path, Faults("data", skip=False))


@pytest.mark.parametrize("key", ["val", "test", "forgetting"])
def test_every_split_names_its_own_key(make_config: MakeConfig, tmp_path: Path, key: str) -> None:
    write(tmp_path, {"a.jsonl": GOOD, "b.jsonl": GOOD + "{\n"})
    config = make_config("data=files", f"data.train_files=[{tmp_path}/a.jsonl]", f"data.{key}_files=[{tmp_path}/b.jsonl]")
    assert isinstance(config.data, FilesDataConfig)
    rows = read(config.data, tmp_path / "cache", Faults("data.train_files", skip=False))
    with pytest.raises(ConfigError, match=rf"data.{key}_files=b.jsonl:6: "):
        _ = rows[key].digest


def test_one_row_cannot_be_split(make_config: MakeConfig, tmp_path: Path) -> None:
    from qpa.tasks.rows.split import shuffled_split

    write(tmp_path, {"a.jsonl": '{"a": 1}\n'})
    config = make_config("data=files", f"data.train_files=[{tmp_path}/a.jsonl]")
    assert isinstance(config.data, FilesDataConfig)
    rows = read(config.data, tmp_path / "cache", Faults("data", skip=False))["train"]
    with pytest.raises(ConfigError, match=r"data.train_files=.*has only 1 row"):
        shuffled_split(rows, 0.1)


def test_text_of_a_table_that_is_no_utf8_is_named_by_its_row(make_config: MakeConfig, tmp_path: Path) -> None:
    column = pyarrow.array([b"a", b"b", b"caf\xe9", b"d"]).view(pyarrow.string())
    write(tmp_path, {"a.parquet": parquet(pyarrow.table({"text": column}))})
    config = make_config("data=files", f"data.train_files=[{tmp_path}/a.parquet]")
    assert isinstance(config.data, FilesDataConfig)
    with pytest.raises(ConfigError, match=r"data.train_files=a.parquet row 3: is no UTF-8 text .*data.skip_bad"):
        list(read(config.data, tmp_path / "cache", Faults("data", skip=False))["train"])
    faults = Faults("data", skip=True)
    assert [row.values["text"] for row in read(config.data, tmp_path / "cache", faults)["train"]] == ["a", "b", "d"]
    assert faults.count == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.hub=null"], "data.hub=None: give OWNER/NAME"),
        (["data.splits.train=other"], r"data.splits.train=other: the dataset has no such split; it has train, test"),
        (["data.splits.val=dev"], r"data.splits.val=dev: the dataset has no such split; it has train, test"),
        (["+data.splits.dev=test"], r"data.splits=dev: is no split of a run; name train, val, test"),
    ],
)
def test_splits_that_are_not_there_are_one_line(make_config: MakeConfig, tmp_path: Path, overrides: list[str], message: str) -> None:
    table = datasets.Dataset.from_dict({"text": ["a"]})
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "dict")
    config = make_config("data=hub", f"data.hub={tmp_path}/dict", *overrides)
    assert isinstance(config.data, HubDataConfig)
    with pytest.raises(ConfigError, match=message):
        read(config.data, tmp_path / "cache", Faults("data", skip=False))


@pytest.mark.parametrize("form", ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.zst", "a.csv"])
def test_nothing_heavy_is_imported_for_text(tmp_path: Path, form: str) -> None:
    content = {"a.csv": b"text\na\n"}.get(form, GOOD.encode())
    pack = {".gz": gzip.compress, ".zst": zstd.compress}.get(Path(form).suffix, bytes)
    write(tmp_path, {form: pack(content)})
    code = f"""
import sys
from pathlib import Path
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.reading import of_files
rows = of_files({{"train": ["{tmp_path}/{form}"]}}, None, Path("{tmp_path}/cache"), Faults("data", skip=False))["train"]
assert rows.digest and len(list(rows)) >= 1
print({{"torch", "datasets", "transformers", "chardet", "pyarrow", "numpy"}} & set(sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
