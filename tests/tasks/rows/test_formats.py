"""A text file that is no UTF-8 text is refused in one line that says what it looks like; one that is, is read as it stands."""

import bz2
import gzip
import io
import lzma
import pickle
import re
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from texts import read

from qpa.config import Config
from qpa.errors import ConfigError
from qpa.tasks.rows.faults import WAY_OUT

MakeConfig = Callable[..., Config]
WESTERN = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Elle préfère le café fermé.\n" * 40
RUSSIAN = "Широкая электрификация южных губерний даст мощный толчок подъёму сельского хозяйства.\n" * 40
TABLE = pyarrow.table({"text": ["some text"] * 100})


def written(write: Callable[[Any], object]) -> bytes:
    """What a library writes into a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def arrow(file: io.BytesIO) -> None:
    with pyarrow.ipc.new_file(file, TABLE.schema) as out:
        out.write_table(TABLE)


def zipped(file: io.BytesIO) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", WESTERN)


def tarred(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = 100
        archive.addfile(member, io.BytesIO(b"only ascii" * 10))


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE texts (text)")
    connection.commit()
    return connection.serialize()


FOREIGN = {
    "Parquet": written(lambda file: pyarrow.parquet.write_table(TABLE, file)),
    "Arrow": written(arrow),
    "gzip": gzip.compress(WESTERN.encode()),
    "bzip2": bz2.compress(WESTERN.encode()),
    "xz": lzma.compress(WESTERN.encode()),
    "Zstandard": pyarrow.compress(WESTERN.encode(), codec="zstd", asbytes=True),
    "LZ4": pyarrow.compress(WESTERN.encode(), codec="lz4", asbytes=True),
    "zip": written(zipped),
    "tar": written(tarred),
    "PDF": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "SQLite": database(),
    "pickle": pickle.dumps({"text": WESTERN}),
    "NumPy": written(lambda file: numpy.save(file, numpy.arange(9))),
    "image": written(lambda file: Image.new("RGB", (8, 8)).save(file, "png")),
    "binary": bytes(range(256)) * 9,
    "NULs": b"text with a NUL\0 here and \0\0 there" * 9,
}
JAPANESE = "いろはにほへと ちりぬるを わかよたれそ 日本語の文章です。\n" * 40
ENCODED = {
    "UTF-16LE": (WESTERN, "utf-16-le"),
    "UTF-16BE": (WESTERN, "utf-16-be"),
    "UTF-16LE of Cyrillic": (RUSSIAN, "utf-16-le"),
    "UTF-32LE": (WESTERN, "utf-32-le"),
    "ISO-8859-1": (WESTERN, "latin-1"),
    "WINDOWS-1252": ("“Cœur” – 5 €. " + WESTERN, "cp1252"),
    "WINDOWS-1251": (RUSSIAN, "cp1251"),
    "KOI8-R": (RUSSIAN, "koi8-r"),
    "SHIFT_JIS": (JAPANESE, "shift_jis"),
}


def refusal(make_config: MakeConfig, tmp_path: Path, content: bytes, key: str = "train") -> str:
    file = tmp_path / "a file.bin"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(make_config(f"data.{key}_files=['{file}']").data)
    (line,) = str(caught.value).splitlines()
    place = rf"({re.escape(str(file))}|{re.escape(file.name)}:\d+)"
    assert re.match(rf"data\.{key}_files={place}: is no UTF-8 text; it ", line)
    return line.removesuffix(f"; {WAY_OUT}")


@pytest.mark.parametrize("name", FOREIGN)
def test_another_format_is_named_and_not_read(make_config: MakeConfig, tmp_path: Path, name: str) -> None:
    assert name in refusal(make_config, tmp_path, FOREIGN[name])


@pytest.mark.parametrize("name", ENCODED)
def test_another_encoding_is_named_with_the_command_that_gives_the_text(make_config: MakeConfig, tmp_path: Path, name: str) -> None:
    content, codec = ENCODED[name]
    line = refusal(make_config, tmp_path, content.encode(codec))
    assert name.split()[0] in line
    (encoding,) = re.findall(r"data\.encoding=([^,]+)", line)
    texts = read(make_config(f"data.train_files=['{tmp_path}/a file.bin']", f"data.encoding={encoding}").data)
    assert texts.train + texts.val + texts.test == content
    subprocess.run(line[line.index("iconv") :].replace("> TEXT", f"> {tmp_path}/text"), shell=True, check=True)
    assert (tmp_path / "text").read_text() == content


@pytest.mark.parametrize("key", ["val", "test", "forgetting"])
def test_every_text_of_a_run_is_looked_at(make_config: MakeConfig, tmp_path: Path, key: str) -> None:
    assert "gzip" in refusal(make_config, tmp_path, FOREIGN["gzip"], key)


@pytest.mark.parametrize("broken", [b"\xff", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_broken_bytes_in_utf8_are_told_from_another_encoding(make_config: MakeConfig, tmp_path: Path, broken: bytes) -> None:
    before = (WESTERN * 50).encode()
    line = refusal(make_config, tmp_path, before + broken + WESTERN.encode())
    assert f"is UTF-8 but for byte {broken[0]:#04x} at {len(before):,}" in line
    subprocess.run(line[line.index("iconv") :].replace("> TEXT", f"> {tmp_path}/text"), shell=True, check=False)  # 1: it left some out
    assert (tmp_path / "text").read_text() == WESTERN * 51


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_mark_at_the_start_tells_the_encoding_and_is_no_part_of_the_text(make_config: MakeConfig, tmp_path: Path, encoding: str) -> None:
    for name in "ab":
        (tmp_path / name).write_text(WESTERN, encoding=encoding)
    texts = read(make_config(f"data.train_files=[{tmp_path}/a,{tmp_path}/b]").data)
    assert texts.train + texts.val + texts.test == f"{WESTERN}\n{WESTERN}"


@pytest.mark.parametrize(
    "content", ["BZh is how bzip2 begins. ", "PK and PAR1 and GGUF, RIFF. ", "GIF89a is a kind of image. ", "%!PS or %PDF. "]
)
def test_text_that_begins_like_another_format_is_text(make_config: MakeConfig, tmp_path: Path, content: str) -> None:
    (tmp_path / "a.txt").write_text(content * 99)
    texts = read(make_config(f"data.train_files=[{tmp_path}/a.txt]").data)
    assert texts.train + texts.val + texts.test == content * 99


def test_what_is_no_file_or_empty_is_named_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    good = tmp_path / "good.txt"
    good.write_text(WESTERN)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text(" \n\n")
    for name, problem in (("nowhere.txt", "No such file"), ("empty.txt", "is empty"), ("blank.txt", "is empty")):
        bad = tmp_path / name
        with pytest.raises(ConfigError, match=problem) as caught:
            read(make_config(f"data.train_files=[{good},{bad}]").data)
        assert str(caught.value).startswith(f"data.train_files={bad}: ")


def test_text_is_refused_before_anything_heavy_is_imported() -> None:
    code = "import sys, qpa.tasks.language.text; print({'torch', 'datasets', 'transformers', 'chardet', 'pyarrow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
