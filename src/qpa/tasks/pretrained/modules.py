"""The linear modules of a causal LM and the tensors a PEFT method puts on them, from the model's config alone.

Reading them off the numbers of the config takes no import of torch or transformers, so that a wrong `peft.target_modules`
or an impossible circuit answers at once. A test holds these tables equal to the real models built by transformers.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qpa.core.layout import AdapterTensor
from qpa.errors import ConfigError

# The types with Llama's modules, and what such a config may leave out: hidden / heads, and as many keys as heads. Of what else is
# left out transformers has defaults of its own for every type.
LLAMA_LIKE: dict[str, tuple[str, ...]] = {
    "llama": ("head_dim", "num_key_value_heads"),
    "mistral": ("head_dim",),
    "qwen2": ("head_dim",),
    "qwen3": (),
    "gemma": (),
    "gemma2": (),
    "gemma3_text": (),
}
DEPTH_KEY = {"gpt2": "n_layer"}  # all others: num_hidden_layers
HEAD = "lm_head"
HEADS_OF_LABELS = ["classifier", "score"]  # as transformers names them: peft looks for the same two
EMBEDDINGS = ("model.embed_tokens", "transformer.wte", "transformer.wpe")
PEFT_PREFIX = "base_model.model."  # before the names of a model's own modules, once peft has wrapped it
UNILORA_KEYS = {"_target_", "task_type", "target_modules", "r", "theta_d_length"}
UNILORA_LENGTH = 256  # peft's default
COUNTED_LORA_KEYS = {"_target_", "task_type", "target_modules", "r", "lora_alpha", "lora_dropout", "use_dora"}


@dataclass(frozen=True)
class Linear:
    """A linear module: its name in the model, numbers in and numbers out."""

    name: str
    inputs: int
    outputs: int


def depth_key(architecture: Mapping[str, Any]) -> str:
    """The config key that holds the number of layers."""
    return DEPTH_KEY.get(architecture.get("model_type", ""), "num_hidden_layers")


def position_key(architecture: Mapping[str, Any]) -> str:
    """The config key that holds how many tokens the model reads at most."""
    return "n_positions" if architecture.get("model_type") == "gpt2" else "max_position_embeddings"


def linear_modules(architecture: Mapping[str, Any], num_layers: int | None) -> list[Linear] | None:
    """Every linear module in forward order, or None where our table does not know this model type, or a size that is left out."""
    kind = architecture.get("model_type")
    layers = num_layers or architecture.get(depth_key(architecture))
    if kind in LLAMA_LIKE:
        if not all(architecture.get(key) or key in LLAMA_LIKE[kind] for key in ("head_dim", "num_key_value_heads")):
            return None
        block, prefix = _llama_block(architecture), "model.layers"
        head = Linear(HEAD, architecture["hidden_size"], architecture["vocab_size"])
    elif kind == "gpt2":
        block, prefix = _gpt2_block(architecture["n_embd"], architecture.get("n_inner")), "transformer.h"
        head = Linear(HEAD, architecture["n_embd"], architecture["vocab_size"])
    else:
        return None
    return [Linear(f"{prefix}.{i}.{m.name}", m.inputs, m.outputs) for i in range(layers or 0) for m in block] + [head]


def _llama_block(a: Mapping[str, Any]) -> list[Linear]:
    hidden, heads = a["hidden_size"], a["num_attention_heads"]
    head_dim = a.get("head_dim") or hidden // heads
    keys = (a.get("num_key_value_heads") or heads) * head_dim
    return [
        Linear("self_attn.q_proj", hidden, heads * head_dim),
        Linear("self_attn.k_proj", hidden, keys),
        Linear("self_attn.v_proj", hidden, keys),
        Linear("self_attn.o_proj", heads * head_dim, hidden),
        Linear("mlp.gate_proj", hidden, a["intermediate_size"]),
        Linear("mlp.up_proj", hidden, a["intermediate_size"]),
        Linear("mlp.down_proj", a["intermediate_size"], hidden),
    ]


def _gpt2_block(hidden: int, inner: int | None) -> list[Linear]:
    inner = inner or 4 * hidden
    return [
        Linear("attn.c_attn", hidden, 3 * hidden),
        Linear("attn.c_proj", hidden, hidden),
        Linear("mlp.c_fc", hidden, inner),
        Linear("mlp.c_proj", inner, hidden),
    ]


def select(modules: list[Linear], target_modules: object) -> list[Linear]:
    """The modules that peft would adapt, by peft's own rules for `target_modules`; none where an embedding is among them.

    Raises:
        ConfigError: nothing matches; the text lists the names there are.
    """
    if not isinstance(target_modules, str | list) or not target_modules or not all(isinstance(name, str) for name in target_modules):
        raise ConfigError("peft.target_modules", target_modules, "should be all-linear, a list of module names, or a regular expression")
    if target_modules == "all-linear":
        return [m for m in modules if m.name != HEAD]
    if any(_targeted(name, target_modules) for name in EMBEDDINGS):
        return []  # not linear, so not in this table: peft knows them
    chosen = [m for m in modules if _targeted(m.name, target_modules)]
    if not chosen:
        names = sorted({m.name.rsplit(".", 1)[-1] for m in modules})
        raise ConfigError(
            "peft.target_modules", target_modules, f"matches no module of this model; there are {', '.join(names)}, and all-linear"
        )
    return chosen


def _targeted(name: str, target_modules: str | list[str]) -> bool:
    """Whether peft adapts a module of this name."""
    if isinstance(target_modules, list):
        return any(name == target or name.endswith("." + target) for target in target_modules)
    try:
        return re.fullmatch(target_modules, name) is not None
    except re.error as error:
        raise ConfigError("peft.target_modules", target_modules, f"no regular expression ({error}); or give a list of names") from error


def lora_tensors(modules: list[Linear], peft: Mapping[str, Any]) -> list[AdapterTensor] | None:
    """The tensors LoRA or DoRA puts on `modules`, or None where the config asks for more than this table knows."""
    if peft.get("_target_") != "peft.LoraConfig" or not set(peft) <= COUNTED_LORA_KEYS:
        return None
    rank = peft.get("r")
    if not isinstance(rank, int) or rank < 1:
        raise ConfigError("peft.r", rank, "should be an integer of at least 1")
    return [tensor for m in modules for tensor in _lora(m, rank, dora=bool(peft.get("use_dora")))]


def _lora(module: Linear, rank: int, *, dora: bool) -> Iterator[AdapterTensor]:
    """Of one module, under peft's names."""
    name = PEFT_PREFIX + module.name
    yield AdapterTensor(f"{name}.lora_A.default.weight", (rank, module.inputs), name)
    yield AdapterTensor(f"{name}.lora_B.default.weight", (module.outputs, rank), name)
    if dora:
        yield AdapterTensor(f"{name}.lora_magnitude_vector.default.weight", (module.outputs,), name)


def unilora_tensors(modules: list[Linear], peft: Mapping[str, Any]) -> list[AdapterTensor] | None:
    """Uni-LoRA's one vector, which all modules share, or None where the config asks for another method or for more."""
    if peft.get("_target_") != "peft.UniLoraConfig" or not set(peft) <= UNILORA_KEYS:
        return None
    length = peft.get("theta_d_length", UNILORA_LENGTH)
    if not isinstance(length, int) or length < 1:
        raise ConfigError("peft.theta_d_length", length, "should be an integer of at least 1")
    name = PEFT_PREFIX + modules[0].name
    return [AdapterTensor(f"{name}.unilora_theta_d.default", (length,), name)]
