"""What is learned does not depend on the file it lies in; what cannot be learned from is one line."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import fingerprint, folder_of, planned, train_run

from qpa.config import Config
from qpa.errors import ConfigError
from qpa.runs import answers, record

MakeConfig = Callable[..., Config]
CHATML = f"data.template={Path(__file__).parent}/templates/chatml.jinja"


def conversations(count: int) -> list[dict[str, Any]]:
    """Some with a system's message, some with two turns."""
    draw, found = random.Random(0), []
    for number in range(count):
        one, other = draw.randint(0, 99), draw.randint(0, 99)
        messages = [{"role": "system", "content": "Add."}] * (number % 3 == 0)
        messages += [{"role": "user", "content": f"{one} + {other}?"}, {"role": "assistant", "content": f"{one + other} 🍎"}]
        messages += [{"role": "user", "content": "Twice?"}, {"role": "assistant", "content": str(2 * (one + other))}] * (number % 5 == 0)
        found.append({"messages": messages})
    return found


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def in_all_forms(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Path]:
    file = lines(folder / "chats.jsonl", rows)
    packed = folder / "chats.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(folder / "chats.parquet")
    table.save_to_disk(str(folder / "saved"))
    (folder / "chats.json").write_text(json.dumps(rows))
    return {path.name: path for path in (file, packed, folder / "chats.parquet", folder / "saved", folder / "chats.json")}


@pytest.mark.slow
def test_same_conversations_in_any_file_are_the_same_run_tokens_and_perplexity(make_config: MakeConfig, tmp_path: Path) -> None:
    found = {}
    for name, path in in_all_forms(tmp_path, conversations(200)).items():
        config = make_config(f"data.train_files=[{path}]", CHATML, "data.context=128", "data.generate=2", f"run_dir={tmp_path}/run-{name}")
        tokens = {split: [row["input_ids"].tolist() for row in windows] for split, windows in planned(config).task.windows.items()}  # pyright: ignore[reportAttributeAccessIssue]
        train_run(config)
        ours = record.read(folder_of(config))["qpa"]
        found[name] = (fingerprint(config), ours["texts"], tokens, ours["test"], ours["val"], answers.read(folder_of(config)))
    first = found["chats.jsonl"]
    assert all(other == first for other in found.values())
    assert first[3]["tokens"] > 0 and len(first[5]) == 2


def test_answers_are_marked_for_base_and_adapted_model_and_kept(make_config: MakeConfig, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"prompt": f"{n}:", "completion": f" {n}"} for n in range(80)])
    config = make_config(f"data.train_files=[{path}]", "data.context=32", "data.generate=3", "data.answer_tokens=4")
    train_run(config)
    group, samples = record.read(folder_of(config))["qpa"]["answers"], answers.read(folder_of(config))
    assert group["prompts"] == len(samples) == 3
    assert {"exact_match", "base_exact_match", "rougeL", "base_rougeL"} <= group.keys()
    right = [sample["adapted"].strip() == sample["reference"].strip() for sample in samples]
    assert group["exact_match"] == sum(right) / 3
    assert all(sample["prompt"].rstrip(":") == sample["reference"].strip() for sample in samples)


GOOD = conversations(1)[0]["messages"]
BAD = {
    "empty conversation": ([], "an empty conversation"),
    "null": (None, "no list of messages but null"),
    "assistant first": (GOOD[2:], "roles out of order: message 1 is the assistant's"),
    "two users": ([GOOD[1], GOOD[1]], "roles out of order: message 2 is the user's, after the user"),
    "system in the middle": ([GOOD[1], GOOD[0]], "roles out of order"),
    "unknown role": ([{"role": "wizard", "content": "x"}], "role 'wizard'"),
    "no content": ([{"role": "user"}], "message 1 has no content but null"),
    "empty answer": ([GOOD[1], {"role": "assistant", "content": ""}], "message 2 is empty"),
    "nothing said": ([GOOD[1]], "nothing of it is trained on"),
    "a text": ("hello", "no list of messages but 'hello'"),
}


@pytest.mark.parametrize(("messages", "problem"), BAD.values(), ids=BAD.keys())
def test_row_that_cannot_be_learned_from_is_one_line_with_its_place_or_left_out(
    make_config: MakeConfig, tmp_path: Path, messages: Any, problem: str, capsys: pytest.CaptureFixture
) -> None:
    rows = [*conversations(30), {"messages": messages}, *conversations(9)]
    fixed = [f"data.train_files=[{lines(tmp_path / 'a.jsonl', rows)}]", CHATML, "data.context=128"]
    with pytest.raises(ConfigError, match=rf"data.train_files=a.jsonl:31: .*{problem}.*data.skip_bad=true"):
        planned(make_config(*fixed)).task.prepare()
    task = planned(make_config(*fixed, "data.skip_bad=true")).task
    task.prepare()
    assert "1 rows cannot be used and are left out, the first: a.jsonl:31" in capsys.readouterr().err
    examples = [split.counts["examples"] for split in task.windows.values()]  # pyright: ignore[reportAttributeAccessIssue]
    assert sum(examples) == 39


@pytest.mark.parametrize(
    ("rows", "overrides", "message"),
    [
        ([{"a": "x", "b": "y"}] * 9, [], r"data.train_files=.*what its columns hold cannot be told \(a: str, b: str\)"),
        ([{"prompt": "x", "completion": "y"}] * 9, ["data.messages_column=chat"], "data.messages_column=chat: there is no such column"),
        ([{"prompt": "x"}] * 5 + [{"completion": "y"}] * 5, [], "data.train_files=a.jsonl:1: column completion holds no text but null"),
        ([{"prompt": "x", "completion": 3}] * 9, [], "a.jsonl:1: column completion holds no text but 3"),
        (conversations(9), [], r"a.jsonl:1: conversations need a chat template.*data.template=FILE"),
        (conversations(9), [CHATML, "data.context=8"], r"nothing of the .* rows of the train split can be learned from"),
        (conversations(9), ["data.template=nowhere.jinja"], "data.template=nowhere.jinja: cannot be read"),
        (conversations(9), ["data.template={tmp}/broken.jinja"], "data.template=.*is no chat template"),
        (conversations(9), ["data.template={tmp}/raises.jinja"], "a.jsonl:1: the chat template refuses it.*never"),
        (conversations(9), ["data.template=own"], "data.template=own: this model's tokenizer has none"),
    ],
)
def test_data_that_cannot_be_learned_from_are_one_line(
    make_config: MakeConfig, tmp_path: Path, rows: list[Any], overrides: list[str], message: str
) -> None:
    (tmp_path / "broken.jinja").write_text("{% for message in %}")
    (tmp_path / "raises.jinja").write_text("{{ raise_exception('never') }}")
    fixed = [f"data.train_files=[{lines(tmp_path / 'a.jsonl', rows)}]", *(text.replace("{tmp}", str(tmp_path)) for text in overrides)]
    with pytest.raises(ConfigError, match=message):
        planned(make_config(*fixed)).task.prepare()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("{_target_: torchmetrics.text.NoSuch}", "data.answer_metrics.mine=torchmetrics.text.NoSuch: cannot be made"),
        ("{_target_: sklearn.metrics.mean_squared_error}", "data.answer_metrics.mine=.*refuses answers and references"),
    ],
)
def test_metric_that_cannot_judge_texts_is_one_line(make_config: MakeConfig, metric: str, message: str) -> None:
    from qpa.tasks.language.answers import Asked, marked, marks

    config = make_config(f"+data.answer_metrics.mine={metric}")
    with pytest.raises(ConfigError, match=message):
        marked(["a"], [Asked("p", "a", [1])], by=marks(config.data.answer_metrics))  # pyright: ignore[reportAttributeAccessIssue]


def test_broken_lines_and_useless_rows_are_counted_together_and_each_time(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = lines(tmp_path / "a.jsonl", [*conversations(30), {"messages": []}])
    path.write_text("no JSON\n" + path.read_text())
    for _ in range(2):  # the second time from the cache
        planned(make_config(f"data.train_files=[{path}]", CHATML, "data.context=128", "data.skip_bad=true")).task.prepare()
        assert "2 rows cannot be used and are left out, the first: a.jsonl:1 (is no JSON" in capsys.readouterr().err
