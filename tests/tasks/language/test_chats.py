"""Conversations become the tokens and labels that stock transformers makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import planned
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qpa.config import Config, expected, parse
from qpa.config.composing import composed
from qpa.config.data import RowsDataConfig
from qpa.tasks.language import template
from qpa.tasks.language.examples import Example, Writer
from qpa.tasks.language.forms import recognised
from qpa.tasks.pretrained import tokenizer
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.row import Row

TEMPLATES = Path(__file__).parent / "templates"
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"]


def said(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


ONE = said(("user", "What is 2 + 2?"), ("assistant", "4, I think."))
TWO = said(("user", " Zwölf Äpfel\n"), ("assistant", "  Ja: 12 🍎  "), ("user", "and\n\nthen?"), ("assistant", "Nothing.\n"))
WITH_SYSTEM = [*said(("system", "Be brief.")), *TWO]
INJECTED = said(("user", "say <|im_end|> and <end_of_turn>"), ("assistant", "no <|eot_id|>"))
TOOL = [
    *said(("user", "Weather?")),
    {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "sky", "arguments": {"at": "Bonn"}}}]},
    *said(("tool", "rain"), ("assistant", "It rains.")),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer's folder."""
    made = tokenizer.byte_encoder().tokenizer
    made.add_special_tokens(SPECIAL)
    folder = tmp_path_factory.mktemp("model")
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def ours(config: Config, folder: Path | None, values: dict[str, Any]) -> Example:
    data, encoder = expected("data", config.data, RowsDataConfig), tokenizer.load(folder)
    form = recognised(data, {name: type(value).__name__ for name, value in values.items()}, where=("data.train_files", "a.jsonl"))
    writer = Writer(form, template.load(data.template, folder, encoder), encoder, data)  # pyright: ignore[reportArgumentType]
    (found,) = writer.examples([Row("a.jsonl:1", values)], Faults("data", skip=False))
    return found


def by_prefixes(stock: PreTrainedTokenizerFast, messages: list[dict[str, Any]], **given: Any) -> list[bool]:
    """Whole turns of the assistant, counted in tokens of stock prefixes."""
    trained: list[bool] = []
    for at, message in enumerate(messages):
        asked = stock.apply_chat_template(messages[:at], add_generation_prompt=True, return_dict=False, **given) if at else []
        whole = stock.apply_chat_template(messages[: at + 1], return_dict=False, **given)
        if message["role"] == "assistant":
            trained += [False] * (len(asked) - len(trained)) + [True] * (len(whole) - len(asked))
    return trained


@pytest.mark.parametrize("messages", [ONE, TWO, WITH_SYSTEM, INJECTED], ids=["one", "two", "system", "injected"])
@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma"])
def test_tokens_and_labels_are_those_of_stock_apply_chat_template(make_config: Any, model: Path, name: str, messages: Any) -> None:
    if name == "gemma" and messages is WITH_SYSTEM:
        pytest.skip("Gemma's template has no system role")
    stock = AutoTokenizer.from_pretrained(model, chat_template=(TEMPLATES / f"{name}.jinja").read_text())
    found = ours(make_config(f"data.template={TEMPLATES}/{name}.jinja"), model, {"messages": messages})
    assert found.ids == stock.apply_chat_template(messages, return_dict=False)
    assert found.trained == by_prefixes(stock, messages)


@pytest.mark.parametrize("messages", [ONE, TWO, TOOL], ids=["one", "two", "tool"])
def test_marks_of_a_template_are_read_as_stock_reads_them(make_config: Any, model: Path, messages: Any) -> None:
    stock = AutoTokenizer.from_pretrained(model, chat_template=(TEMPLATES / "marked.jinja").read_text())
    expect = stock.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    found = ours(make_config(f"data.template={TEMPLATES}/marked.jinja"), model, {"messages": messages})
    assert found.ids == expect["input_ids"]
    assert found.trained == [bool(one) for one in expect["assistant_masks"]]


def test_all_and_last_train_on_everything_and_on_the_last_turn(make_config: Any, model: Path) -> None:
    chatml = f"data.template={TEMPLATES}/chatml.jinja"
    everything = ours(make_config(chatml, "data.train_on=all"), model, {"messages": TWO})
    last = ours(make_config(chatml, "data.train_on=last"), model, {"messages": TWO})
    assert all(everything.trained)
    assert last.trained == [False] * (len(last) - sum(last.trained)) + [True] * sum(last.trained)
    assert sum(last.trained) == len("Nothing.\n<|im_end|>\n") - len("<|im_end|>") + 1


@pytest.mark.parametrize("messages", [ONE, TWO])
def test_roles_of_sharegpt_are_the_same_conversation(make_config: Any, model: Path, messages: Any) -> None:
    names = {"user": "human", "assistant": "gpt"}
    theirs = [{"from": names[message["role"]], "value": message["content"]} for message in messages]
    config = make_config(f"data.template={TEMPLATES}/chatml.jinja")
    assert ours(config, model, {"conversations": theirs}) == ours(config, model, {"messages": messages})
    assert ours(config, model, {"messages": json.dumps(messages)}) == ours(config, model, {"messages": messages})


def test_prompt_and_completion_are_the_stock_tokens_of_both_and_an_eos(make_config: Any, model: Path) -> None:
    stock = AutoTokenizer.from_pretrained(model)
    found = ours(make_config(), model, {"prompt": "2 + 2 =", "completion": " 4"})
    assert found.ids == [*stock("2 + 2 = 4")["input_ids"], stock.eos_token_id]
    assert found.trained == [False] * 7 + [True] * 3
    alpaca = ours(make_config(), model, {"instruction": "Add.", "input": "2 + 2", "output": "4"})
    assert alpaca.ids == [*stock("Add.\n\n2 + 24")["input_ids"], stock.eos_token_id]
    without = ours(make_config(), model, {"instruction": "Add.", "input": "", "output": "4"})
    assert without.ids == [*stock("Add.4")["input_ids"], stock.eos_token_id]


def test_prompts_are_written_by_a_template_that_is_named(make_config: Any, model: Path) -> None:
    config = make_config(f"data.template={TEMPLATES}/chatml.jinja")
    pair = {"prompt": ONE[0]["content"], "completion": ONE[1]["content"]}
    assert ours(config, model, pair) == ours(config, model, {"messages": ONE})
    assert ours(config, model, {"prompt": ONE[:1], "completion": ONE[1:]}) == ours(config, model, {"messages": ONE})


@pytest.mark.slow
@pytest.mark.parametrize("messages", [ONE, TWO, WITH_SYSTEM, INJECTED])
def test_smollm2_s_own_template_and_tokenizer(make_config: Any, messages: Any) -> None:
    task: Any = planned(parse(composed("train", []))).task
    stock = AutoTokenizer.from_pretrained(task.folder)
    found = ours(make_config(), task.folder, {"messages": messages})
    assert found.ids == stock.apply_chat_template(messages, return_dict=False)
    assert found.trained == by_prefixes(stock, messages)
