"""Text is read as the model's own tokenizer reads it: stock transformers is the reference, however the text is cut into blocks."""

import json
from pathlib import Path

import pytest
from conftest import planned
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import AutoTokenizer

from qpa.config import parse
from qpa.config.composing import composed
from qpa.tasks.language import windows as data
from qpa.tasks.pretrained import tokenizer
from qpa.tasks.pretrained.tokenizer import TextEncoder, byte_encoder

CHAT = "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
MADE = [  # every flag, special and not; some with white space within
    AddedToken("<|left|>", lstrip=True, special=True),
    AddedToken("<|right|>", rstrip=True, special=True),
    AddedToken("<|both|>", lstrip=True, rstrip=True, special=True),
    AddedToken("<|two\nlines|>", special=True),
    AddedToken("<tool>", special=False, normalized=False),
    AddedToken("<Think>", special=False, normalized=True),
    AddedToken("[two words]", lstrip=True, special=False, normalized=False),
]
PIECES = [*(token.content for token in MADE), "<bos>", "<THINK>", "a", "Zwölf ", "é", " ", "\n", "\n\n", "\t", "x\ny", "<|lef", "<", "|>"]


def saved(made: Tokenizer, folder: Path) -> Path:
    """As a model's folder has it."""
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<bos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The byte tokenizer, with letters made small and all of these tokens."""
    changed = byte_encoder().tokenizer
    changed.normalizer = normalizers.Lowercase()
    changed.add_tokens(MADE)
    return saved(changed, tmp_path_factory.mktemp("made"))


def ours(encoder: TextEncoder, text: str, *, special_tokens: bool) -> list[int]:
    blocks = list(data._blocks([text], encoder.whole()))
    assert "".join(blocks) == text
    return [token for ids in encoder.encode(blocks, special_tokens=special_tokens) for token in ids]


def stock(folder: Path, text: str, *, special_tokens: bool) -> list[int]:
    reference = AutoTokenizer.from_pretrained(folder, split_special_tokens=not special_tokens)
    return reference(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("special_tokens", [True, False])
def test_made_tokenizer_reads_as_stock_transformers_however_the_text_is_cut(
    made: Path, special_tokens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, block = tokenizer.load(made), 64
    reference = AutoTokenizer.from_pretrained(made, split_special_tokens=not special_tokens)
    monkeypatch.setattr(data, "BLOCK", block)
    seen = {"blocks": 0}

    @settings(
        max_examples=400, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(st.sampled_from(PIECES), min_size=20, max_size=80).map("".join))
    def check(text: str) -> None:
        seen["blocks"] += len(list(data._blocks([text], encoder.whole())))
        assert ours(encoder, text, special_tokens=special_tokens) == reference(text, add_special_tokens=False)["input_ids"]

    check()
    assert seen["blocks"] > 1200


@pytest.mark.parametrize("special_tokens", [True, False])
def test_byte_tokenizer_reads_as_stock_transformers(tmp_path: Path, special_tokens: bool) -> None:
    text = "a<bos>b <bos>\n<bo" + CHAT
    folder = saved(byte_encoder().tokenizer, tmp_path)
    found = ours(byte_encoder(), text, special_tokens=special_tokens)
    assert found == stock(folder, text, special_tokens=special_tokens) == ours(tokenizer.load(folder), text, special_tokens=special_tokens)
    assert found.count(byte_encoder().bos) == (2 if special_tokens else 0)
    assert byte_encoder().tokenizer.decode(found, skip_special_tokens=False) == text


def test_blocks_are_no_larger_than_asked_and_cut_between_words(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "BLOCK", 64)
    whole = tokenizer.load(made).whole()
    blocks = list(data._blocks(["a line of words\n" * 50], whole))
    assert all(len(block) <= 64 and block.endswith(("line", "of", "words", "a")) for block in blocks[:-1])
    assert [len(block) for block in data._blocks(["x" * 200], whole)] == [64, 64, 64, 8]  # a word longer than a block
    assert list(data._blocks([""], whole)) == [""]


def test_setting_of_one_reader_is_not_that_of_the_next() -> None:
    """The tokenizer's own switch stays as it was last set."""
    encoder = byte_encoder()
    assert [len(encoder.encode(["<bos>"], special_tokens=parsed)[0]) for parsed in (True, False, True)] == [1, 5, 1]


@pytest.mark.slow
@pytest.mark.parametrize("special_tokens", [True, False])
def test_smollm2_reads_chat_as_stock_transformers_however_it_is_cut(special_tokens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydoc_data.topics import topics

    prose = "\n\n".join(topics.values())[:60_000]
    text = "".join(f"{CHAT}{prose[at : at + 1000]}" for at in range(0, len(prose), 1000))
    folder = planned(parse(composed("train", []))).task.folder
    assert folder is not None
    reference = stock(folder, text, special_tokens=special_tokens)
    assert (reference.count(1), reference.count(2)) == ((180, 180) if special_tokens else (0, 0))
    encoder = tokenizer.load(folder)
    assert encoder.bos == 1
    for block in (1_000, 10_000, 1 << 20):
        monkeypatch.setattr(data, "BLOCK", block)
        assert ours(encoder, text, special_tokens=special_tokens) == reference
