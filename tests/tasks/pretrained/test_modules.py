"""The tables of modules and LoRA tensors against the real models of transformers and peft, on the meta device."""

import peft
import pytest
import torch
import yaml
from conftest import ROOT
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from qpa.adapters.methods import adapter_tensors
from qpa.errors import ConfigError
from qpa.tasks.pretrained.modules import LLAMA_LIKE, linear_modules, lora_tensors, select

CONF = ROOT / "conf" / "model"
MODELS = ["smollm2", "gpt2", "gemma", "gemma2", "gemma3_270m"]
UNEVEN = {"vocab_size": 300, "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 6}
UNEVEN |= {"num_key_value_heads": 2, "head_dim": 20}


def architecture(name: str) -> dict:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())["architecture"]


def meta_model(architecture: dict) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture))


def real_modules(architecture: dict) -> list[tuple[str, int, int]]:
    found = []
    for path, module in meta_model(architecture).named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            shape = module.weight.shape
            found.append((path, *(shape if isinstance(module, Conv1D) else reversed(shape))))
    return found


def listed(architecture: dict) -> list[tuple[str, int, int]] | None:
    found = linear_modules(architecture, None)
    return None if found is None else [(m.name, m.inputs, m.outputs) for m in found]


@pytest.mark.parametrize("name", MODELS)
def test_table_lists_the_real_models_linear_modules_in_order(name: str) -> None:
    assert listed(architecture(name)) == real_modules(architecture(name))


@pytest.mark.parametrize("kind", LLAMA_LIKE)
@pytest.mark.parametrize("left_out", [(), ("head_dim",), ("num_key_value_heads",), ("head_dim", "num_key_value_heads")])
def test_table_lists_every_uneven_shape_or_leaves_it_to_the_real_model(kind: str, left_out: tuple[str, ...]) -> None:
    shape = {"model_type": kind} | {key: size for key, size in UNEVEN.items() if key not in left_out}
    found = listed(shape)
    if found is None:
        assert set(left_out) - set(LLAMA_LIKE[kind])
    else:
        assert found == real_modules(shape)


@pytest.mark.parametrize("inner", [None, 100])
def test_table_knows_the_width_of_gpt2s_mlp(inner: int | None) -> None:
    shape = {"model_type": "gpt2", "vocab_size": 300, "n_embd": 48, "n_layer": 2, "n_head": 6, "n_inner": inner}
    assert listed(shape) == real_modules(shape)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", ["lm_head"], r".*\.(0|3)\..*proj.*|.*c_attn"])
def test_counted_tensors_are_pefts(name: str, use_dora: bool, targets: str | list[str]) -> None:
    settings = {"_target_": "peft.LoraConfig", "target_modules": targets, "r": 4, "use_dora": use_dora}
    counted = lora_tensors(select(linear_modules(architecture(name), None) or [], targets), settings)
    config = peft.LoraConfig(r=4, use_dora=use_dora, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2")
    real = adapter_tensors(peft.get_peft_model(meta_model(architecture(name)), config, low_cpu_mem_usage=True))
    assert counted == real


def test_unmatched_targets_list_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"peft.target_modules=\['nothing'\].*gate_proj.*lm_head"):
        select(linear_modules(architecture("smollm2"), 2) or [], ["nothing"])
