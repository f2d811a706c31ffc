"""LoRA whose start has rewritten the base's weights (PiSSA, OLoRA), as plain LoRA of the base as it is published.

Putting such an adapter on leaves `W - s B0 A0` in the base. After training the model is `W - s B0 A0 + s B A`, which is plain LoRA
of twice the rank: `W + s [B, -B0] [A; A0]`. peft can convert so as well, but asks the hub about the base model on the way.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

A, B = "lora_A.weight", "lora_B.weight"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def convert(folder: Path, initial: dict[str, Tensor]) -> None:
    """Rewrite a saved adapter; `initial` are LoRA's tensors as they were when it was put on, by their names there."""
    trained = load_file(folder / WEIGHTS)
    joined = {name: _joined(name, tensor, initial[name].to(tensor)) for name, tensor in trained.items() if name in initial}
    save_file(trained | joined, folder / WEIGHTS, metadata={"format": "pt"})
    settings = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(settings | _of_twice_the_rank(settings), indent=2) + "\n")


def _joined(name: str, trained: Tensor, initial: Tensor) -> Tensor:
    if name.endswith(A):
        return torch.cat([trained, initial], dim=0).contiguous()
    return torch.cat([trained, -initial], dim=1).contiguous()


def _of_twice_the_rank(settings: dict[str, Any]) -> dict[str, Any]:
    """The same scale `s`: `alpha / r`, or of rank-stabilised LoRA `alpha / sqrt(r)`."""
    more = 2**0.5 if settings["use_rslora"] else 2
    return {
        "init_lora_weights": True,
        "r": 2 * settings["r"],
        "lora_alpha": more * settings["lora_alpha"],
        "rank_pattern": {module: 2 * rank for module, rank in settings["rank_pattern"].items()},
        "alpha_pattern": {module: more * alpha for module, alpha in settings["alpha_pattern"].items()},
    }
