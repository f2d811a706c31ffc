"""Windows hold every token of the text once, in order, each window behind one BOS."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from conftest import folder_of, train_run
from texts import cut, read, three

from qpa.commands import evaluate
from qpa.config import Config
from qpa.errors import ConfigError
from qpa.tasks.language import splits
from qpa.tasks.language.loss import IGNORED
from qpa.tasks.language.splits import Examples
from qpa.tasks.loaders import Shuffled
from qpa.tasks.pretrained import tokenizer
from qpa.tasks.pretrained.tokenizer import TextEncoder, byte_encoder

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
    return cut(make_config().data, three(PROSE, PROSE[:200], PROSE[200:400]), byte_encoder(), tmp_path)


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
    monkeypatch.setattr("qpa.tasks.pretrained.tokenizer.TextEncoder.encode", lambda *_: pytest.fail("tokenised again"))
    again = cut(make_config().data, three(PROSE, PROSE[:200], PROSE[200:400]), byte_encoder(), tmp_path)
    assert again["train"][0]["input_ids"].tolist() == packed["train"][0]["input_ids"].tolist()


def test_changed_text_is_tokenised_anew(packed: dict, make_config: MakeConfig, tmp_path: Path) -> None:
    other = cut(make_config().data, three("x" + PROSE, PROSE[:200], PROSE[200:400]), byte_encoder(), tmp_path)
    assert other["train"][0]["input_ids"].tolist() != packed["train"][0]["input_ids"].tolist()


def test_splits_do_not_overlap_and_lose_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE)
    texts = read(make_config(f"data.train_files=[{tmp_path}/a.txt]").data)
    assert texts.train + texts.val + texts.test == PROSE


def test_given_test_files_leave_the_validation_text_whole(make_config: MakeConfig, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name + PROSE)
    texts = read(make_config(*(f"data.{s}_files=[{tmp_path}/{n}]" for s, n in zip(SPLITS, "abc", strict=True))).data)
    assert vars(texts) == three("a" + PROSE, "b" + PROSE, "c" + PROSE)


@pytest.mark.parametrize("size", [70, 101, 250, 400])
def test_first_bytes_of_the_training_text_are_read_and_what_is_held_out_stays(make_config: MakeConfig, tmp_path: Path, size: int) -> None:
    (tmp_path / "a.txt").write_text(PROSE)
    whole = read(make_config(f"data.train_files=[{tmp_path}/a.txt]").data)
    some = read(make_config(f"data.train_files=[{tmp_path}/a.txt]", f"data.train_bytes={size}").data)
    assert some.train == PROSE.encode()[:size].decode(errors="ignore")  # no half of an umlaut
    assert (some.val, some.test) == (whole.val, whole.test)


def test_first_rows_are_those_that_hold_so_many_bytes_and_what_is_held_out_stays(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = [{"prompt": f"{number}?", "completion": "ü" * number} for number in range(1, 60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = f"data.train_files=[{tmp_path}/a.jsonl]"
    whole, some = (splits.read(make_config(given, *more).data, tmp_path) for more in ((), ("data.train_bytes=900",)))
    trained, held_out = ({name: [row.values for row in cast(Examples, found[name]).rows] for name in SPLITS} for found in (some, whole))
    assert trained["val"] == held_out["val"]
    assert trained["test"] == held_out["test"]
    first = trained["train"]
    assert first == held_out["train"][: len(first)]
    sizes = [len(json.dumps(row, ensure_ascii=False).encode()) + 1 for row in held_out["train"]]
    assert sum(sizes[: len(first) - 1]) < 900 <= sum(sizes[: len(first)])
    assert len({cast(Examples, found["train"]).key for found in (whole, some)}) == 2


def test_too_few_bytes_for_a_window_is_one_line(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE)
    with pytest.raises(ConfigError, match=r"data.train_bytes=5: the train text \(less than \d+ bytes\) is shorter than one window"):
        read(make_config(f"data.train_files=[{tmp_path}/a.txt]", "data.train_bytes=5").data)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_more_bytes_than_there_are_is_one_line(make_config: MakeConfig, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(PROSE if name == "a.txt" else '{"prompt": "a", "completion": "b"}\n' * 9)
    with pytest.raises(ConfigError, match=r"data.train_bytes=90000: there are only [\d,]+ bytes to train on"):
        splits.read(make_config(f"data.train_files=[{tmp_path}/{name}]", "data.train_bytes=90000").data, tmp_path)


@pytest.mark.parametrize(("content", "message"), [("", "empty"), (" \n", "empty"), ("a few words", "shorter than one window")])
def test_useless_text_is_refused(make_config: MakeConfig, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read(make_config(f"data.train_files=[{tmp_path}/a.txt]").data)


def test_resumed_order_is_the_rest_of_the_whole_order() -> None:
    whole = list(Shuffled(7, seed=3, start=0, stop=30))
    assert list(Shuffled(7, seed=3, start=12, stop=30)) == whole[12:]
    assert sorted(whole[:7]) == sorted(whole[7:14]) == list(range(7))
    assert whole[:7] != whole[7:14]


@pytest.mark.parametrize("protocol", ["packed", "paper"])
def test_special_tokens_written_in_a_text_are_tokens_unless_switched_off(make_config: MakeConfig, tmp_path: Path, protocol: str) -> None:
    """From the cache too, which keeps both."""
    content = "a word <bos> and more\n" * 20
    encoder = byte_encoder()
    for special_tokens in (True, False, True):
        config = make_config(f"data.special_tokens={special_tokens}", f"data.protocol={protocol}", "data.context=64")
        rows = cut(config.data, three(content, content, content), encoder, tmp_path)["train"]
        kept = [token for row in rows for token in row["labels"].tolist()[1:] if token != IGNORED]
        assert kept.count(encoder.bos) == (20 if special_tokens else 0)
        assert encoder.tokenizer.decode(kept, skip_special_tokens=False) == content


@pytest.mark.parametrize("context", [2, 8, 32])
@pytest.mark.parametrize(
    "content", ["<bos>" + PROSE, ("<bos>" + PROSE[:30]) * 9, ("<bos>" + PROSE[:31]) * 9, "<bos>" * 40 + PROSE, "x" * 31 + "<bos>" + PROSE]
)
def test_window_that_begins_with_a_bos_of_the_text_gets_no_other(
    make_config: MakeConfig, tmp_path: Path, content: str, context: int
) -> None:
    """And every token of the text is in one window, in order."""
    encoder = byte_encoder()
    rows = list(cut(make_config(f"data.context={context}").data, three(content, PROSE, PROSE), encoder, tmp_path)["train"])
    (tokens,) = encoder.encode([content], special_tokens=True)
    at = 0
    for row in rows:
        kept = [token for token in row["labels"].tolist() if token != IGNORED]
        assert kept[0] == encoder.bos
        own = tokens[at] == encoder.bos
        assert kept[0 if own else 1 :] == tokens[at : at + len(kept) - (not own)]
        at += len(kept) - (not own)
        assert len(kept) == context or row is rows[-1]
    assert at >= len(tokens) - 1  # a lone last one has nothing to be predicted from


def test_line_that_begins_with_bos_gets_no_other_in_the_papers_protocol(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = cut(make_config("data.protocol=paper").data, three("<bos>one\ntwo\n", "a\n", "b\n"), byte_encoder(), tmp_path)["train"]
    assert [row["labels"].tolist().count(256) for row in rows] == [1, 1]


def test_largest_token_is_that_of_the_windows_that_are_read(make_config: MakeConfig, tmp_path: Path) -> None:
    encoder = TextEncoder(byte_encoder().tokenizer, None, 0)
    held_out = "a" * 320 + "é" * 32
    found = cut(make_config("data.max_held_out_windows=10").data, three(PROSE, held_out, held_out[::-1]), encoder, tmp_path)
    assert found["val"].largest == encoder.encode(["a"], special_tokens=True)[0][0]
    assert found["test"].largest == max(encoder.encode(["é"], special_tokens=True)[0])
    again = cut(make_config("data.max_held_out_windows=10").data, three(PROSE, held_out, held_out), encoder, tmp_path)  # from the cache
    assert again["val"].largest == found["val"].largest


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
    rows = cut(make_config().data, three("x" * 65, "y" * 64, "z" * 66), without, tmp_path)
    assert [len(rows[split]) for split in SPLITS] == [2, 2, 3]


def test_papers_protocol_makes_a_window_of_every_line_and_labels_no_padding(make_config: MakeConfig, tmp_path: Path) -> None:
    lines = ["short\n", "\n", " \n", "x" * 100 + "\n", "last"]
    rows = list(cut(make_config("data.protocol=paper").data, three("".join(lines), "a\n", "b\n"), byte_encoder(), tmp_path)["train"])
    encoder = byte_encoder()
    kept = [[t for t in row["labels"].tolist() if t != IGNORED] for row in rows]
    assert [encoder.tokenizer.decode(k[1:]) for k in kept] == ["short\n", "", "", "x" * 31, "last"]
    for row, real in zip(rows, kept, strict=True):
        assert row["input_ids"].tolist() == real + [encoder.eos] * (32 - len(real))


@pytest.fixture
def base_with_more_tokens(saved_base: Callable[[str], Path]) -> Path:
    """A model of 300 rows beside a tokenizer of 307 tokens, and no weights to be loaded."""
    folder = saved_base("smollm2")
    larger = byte_encoder().tokenizer
    larger.add_tokens([f"<token{n}>" for n in range(257, 307)])
    larger.save(str(folder / "tokenizer.json"))
    (folder / "model.safetensors").rename(folder / "weights")
    return folder


@pytest.mark.parametrize("split", ["train", "val", "test", "forgetting"])
def test_token_that_the_embedding_has_no_row_for_is_refused_before_weights_are_loaded(
    base_with_more_tokens: Path, make_config: MakeConfig, tmp_path: Path, split: str
) -> None:
    (tmp_path / "more.txt").write_text(PROSE + "<token300>" + PROSE)
    (tmp_path / "plain.txt").write_text(PROSE + "<token299>" + PROSE)
    files = {name: "more" if name == split else "plain" for name in (*SPLITS, "forgetting")}
    given = ["model.weights=published", f"model.path={base_with_more_tokens}", "model.num_layers=null", "data.max_held_out_windows=null"]
    config = make_config(*given, *(f"data.{name}_files=[{tmp_path}/{file}.txt]" for name, file in files.items()))
    with pytest.raises(ConfigError, match=r"model\.path=.*token 300, .*only 300 rows; .*tokenizer"):
        train_run(config)


def test_token_that_the_embedding_has_no_row_for_is_refused_by_evaluate_too(
    base_with_more_tokens: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    (base_with_more_tokens / "weights").rename(base_with_more_tokens / "model.safetensors")
    config = make_config("model.weights=published", f"model.path={base_with_more_tokens}", "model.num_layers=null")
    train_run(config)  # a larger tokenizer alone does no harm
    (base_with_more_tokens / "model.safetensors").unlink()
    (tmp_path / "more.txt").write_text(PROSE + "<token306>" + PROSE)
    with pytest.raises(ConfigError, match=r"model\.path=.*token 306, .*only 300 rows"):
        evaluate.main([f"run={folder_of(config)}", f"data.test_files=[{tmp_path}/more.txt]", "data.max_held_out_windows=null"])


def test_vocabulary_too_small_for_the_byte_tokenizer_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"model\.architecture\.vocab_size=256: .*token 256.*at least 257"):
        train_run(make_config("model.architecture.vocab_size=256"))
