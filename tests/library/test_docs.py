"""docs/library.md: its Python blocks run as they are written, one after the other."""

import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from transformers import LlamaConfig, LlamaForCausalLM

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fresh_base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 4, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes))


def test_every_block_of_the_librarys_page_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ids = torch.randint(0, 300, (5, 2, 16), generator=torch.Generator().manual_seed(0))
    names = {"base": fresh_base(), "fresh_base": fresh_base, "batches": [{"input_ids": each, "labels": each} for each in ids]}
    blocks = BLOCK.findall((ROOT / "docs" / "library.md").read_text())
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, "docs/library.md", "exec"), names)
    adapter = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert (tmp_path / "compact" / "compact.safetensors").stat().st_size < adapter
