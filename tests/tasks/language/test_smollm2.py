"""The real thing: SmolLM2-135M-Instruct, a few steps, exported and read back by stock peft in another process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, planned

STOCK = """
import json, math, sys
sys.modules["qpa"] = None
import datasets, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, windows = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
nll = tokens = 0
for row in datasets.load_from_disk(windows).with_format("torch"):
    with torch.no_grad():
        logits = model(input_ids=row["input_ids"][None]).logits[0, :-1].float()
    labels = row["labels"][1:]
    nll += torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
    tokens += (labels != -100).sum().item()
print(json.dumps([math.exp(nll / tokens), tokens]))
"""


@pytest.mark.slow
def test_perplexity_falls_and_the_exported_adapter_has_it_in_stock_peft(tmp_path: Path) -> None:
    from pydoc_data.topics import topics

    text = "\n\n".join(topics.values())
    for name, part in (("train", text[:60_000]), ("val", text[60_000:63_000]), ("test", text[63_000:66_000])):
        (tmp_path / name).write_text(part)
    files = [f"data.{name}_files=[{tmp_path}/{name}]" for name in ("train", "val", "test")]
    steps = ["trainer.max_steps=6", "trainer.val_every=6", "optimizer.warmup=0.3", "data.batch_size=1"]
    command = [sys.executable, "train.py", "model.dtype=float32", "data=text", *files, *steps, f"run_dir={tmp_path}/run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = json.loads((tmp_path / "run" / "result.json").read_text())["qpa"]
    found = ours["test"]
    assert found["perplexity"] < 0.95 * found["base_perplexity"]
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert checkpoint.stat().st_size < 13 * ours["params"]["trainable"]  # bytes: fp32, and Adam's two moments

    base, windows = places(tmp_path / "run", tmp_path / "windows")
    stock = subprocess.run(
        [sys.executable, "-c", STOCK, base, tmp_path / "run" / "adapter", windows], capture_output=True, text=True, check=True
    )
    perplexity, tokens = json.loads(stock.stdout)
    assert tokens == found["tokens"]
    assert perplexity == pytest.approx(found["perplexity"], rel=2e-3)  # bf16 base: batches change its rounding


def places(folder: Path, target: Path) -> tuple[Path, Path]:
    """Where the converted model lies, and a copy of the run's packed test windows."""
    from qpa.runs import record

    task = planned(record.load_config(folder)).task
    base, windows = task.folder, task.windows["test"]
    windows.rows.take(len(windows)).save_to_disk(str(target))
    assert base is not None
    return base, target
