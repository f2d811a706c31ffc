"""PEFT methods on a model: peft's, bottleneck adapters and whole networks, which offer the same few methods (`bottleneck`, `whole`)."""

import copy
import pkgutil
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import peft
import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from qpa.adapters.bottleneck import CONFIG, Bottleneck, BottleneckConfig, BottleneckModel, is_of_bottleneck, read_bottleneck_config
from qpa.adapters.whole import WholeConfig, WholeModel, read_whole_config, saved_tensors
from qpa.core.draws import SameEverywhere
from qpa.core.generator import real_shape
from qpa.core.layout import NUMBER, AdapterTensor
from qpa.errors import ConfigError, UserError, line

AdaptedModel = PeftModel | BottleneckModel | WholeModel
AdapterConfig = PeftConfig | BottleneckConfig | WholeConfig
ADAPTED = (BaseTunerLayer, AuxiliaryTrainingWrapper, Bottleneck)
BEYOND_MODULES = ("alora_invocation_tokens", "kasa_config", "monteclora_config")  # of LoraConfig: a mask, and losses to be added
ALL_LINEAR, LAYERS = "all-linear", "layers_to_transform"
NAMES_AND_VERSIONS = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version")  # of any config
HEADS = (peft.TaskType.SEQ_CLS, peft.TaskType.TOKEN_CLS)  # whose heads peft saves, under whichever of two names they have
NEW = "_qpa_new_heads"  # an attribute of a base model
PROMPTS = (peft.PeftType.PREFIX_TUNING, peft.PeftType.PROMPT_TUNING, peft.PeftType.P_TUNING)


def make_config(settings: dict[str, Any]) -> AdapterConfig:
    """The PEFT method's config that config group `peft` names.

    Raises:
        ConfigError: peft refuses the settings; its own words are in the text.
    """
    chosen = {LAYERS} if settings.get("target_modules") == ALL_LINEAR else set()  # which peft does not take together
    try:
        kind = pkgutil.resolve_name(str(settings["_target_"]))
        config = kind(**{key: value for key, value in settings.items() if key not in (*chosen, "_target_")})
    except (AttributeError, ValueError, TypeError) as error:
        raise ConfigError("peft", settings["_target_"], " ".join(str(error).split())) from error
    if chosen & settings.keys():
        setattr(config, LAYERS, settings[LAYERS])
    return config


def wrap(base: nn.Module, config: AdapterConfig, *, seed: int) -> AdaptedModel:
    """Put the adapter on the base model, its initial weights drawn from `seed`, and switch everything to training mode.

    Some starts rewrite weights of the base, in their place: `base` has to be the run's own then (`base_weights.rewrites_base`).

    Raises:
        ConfigError: the method cannot be put on this model; peft's own words are in the text.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), SameEverywhere():
        torch.manual_seed(seed)
        model = put_on(base, config)
    _exact_magnitudes(model)
    _check_precision(model)
    return model.train()  # loaded models arrive in eval mode, where gradient checkpointing silently does nothing


def planned(skeleton: Callable[[], nn.Module], config: AdapterConfig) -> tuple[list[AdapterTensor], int]:
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
                model = put_on(skeleton(), config)
        except NotImplementedError:
            model = _planned_on_cpu(skeleton(), config)
    tensors = adapter_tensors(model)
    saved = tensors_saved(model)
    return tensors, saved or sum(t.size for t in tensors) * torch.float32.itemsize


def _planned_on_cpu(skeleton: nn.Module, config: AdapterConfig) -> AdaptedModel:
    """Uni-LoRA counts its indices, which the meta device cannot: they are made on the CPU."""
    try:
        return put_on(skeleton, config)
    except NotImplementedError as error:
        raise ConfigError("peft", type(config).__name__, f"cannot be put on this model ({error}); choose another method") from error


def tensors_saved(model: AdaptedModel) -> int:
    """Bytes of all tensors that peft saves of an adapter that is put on modules; 0 for prompts, which it makes when it saves."""
    if isinstance(model, WholeModel):
        return sum(tensor.numel() * tensor.itemsize for tensor in saved_tensors(model.get_base_model()).values())
    if isinstance(model, BottleneckModel) or model.active_peft_config.is_prompt_learning:
        return 0
    saved = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    return sum(tensor.numel() * tensor.itemsize for tensor in saved.values())


def put_on(base: nn.Module, config: AdapterConfig, *, name: str = "default") -> AdaptedModel:
    """Put an adapter on, its initial weights drawn from torch's random state.

    Raises:
        ConfigError: as for `wrap`.
    """
    if getattr(config, "target_modules", None) == ALL_LINEAR and getattr(config, LAYERS, None) is not None:
        _name_modules(base, cast(Any, config))
    try:
        if isinstance(config, BottleneckConfig):
            return BottleneckModel(base, config)
        if isinstance(config, WholeConfig):
            return WholeModel(base, config)
        model = cast(PeftModel, peft.get_peft_model(cast(Any, base), config, name))
    except NotImplementedError:
        raise
    except (ValueError, TypeError, RuntimeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ConfigError("peft", type(config).__name__, " ".join(str(error).split())) from error
    _check_saved(model.active_peft_config)
    for name in () if config.task_type in HEADS else getattr(config, "modules_to_save", None) or ():
        if not any(isinstance(m, AuxiliaryTrainingWrapper) and n.endswith(name) for n, m in model.named_modules()):
            raise ConfigError("peft.modules_to_save", name, "this model has no such module; leave it out")
    if _has_own_forward(model):
        problem = "does more in peft's forward pass or loss than its modules do, and would be trained without it"
        raise ConfigError("peft", type(config).__name__, f"{problem}; choose another method")
    return model


def _name_modules(base: nn.Module, config: Any) -> None:
    """Of all linear modules those of some layers, as a list of names: so peft takes them, and reads them back."""
    layers = config.layers_to_transform
    wanted = set(layers) if isinstance(layers, list) else {layers}
    head = getattr(base, "get_output_embeddings", lambda: None)()
    linear = [name for name, module in base.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head]
    by_layer = {name: int(found[1]) for name in linear if (found := re.search(NUMBER, name))}
    if absent := wanted - set(by_layer.values()):
        problem = f"this model has no layer {min(absent, key=str)}; it has 0 to {max(by_layer.values(), default=0)}"
        raise ConfigError(f"peft.{LAYERS}", layers, problem)
    config.target_modules, config.layers_to_transform = [name for name, layer in by_layer.items() if layer in wanted], None


def _check_saved(config: PeftConfig) -> None:
    """Refuse what peft would write but not read again: IA3's default feedforward_modules on some models."""
    with tempfile.TemporaryDirectory() as place:
        config.save_pretrained(place)
        try:
            PeftConfig.from_pretrained(place)
        except (ValueError, TypeError, KeyError) as error:
            problem = f"peft could not read its own adapter ({' '.join(str(error).split())}); change that setting"
            raise ConfigError("peft", type(config).__name__, problem) from error


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
            if name not in layer.lora_B or layer.get_base_layer().weight.ndim != 2:  # pyright: ignore[reportAttributeAccessIssue]
                continue  # an embedding or a convolution: peft does not round its magnitude
            weight = dequantize_module_weight(layer.get_base_layer()).float()
            update = cast(Tensor, layer.lora_B[name].weight) @ cast(Tensor, layer.lora_A[name].weight)
            norm = cast(DoraLinearLayer, magnitude).get_weight_norm(weight, update.detach(), layer.scaling[name])
            cast(nn.Parameter, magnitude.weight).data.copy_(norm)


def _check_precision(model: AdaptedModel) -> None:
    """Refuse to train in bf16, where small updates are rounded away: peft has fp32 for its own tensors, but not for the base's."""
    for name, parameter in adapter_parameters(model).items():
        if parameter.dtype not in (torch.float32, torch.complex64):
            given = str(parameter.dtype).removeprefix("torch.")
            raise ConfigError("model.dtype", given, f"{name} is a weight of the base model and would be trained in it; give float32")


def save_config(model: AdaptedModel, folder: Path) -> None:
    """Write the PEFT method's own config file, as it is beside a saved adapter."""
    if not isinstance(model, PeftModel):
        model.save_config(folder)
        return
    config = copy.copy(model.active_peft_config)
    config.inference_mode = True
    config.save_pretrained(str(folder))


def read_config(folder: Path) -> AdapterConfig | None:
    """The config in a folder, None where it holds none.

    Raises:
        UserError: it cannot be read.
    """
    if not (folder / CONFIG).is_file():
        return None
    try:
        return read_bottleneck_config(folder) or read_whole_config(folder) or PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: its {CONFIG} cannot be read ({line(error)}); copy or save it again") from error


def is_adapted(model: nn.Module) -> bool:
    """Whether some adapter is in a model's modules, which another would then be added to."""
    hooks = (hook for module in model.modules() for hook in module._forward_hooks.values())
    return any(isinstance(module, ADAPTED) for module in model.modules()) or any(map(is_of_bottleneck, hooks))


def is_merged(model: nn.Module) -> bool:
    """Whether an adapter has been folded into the weights of the modules that it is on."""
    return any(isinstance(module, BaseTunerLayer) and module.merged for module in model.modules())


def meaning(config: Mapping[str, Any]) -> dict[str, str]:
    """Of a PEFT config's values those that its adapter depends on, comparable whether they come from a file or not."""
    plain = {key: sorted(map(str, value)) if isinstance(value, set | list | tuple) else value for key, value in config.items()}
    return {key: str(getattr(value, "value", value)) for key, value in sorted(plain.items()) if key not in NAMES_AND_VERSIONS}


def frozen(model: AdaptedModel) -> AdaptedModel:
    """A model as stock peft gives it back, ready to be used and not to be trained."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if isinstance(model, PeftModel):
        model.active_peft_config.inference_mode = True
    return model.eval()


def adapter_parameters(model: AdaptedModel) -> dict[str, nn.Parameter]:
    """What the PEFT method trains, by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def total_parameters(model: nn.Module) -> int:
    """How many numbers a model has; a byte holds two that are quantised, and a complex one is two."""
    return sum(p.numel() if p.is_floating_point() else 2 * p.numel() for p in model.parameters())


def adapter_tensors(model: AdaptedModel, parameters: Mapping[str, nn.Parameter] | None = None) -> list[AdapterTensor]:
    """Shapes of `adapter_parameters`, or of some of them, each with the module it adapts."""
    parameters = adapter_parameters(model) if parameters is None else parameters
    adapted = sorted((name for name, m in model.named_modules() if isinstance(m, ADAPTED)), key=len, reverse=True)

    def module(name: str) -> str:
        return next((a for a in adapted if name.startswith(a + ".")), name.rsplit(".", 1)[0])

    new, along = new_heads(model), "first" if isinstance(model, WholeModel) else "longer"
    return [AdapterTensor(name, real_shape(p), module(name), name.startswith(new), along) for name, p in parameters.items()]


def new_heads(model: AdaptedModel) -> tuple[str, ...]:
    """What the names of a new head's tensors begin with: of a method for labels all that it trains as a copy of its own.

    So it is what peft itself adds to the adapter then, and what else is named in `modules_to_save`. Of a model that says so itself
    (`marked_new`), what is trained so of the modules that it names: peft has no word for images with labels.
    """
    if isinstance(model, BottleneckModel | WholeModel):
        return tuple(f"base_model.{name}." for name in model.heads)
    if not isinstance(model, PeftModel):
        return ()
    copies = [name for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    if any(config.task_type in HEADS for config in model.peft_config.values()):
        return tuple(f"{name}." for name in copies)
    marked = getattr(model.get_base_model(), NEW, ())
    return tuple(f"{name}." for name in copies if name.removeprefix("base_model.model.") in marked)


def marked_new(base: nn.Module, names: Sequence[str]) -> None:
    """Have a model say which of its modules are a new head."""
    setattr(base, NEW, tuple(names))


def statistics(model: AdaptedModel) -> list[str]:
    """Names of the base's buffers that are trained with it: a network's that is trained whole."""
    return model.statistics() if isinstance(model, WholeModel) else []


def adapted_modules(model: AdaptedModel) -> set[nn.Module]:
    """The modules that the method has put something on, each once; for prompt learning what makes the prompts."""
    found: set[nn.Module] = {module for module in model.modules() if isinstance(module, ADAPTED)}
    return found | set(getattr(model, "prompt_encoder", {}).values())


def replicates_layers(model: AdaptedModel) -> bool:
    """Whether the method has given the base model more layers than it had."""
    return getattr(model.peft_config["default"], "layer_replication", None) is not None


def prompt_arguments(model: AdaptedModel | PreTrainedModel, ids: Tensor) -> dict[str, Any]:
    """What the base model is called with: the ids, and in prompt learning the learned vectors before them.

    peft's own forward does the same and adds only masks for padding on the left, which our windows do not have.
    """
    if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
        return {"input_ids": ids}
    tokens = cast(Any, model).prompt_tokens  # peft leaves them on the CPU, copies them at each call, and a GPU is waited for
    tokens[model.active_adapter] = tokens[model.active_adapter].to(ids.device)
    prompt = model.get_prompt(batch_size=len(ids))
    if model.active_peft_config.peft_type == peft.PeftType.PREFIX_TUNING:
        return {"input_ids": ids, "past_key_values": prompt}
    embedded = cast(Any, model.word_embeddings)(ids)
    return {"inputs_embeds": torch.cat([cast(Tensor, prompt).to(embedded.dtype), embedded], dim=1)}
