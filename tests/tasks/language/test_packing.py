"""Examples that share a window are read as each alone; what is masked, cut or left out is that alone."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import build, folder_of, planned, train_run

from qpa.errors import ConfigError
from qpa.runs import record
from qpa.tasks.language.examples import Example, Fitted
from qpa.tasks.language.loss import IGNORED
from qpa.tasks.language.packing import pack, pad

LENGTHS = [3, 30, 2, 17, 8, 8, 31, 5, 32, 2, 9]


def examples() -> list[Example]:
    return [Example(list(range(n, n + length)), [at % 3 > 0 for at in range(length)]) for n, length in enumerate(LENGTHS)]


def chats(path: Path, count: int = 24) -> Path:
    """Of every length."""
    rows = [{"prompt": f"{'count ' * (i % 5)}{i}:", "completion": f" {i + 1}{' and on' * (i % 4)}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_example_is_in_one_window_whole_and_none_is_longer_than_one() -> None:
    windows = list(pack(examples(), 32, filler=0))
    assert all(len(row[name]) == 32 for row in windows for name in ("input_ids", "labels", "positions"))
    found = []
    for row in windows:
        starts = [at for at, position in enumerate(row["positions"]) if position == 0] + [32]
        found += [row["input_ids"][a:b] for a, b in itertools.pairwise(starts)]
        assert all(row["labels"][start] == IGNORED for start in starts[:-1])
    wanted = [example.ids for example in examples()]
    assert sorted(part for part in found if part in wanted) == sorted(wanted)
    assert len(windows) < len(wanted) / 2


def test_packed_and_padded_windows_predict_the_same_tokens() -> None:
    together, alone = (list(into(examples(), 32, filler=0)) for into in (pack, pad))
    labels = [sorted(label for row in rows for label in row["labels"] if label != IGNORED) for rows in (together, alone)]
    assert labels[0] == labels[1]


@pytest.mark.parametrize(("how", "kept"), [("cut", [[0, 1, 2, 3]]), ("drop", []), ("split", [[0, 1, 2, 3], [0, 4, 5, 6], [0, 7, 8]])])
def test_long_examples_are_cut_dropped_or_split_behind_their_bos(how: str, kept: list[list[int]]) -> None:
    fitted = Fitted(context=4, too_long=how, bos=0)
    assert [example.ids for example in fitted.fit([Example(list(range(9)), [True] * 9)])] == kept
    assert fitted.counts["too_long"] == fitted.counts["examples"] == 1


def test_example_of_which_nothing_is_trained_on_is_left_out_and_counted() -> None:
    fitted = Fitted(context=4, too_long="cut", bos=None)
    assert list(fitted.fit([Example(list(range(9)), [at > 5 for at in range(9)])])) == []
    assert fitted.counts["masked"] == 1


@pytest.mark.parametrize("peft", ["peft=lora", "peft=adapter"])
@pytest.mark.parametrize("model", ["smollm2", "gpt2", "gemma2", "gemma3_270m"])
def test_loss_of_an_example_is_the_same_packed_and_alone(make_config: Any, tmp_path: Path, model: str, peft: str) -> None:
    """To 1e-4, and as transformers' own model says of it alone."""
    file = chats(tmp_path / "a.jsonl")
    config = make_config(f"data.train_files=[{file}]", "data.context=96", peft, "model.dtype=float32", "data.generate=0", model=model)
    built = build(config)
    torch.manual_seed(0)
    for parameter in built.adaptation.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    built.adaptation.write()
    learner = built.plan.task.learner(built.model.eval())
    for row in (built.plan.task.windows["train"][at] for at in range(2)):  # pyright: ignore[reportAttributeAccessIssue]
        batch = {name: row[name][None] for name in ("input_ids", "labels", "positions")}
        with torch.no_grad():
            together, count = learner.loss(batch)
            alone = torch.stack([nll(built.model, *part) for part in parts(row)]).sum()
        assert torch.isclose(together, alone, rtol=1e-4, atol=0)
        assert count == sum((labels != IGNORED).sum() for _, labels in parts(row))


def parts(row: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    starts = [*(row["positions"] == 0).nonzero().flatten().tolist(), len(row["positions"])]
    found = [(row["input_ids"][a:b], row["labels"][a:b]) for a, b in itertools.pairwise(starts)]
    return [(ids, labels) for ids, labels in found if (labels != IGNORED).any()]


def nll(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids[None]).logits[0, :-1].float()
    return F.cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="sum")


@pytest.mark.few(1)
@pytest.mark.parametrize("train_on", ["completions", "all"])
def test_run_says_the_same_packed_and_padded(make_config: Any, tmp_path: Path, train_on: str) -> None:
    file = chats(tmp_path / "a.jsonl", 60)
    found = {}
    for packing in ("true", "false"):
        fixed = [f"data.train_files=[{file}]", "data.context=96", f"data.train_on={train_on}", "trainer.max_steps=1", "data.generate=2"]
        config = make_config(*fixed, f"data.packing={packing}", f"run_dir={tmp_path}/{packing}")
        train_run(config)
        found[packing] = record.read(folder_of(config))["qpa"]
    for split in ("val", "test"):
        assert found["true"][split]["tokens"] == found["false"][split]["tokens"]
        assert math.isclose(found["true"][split]["base_perplexity"], found["false"][split]["base_perplexity"], rel_tol=1e-4)
        assert math.isclose(found["true"][split]["base_accuracy"], found["false"][split]["base_accuracy"], rel_tol=1e-4)


def test_soft_prompts_are_padded_and_packing_them_is_refused(make_config: Any, tmp_path: Path) -> None:
    file = chats(tmp_path / "a.jsonl")
    fixed = [f"data.train_files=[{file}]", "data.context=96", "peft=prefix"]
    task: Any = planned(make_config(*fixed)).task
    assert not task.packing and "positions" not in task.windows["train"].rows.column_names
    with pytest.raises(ConfigError, match=r"data.packing=True: soft prompts.*null or false"):
        planned(make_config(*fixed, "data.packing=true"))
