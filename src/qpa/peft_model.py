"""The one place where peft enters: wrap the base model, find the adapter's tensors, save and merge the adapter.

Bottleneck adapters, which peft does not have, offer the same few methods (`qpa.bottleneck`) and are told apart here only.
"""

import json
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import peft
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from peft import PeftConfig, PeftModel
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from peft.utils.integrations import dequantize_module_weight
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from qpa.bottleneck import CONFIG, PEFT_TYPE, Bottleneck, BottleneckConfig, BottleneckModel
from qpa.errors import ConfigError
from qpa.files import whole_folder
from qpa.layout import AdapterTensor

AdaptedModel = PeftModel | BottleneckModel
ADAPTED = (BaseTunerLayer, AuxiliaryTrainingWrapper, Bottleneck)
BEYOND_MODULES = ("alora_invocation_tokens", "kasa_config", "monteclora_config")  # of LoraConfig: a mask, and losses to be added
PROMPTS = (peft.PeftType.PREFIX_TUNING, peft.PeftType.PROMPT_TUNING, peft.PeftType.P_TUNING)


def make_config(settings: dict[str, Any]) -> PeftConfig | BottleneckConfig:
    """The PEFT method's config that config group `peft` names.

    Raises:
        ConfigError: peft refuses the settings; its own words are in the text.
    """
    try:
        return instantiate(settings, _convert_="all")
    except (InstantiationException, ValueError, TypeError) as error:
        raise ConfigError("peft", settings.get("_target_"), " ".join(str(error.__cause__ or error).split())) from error


def wrap(base: PreTrainedModel, config: PeftConfig | BottleneckConfig, *, seed: int, gradient_checkpointing: bool) -> AdaptedModel:
    """Put the adapter on the base model, its initial weights drawn from `seed`, and switch everything to training mode.

    Raises:
        ConfigError: the method cannot be put on this model; peft's own words are in the text.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        model = _put_on(base, config)
    _exact_magnitudes(model)
    if gradient_checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()  # loaded models arrive in eval mode, where gradient checkpointing silently does nothing


def planned(skeleton: Callable[[], PreTrainedModel], config: PeftConfig | BottleneckConfig) -> tuple[list[AdapterTensor], int]:
    """The adapter's tensors, and the bytes of what is saved of it (some methods save projections too), before any weight is loaded.

    Args:
        skeleton: builds the base model on the meta device, anew at each call.
        config: of the PEFT method.

    Raises:
        ConfigError: as for `wrap`.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                model = _put_on(skeleton(), config)
        except NotImplementedError:  # Uni-LoRA counts its indices, which the meta device cannot: they are made on the CPU
            model = _put_on(skeleton(), config)
    tensors = adapter_tensors(model)
    saved = tensors_saved(model)
    return tensors, saved or sum(t.size for t in tensors) * torch.float32.itemsize


def tensors_saved(model: AdaptedModel) -> int:
    """Bytes of all tensors that peft saves of an adapter that is put on modules; 0 for prompts, which it makes when it saves."""
    if isinstance(model, BottleneckModel) or model.active_peft_config.is_prompt_learning:
        return 0
    saved = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    return sum(tensor.numel() * tensor.itemsize for tensor in saved.values())


def _put_on(base: PreTrainedModel, config: PeftConfig | BottleneckConfig) -> AdaptedModel:
    try:
        if isinstance(config, BottleneckConfig):
            return BottleneckModel(base, config)
        model = cast(PeftModel, peft.get_peft_model(base, config))
    except NotImplementedError:
        raise
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, ArithmeticError) as error:
        raise ConfigError("peft", type(config).__name__, " ".join(str(error).split())) from error
    if _has_own_forward(model):
        problem = "does more in peft's forward pass or loss than its modules do, and would be trained without it"
        raise ConfigError("peft", type(config).__name__, f"{problem}; choose another method")
    return model


def _has_own_forward(model: PeftModel) -> bool:
    """Whether the method does more than its modules and prompts do: body and head are called themselves, without peft's wrappers."""
    config, tuner = model.active_peft_config, model.base_model
    if config.is_prompt_learning:
        return config.peft_type not in PROMPTS
    more = any(getattr(config, field, None) is not None for field in BEYOND_MODULES)
    return more or (isinstance(tuner, BaseTuner) and type(tuner).forward is not BaseTuner.forward)


def _exact_magnitudes(model: nn.Module) -> None:
    """Set DoRA's magnitudes again: peft rounds them to the base's bf16 on the way, so that its step 0 is not the base model."""
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        for name, magnitude in layer.lora_magnitude_vector.items():
            if name not in layer.lora_B:
                continue  # an embedding: peft does not round its magnitude
            weight = dequantize_module_weight(layer.get_base_layer()).float()
            update = cast(Tensor, layer.lora_B[name].weight) @ cast(Tensor, layer.lora_A[name].weight)
            norm = cast(DoraLinearLayer, magnitude).get_weight_norm(weight, update.detach(), layer.scaling[name])
            cast(nn.Parameter, magnitude.weight).data.copy_(norm)


def adapter_parameters(model: AdaptedModel) -> dict[str, nn.Parameter]:
    """What the PEFT method trains, by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def adapter_tensors(model: AdaptedModel) -> list[AdapterTensor]:
    """Shapes of `adapter_parameters`, each with the module it adapts."""
    adapted = sorted((name for name, m in model.named_modules() if isinstance(m, ADAPTED)), key=len, reverse=True)

    def module(name: str) -> str:
        return next((a for a in adapted if name.startswith(a + ".")), name.rsplit(".", 1)[0])

    return [AdapterTensor(name, tuple(p.shape), module(name)) for name, p in adapter_parameters(model).items()]


def adapted_modules(model: AdaptedModel) -> set[nn.Module]:
    """The modules that the method has put something on, each once; for prompt learning what makes the prompts."""
    found: set[nn.Module] = {module for module in model.modules() if isinstance(module, ADAPTED)}
    return found | set(getattr(model, "prompt_encoder", {}).values())


def save_adapter(model: AdaptedModel, folder: Path, *, base_name: str | None) -> None:
    """Write a plain PEFT adapter: `adapter_config.json` and `adapter_model.safetensors`, naming the base model."""
    model.peft_config["default"].base_model_name_or_path = base_name
    with whole_folder(folder) as scratch:
        if isinstance(model, BottleneckModel):
            model.save_pretrained(str(scratch))
        else:
            model.save_pretrained(str(scratch), save_embedding_layers=False)  # "auto" would add a whole tied head


def load_adapter(base: PreTrainedModel, folder: Path) -> AdaptedModel:
    """A saved adapter on its base model, as stock peft reads it.

    Raises:
        ConfigError: the adapter is damaged, does not fit the model, or holds more than numbers.
    """
    try:
        if json.loads((folder / CONFIG).read_text())["peft_type"] == PEFT_TYPE:
            return BottleneckModel.from_pretrained(base, str(folder))
        return PeftModel.from_pretrained(base, str(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError, UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError("run", folder, f"its adapter cannot be read ({reason}); python -m qpa.export run=DIR makes it anew") from error


def merge(model: AdaptedModel) -> PreTrainedModel:
    """Fold the adapter into the base weights.

    A head that shares its storage with the input embedding is given its own first: merging into the shared one would
    change the embedding as well (peft #2018, #2864).

    Raises:
        ConfigError: the method does not work by changing weights.
    """
    if not hasattr(model.base_model, "merge_and_unload"):
        name = type(model.peft_config["default"]).__name__
        raise ConfigError("merged", "true", f"{name} changes no weights that an adapter could be folded into; use the adapter itself")
    base = cast(PreTrainedModel, model.get_base_model())
    head = base.get_output_embeddings()
    if isinstance(head, BaseTunerLayer) and base.config.tie_word_embeddings:
        inner = cast(nn.Linear, head.get_base_layer())
        inner.weight = nn.Parameter(inner.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False
    return cast(Any, model.base_model).merge_and_unload()


def prompt_arguments(model: AdaptedModel, ids: Tensor) -> dict[str, Any]:
    """What the base model is called with: the ids, and in prompt learning the learned vectors before them.

    peft's own forward does the same and adds only masks for padding on the left, which our windows do not have.
    """
    if isinstance(model, BottleneckModel) or not model.active_peft_config.is_prompt_learning:
        return {"input_ids": ids}
    prompt = model.get_prompt(batch_size=len(ids))
    if model.active_peft_config.peft_type == peft.PeftType.PREFIX_TUNING:
        return {"input_ids": ids, "past_key_values": prompt}
    embedded = cast(Any, model.word_embeddings)(ids)
    return {"inputs_embeds": torch.cat([cast(Tensor, prompt).to(embedded.dtype), embedded], dim=1)}
