"""A trained adapter as a file and back: saved and read as stock peft does, or folded into the model's weights."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import peft
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from qpa.adapters import plain_lora, whole
from qpa.adapters.bottleneck import CONFIG, PEFT_TYPE, WEIGHTS, BottleneckModel
from qpa.adapters.methods import AdaptedModel, adapted_modules, new_heads
from qpa.adapters.whole import WholeModel
from qpa.errors import ConfigError
from qpa.files import whole_folder


def initial_state(model: AdaptedModel) -> dict[str, Tensor]:
    """What peft would save of the adapter now, copied: where the base's weights were rewritten, export has to take it away again.

    Raises:
        ConfigError: there is something in it that has no part in plain LoRA.
    """
    state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(new_heads(model))}
    if other := [name for name in state if not name.endswith((plain_lora.A, plain_lora.B))]:
        start = cast(Any, model.active_peft_config).init_lora_weights
        problem = f"only linear layers have this start, and {other[0]} is of none; take it out of peft.target_modules"
        raise ConfigError("peft.init_lora_weights", start, problem)
    for name, layer in model.named_modules():
        for adapter, rank in layer.r.items() if isinstance(layer, LoraLayer) else ():
            most = len(cast(Any, layer.lora_A)[adapter].weight)
            if most < rank:
                raise ConfigError("peft.r", rank, f"this start has no more directions in {name} than its smaller width; at most {most}")
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def save_adapter(model: AdaptedModel, folder: Path, *, base_name: str | None, initial: dict[str, Tensor] | None = None) -> None:
    """Write a plain PEFT adapter of the published base: `adapter_config.json` and `adapter_model.safetensors`, naming the base model.

    Args:
        model: with the adapter.
        folder: where to.
        base_name: of the model it belongs to.
        initial: where putting the adapter on has rewritten the base, its `initial_state`.
    """
    model.peft_config["default"].base_model_name_or_path = base_name
    if isinstance(base := model.get_base_model(), PreTrainedModel):
        base.config.name_or_path = base_name or ""  # peft's model card would name the folder it was loaded from
    with whole_folder(folder) as scratch:
        if not isinstance(model, PeftModel):
            model.save_pretrained(str(scratch))
        else:
            model.save_pretrained(str(scratch), save_embedding_layers=False)  # "auto" would add a whole tied head
        if initial is not None:
            plain_lora.convert(scratch, initial)


def weights_file(folder: Path) -> Path:
    """Of a saved adapter."""
    return next(file for name in (whole.WEIGHTS, WEIGHTS) if (file := folder / name).is_file() or name == WEIGHTS)


def load_adapter(base: nn.Module, folder: Path) -> AdaptedModel:
    """A saved adapter on its base model, as stock peft reads it.

    Raises:
        ConfigError: the adapter is damaged, does not fit the model, or holds more than numbers.
    """
    try:
        kind = json.loads((folder / CONFIG).read_text())["peft_type"]
        if ours := {PEFT_TYPE: BottleneckModel, whole.PEFT_TYPE: WholeModel}.get(kind):
            return ours.from_pretrained(base, str(folder))
        return PeftModel.from_pretrained(cast(Any, base), str(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError, UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError("run", folder, f"its adapter cannot be read ({reason}); python -m qpa.export run=DIR makes it anew") from error


def merge(model: AdaptedModel) -> nn.Module:
    """Fold the adapter into the base weights.

    Modules that share a weight with others, as a head does with the input embedding, are given their own first: what is folded
    into one would change the others as well (peft #2018, #2864).

    Raises:
        ConfigError: the method does not work by changing weights, or peft cannot fold it in.
    """
    if isinstance(model, WholeModel):
        return model.unload()
    if not hasattr(model.base_model, "merge_and_unload"):
        name = type(model.peft_config["default"]).__name__
        raise ConfigError("merged", "true", f"{name} changes no weights that an adapter could be folded into; use the adapter itself")
    untie(model.get_base_model(), adapted_modules(model))
    try:
        return cast(Any, model.base_model).merge_and_unload()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ConfigError("merged", "true", f"{' '.join(str(error).split())} Use the adapter itself") from error


def untie(base: nn.Module, changing: Iterable[nn.Module]) -> None:
    """Give every module weights of its own, so that none is changed with another, nor tied to it again when the model is read.

    A head stays tied to the input embedding, as config.json says it is, where neither is among those that are `changing`.
    """
    uses = Counter(p.data_ptr() for module in base.modules() for p in module.parameters(recurse=False))
    tied = {p.data_ptr() for p in base.get_input_embeddings().parameters()} if isinstance(base, PreTrainedModel) else set()
    tied -= {p.data_ptr() for module in changing for p in module.parameters()}
    for module in base.modules():
        for name, parameter in module.named_parameters(recurse=False):
            place = parameter.data_ptr()
            if uses[place] > 1 and place not in tied:
                uses[place] -= 1
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
    if not tied and isinstance(base, PreTrainedModel):
        base.config.tie_word_embeddings = base.config.get_text_config().tie_word_embeddings = False


def same_outputs(ours: Tensor, theirs: Tensor, *, within: float) -> bool:
    """Whether two models say the same: outputs that differ by at most `within` of their spread."""
    ours, theirs = ours.float(), theirs.float()
    return ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= within * theirs.std())
