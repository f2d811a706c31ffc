"""Settings of peft that reach into the base model's own weights: some train a few of them, some rewrite them, some cannot work here.

Both are kept right by what a run measures and exports: the base as published, and the saved adapter on it (`qpa.runs.measurement`).
"""

from collections.abc import Mapping
from typing import Any

from qpa.errors import ConfigError

TRAINING = ("modules_to_save", "trainable_token_indices")  # settings that train weights of the base
TRAINERS = ("peft.LNTuningConfig", "peft.TrainableTokensConfig", "qpa.adapters.whole.WholeConfig")  # methods that do nothing else
REWRITING = ("pissa", "olora")  # starts that take their own part out of the base's weights (`qpa.adapters.plain_lora`)
ALONE = ("use_dora", *TRAINING, "bias", "lora_bias", "layer_replication")  # what is no part of plain LoRA
FROM_DATA = ("eva", "corda", "lora_ga")


def trains_base(peft: Mapping[str, Any]) -> bool:
    """Whether the method trains weights of the base model itself, which then have to be in fp32."""
    return peft.get("bias", "none") != "none" or peft.get("_target_") in TRAINERS or any(peft.get(key) for key in TRAINING)


def rewrites_base(peft: Mapping[str, Any]) -> bool:
    """Whether putting the adapter on changes weights of the base model."""
    return _start(peft).startswith(REWRITING)


def changes_base(peft: Mapping[str, Any]) -> bool:
    """Whether weights of the base model come to be others, in either way: they need memory of their own, and fp32."""
    return trains_base(peft) or rewrites_base(peft)


def check(peft: Mapping[str, Any]) -> None:
    """Refuse what could not be exported as an adapter of the published model, or would silently be something else.

    Raises:
        ConfigError: what, and what to take instead.
    """
    start, key = _start(peft), "peft.init_lora_weights"
    saved = peft.get("modules_to_save")
    if saved is not None and not isinstance(saved, list):
        raise ConfigError("peft.modules_to_save", saved, "should be a list of module names, as [lm_head]")
    if start == "loftq":
        raise ConfigError(key, start, "rounds the base model's weights, so that its adapter fits no published model; leave it out")
    if start in FROM_DATA:
        problem = "needs statistics of a text that peft collects beforehand, which is not done here; choose pissa, olora or true"
        raise ConfigError(key, start, problem)
    beside = [name for name in ALONE if peft.get(name) not in (None, False, "none", [])]
    if rewrites_base(peft) and beside:
        problem = f"is exported as plain LoRA of the published model, which has no part for peft.{beside[0]}; leave one of them out"
        raise ConfigError(key, start, problem)


def check_numbers(peft: Mapping[str, Any], *, dtype: str, quantization: str | None) -> None:
    """Refuse numbers that a method which changes the base's weights would round away.

    Args:
        peft: config group `peft`.
        dtype: of the base model's weights, `auto` where it is still to be chosen.
        quantization: of the base model's weights.

    Raises:
        ConfigError: what, and what to take instead.
    """
    if rewrites_base(peft) and quantization:
        problem = f"peft.init_lora_weights={_start(peft)} rewrites the weights; leave one of them out"
        raise ConfigError("model.quantization", quantization, problem)
    if dtype == "bfloat16" and changes_base(peft):
        raise ConfigError("model.dtype", dtype, "this peft changes weights of the base model, which bf16 would round; give float32 or auto")


def _start(peft: Mapping[str, Any]) -> str:
    return str(peft.get("init_lora_weights", "")).lower()
