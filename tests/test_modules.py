"""The tables of modules and LoRA tensors against the real models of transformers and peft, on the meta device."""

from pathlib import Path

import peft
import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from qpa.errors import ConfigError
from qpa.modules import linear_modules, lora_tensors, select
from qpa.peft_model import adapter_tensors

CONF = Path(__file__).parents[1] / "conf" / "model"
MODELS = ["smollm2", "gpt2", "gemma2", "gemma3_270m"]


def architecture(name: str) -> dict:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())["architecture"]


def meta_model(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture(name)))


@pytest.mark.parametrize("name", MODELS)
def test_table_lists_the_real_models_linear_modules(name: str) -> None:
    real = {}
    for path, module in meta_model(name).named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            real[path] = tuple(module.weight.shape) if isinstance(module, Conv1D) else tuple(reversed(module.weight.shape))
    assert {m.name: (m.inputs, m.outputs) for m in linear_modules(architecture(name), None) or []} == real


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", ["lm_head"], r".*\.(0|3)\..*proj.*|.*c_attn"])
def test_counted_tensors_are_pefts(name: str, use_dora: bool, targets: str | list[str]) -> None:
    settings = {"_target_": "peft.LoraConfig", "target_modules": targets, "r": 4, "use_dora": use_dora}
    counted = lora_tensors(select(linear_modules(architecture(name), None) or [], targets), settings)
    config = peft.LoraConfig(r=4, use_dora=use_dora, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2")
    real = adapter_tensors(peft.get_peft_model(meta_model(name), config, low_cpu_mem_usage=True))
    assert sorted((t.module, t.shape) for t in counted or []) == sorted((t.module.removeprefix("base_model.model."), t.shape) for t in real)


def test_unmatched_targets_list_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"peft.target_modules=\['nothing'\].*gate_proj.*lm_head"):
        select(linear_modules(architecture("smollm2"), 2) or [], ["nothing"])
