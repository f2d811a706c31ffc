"""Every example that is one file, run as a user runs it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 7


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_is_short_and_imports_nothing_of_qpa_but_itself(example: Path) -> None:
    text = example.read_text()
    assert text.count("\n") <= 48
    assert re.findall(r"^.*\bimport\b.*\bqpa\b.*$|^.*from qpa\b.*$", text, re.MULTILINE) == ["import qpa"]


def ran(example: Path, *arguments: object, folder: Path) -> tuple[str, float, float]:
    """What an example says that it has come to: of loss or return, the first and the last."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(example), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"^[\d,]+ numbers are trained", done.stdout, re.MULTILINE)
    what, before, after = re.findall(r"^(loss|return) ([\d.]+) -> ([\d.]+)$", done.stdout, re.MULTILINE)[-1]
    return what, float(before), float(after)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_learns_and_its_stock_reload_says_the_same(example: Path, tmp_path: Path) -> None:
    """The last of these is an assertion in the example itself."""
    what, before, after = ran(example, folder=tmp_path)
    assert after < 0.8 * before if what == "loss" else after > 5 * before
    assert "assert torch.equal(" in example.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("own_model", [False, True])
def test_preferences_are_learned_from_a_file_of_ones_own(tmp_path: Path, own_model: bool) -> None:
    lines = [{"prompt": f"{number} and {number}: ", "chosen": "yes" * 3, "rejected": "no!" * 3} for number in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = [tiny_model(tmp_path / "model")] if own_model else []
    _, before, after = ran(ROOT / "examples" / "trl_dpo.py", tmp_path / "pairs.jsonl", *model, folder=tmp_path)
    assert after < 0.8 * before


@pytest.mark.slow
def test_federated_clients_learn_together_and_of_all_methods_qpa_sends_least(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / "recipes" / "federated.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {row[0]: row[1:] for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:])}
    assert list(rows) == ["LoRA r=8", "VeRA", "Uni-LoRA", "QPA"]
    sent = {method: int(row[0].replace(",", "")) for method, row in rows.items()}
    assert min(sent, key=sent.__getitem__) == "QPA"
    for _, found in rows.values():
        values = [float(value) for value in found.split(" -> ")]
        assert values == sorted(values, reverse=True)
    assert values[-1] < 0.8 * values[0]


def tiny_model(folder: Path) -> Path:
    """A random model with its tokenizer, as a user would have one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)
    GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=2)).save_pretrained(folder)
    return folder
