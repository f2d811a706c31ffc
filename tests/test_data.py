"""Windows hold every token of the text once, in order, each window behind one BOS."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qpa import text, tokenizer
from qpa.config import Config
from qpa.data import IGNORED, windows
from qpa.errors import ConfigError
from qpa.loaders import ShuffledWindows
from qpa.text import Texts
from qpa.tokenizer import TextEncoder, byte_encoder

MakeConfig = Callable[..., Config]
SPLITS = ("train", "val", "test")
PROSE = "Zwölf Boxkämpfer jagen Viktor\nquer über den großen Sylter Deich. " * 9


@pytest.mark.parametrize("content", ['{"bos_token": "<b', "[]", '{"bos_token": {"no": "content"}}', "[" * 10**5])
def test_damaged_settings_of_a_tokenizer_are_one_line(tmp_path: Path, content: str) -> None:
    byte_encoder().tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"model.path=.*damaged"):
        tokenizer.load(tmp_path)


@pytest.fixture
def packed(make_config: MakeConfig, tmp_path: Path) -> dict:
    return windows(make_config(), Texts(PROSE, PROSE[:200], PROSE[200:400]), byte_encoder(), tmp_path)


def test_windows_hold_every_token_once_behind_one_bos(packed: dict) -> None:
    bos = byte_encoder().bos
    for split, source in zip(SPLITS, (PROSE, PROSE[:200], PROSE[200:400]), strict=True):
        kept = []
        for row in packed[split]:
            labels = row["labels"].tolist()
            assert labels[0] == bos
            assert bos not in labels[1:]
            kept += [token for token in labels[1:] if token != IGNORED]
        assert byte_encoder().tokenizer.decode(kept) == source


def test_only_padding_is_ignored_and_only_the_last_window_has_any(packed: dict) -> None:
    rows = list(packed["train"])
    assert all(IGNORED not in row["labels"] for row in rows[:-1])
    for row in rows:
        real = row["labels"] != IGNORED
        assert torch.equal(row["input_ids"][real], row["labels"][real])


def test_second_time_comes_from_the_cache(packed: dict, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpa.tokenizer.TextEncoder.encode", lambda *_: pytest.fail("tokenised again"))
    again = windows(make_config(), Texts(PROSE, PROSE[:200], PROSE[200:400]), byte_encoder(), tmp_path)
    assert again["train"][0]["input_ids"].tolist() == packed["train"][0]["input_ids"].tolist()


def test_changed_text_is_tokenised_anew(packed: dict, make_config: MakeConfig, tmp_path: Path) -> None:
    other = windows(make_config(), Texts("x" + PROSE, PROSE[:200], PROSE[200:400]), byte_encoder(), tmp_path)
    assert other["train"][0]["input_ids"].tolist() != packed["train"][0]["input_ids"].tolist()


def test_splits_do_not_overlap_and_lose_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE)
    texts = text.read(make_config(f"data.train_files=[{tmp_path}/a.txt]").data)
    assert texts.train + texts.val + texts.test == PROSE


def test_given_test_files_leave_the_validation_text_whole(make_config: MakeConfig, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name + PROSE)
    texts = text.read(make_config(*(f"data.{s}_files=[{tmp_path}/{n}]" for s, n in zip(SPLITS, "abc", strict=True))).data)
    assert texts == Texts("a" + PROSE, "b" + PROSE, "c" + PROSE)


@pytest.mark.parametrize(("content", "message"), [("", "empty"), (" \n", "empty"), ("a few words", "shorter than one window")])
def test_useless_text_is_refused(make_config: MakeConfig, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(ConfigError, match=message):
        text.read(make_config(f"data.train_files=[{tmp_path}/a.txt]").data)


def test_broken_utf8_is_read(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 " * 100)
    assert "caf\ufffd" in text.read(make_config(f"data.train_files=[{tmp_path}/a.txt]").data).train


def test_resumed_order_is_the_rest_of_the_whole_order() -> None:
    whole = list(ShuffledWindows(7, seed=3, start=0, stop=30))
    assert list(ShuffledWindows(7, seed=3, start=12, stop=30)) == whole[12:]
    assert sorted(whole[:7]) == sorted(whole[7:14]) == list(range(7))
    assert whole[:7] != whole[7:14]


def test_special_tokens_written_in_a_text_stay_text() -> None:
    encoder = byte_encoder()
    (ids,) = encoder.encode(["a<bos>b"])
    assert encoder.bos not in ids
    assert encoder.tokenizer.decode(ids) == "a<bos>b"


@pytest.mark.parametrize(
    ("settings", "model", "bos"),
    [
        ({"bos_token": "<bos>"}, {}, 256),
        ({"bos_token": {"content": "<bos>"}}, {}, 256),
        ({"bos_token": None}, {"bos_token_id": 7}, None),
        ({}, {"bos_token_id": 7}, 7),
    ],
)
def test_bos_is_the_tokenizers_or_else_the_models(tmp_path: Path, settings: dict, model: dict, bos: int | None) -> None:
    byte_encoder().tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps(model))
    assert tokenizer.load(tmp_path).bos == bos


def test_lone_last_token_of_a_model_without_bos_is_no_window(make_config: MakeConfig, tmp_path: Path) -> None:
    without = TextEncoder(byte_encoder().tokenizer, None, 0)
    rows = windows(make_config(), Texts("x" * 65, "y" * 64, "z" * 66), without, tmp_path)
    assert [len(rows[split]) for split in SPLITS] == [2, 2, 3]


def test_papers_protocol_makes_a_window_of_every_line_and_labels_no_padding(make_config: MakeConfig, tmp_path: Path) -> None:
    lines = ["short\n", "\n", " \n", "x" * 100 + "\n", "last"]
    rows = list(windows(make_config("data.protocol=paper"), Texts("".join(lines), "a\n", "b\n"), byte_encoder(), tmp_path)["train"])
    encoder = byte_encoder()
    kept = [[t for t in row["labels"].tolist() if t != IGNORED] for row in rows]
    assert [encoder.tokenizer.decode(k[1:]) for k in kept] == ["short\n", "", "", "x" * 31, "last"]
    for row, real in zip(rows, kept, strict=True):
        assert row["input_ids"].tolist() == real + [encoder.eos] * (32 - len(real))
