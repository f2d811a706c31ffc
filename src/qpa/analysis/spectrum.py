"""Singular values of a run's weight updates `alpha / r B A`, beside those of plain LoRA (of DoRA without its magnitudes).

Reads the exported adapters alone.
"""

import math
from pathlib import Path
from typing import Any

import torch
from plotly import graph_objects as go
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from qpa.config import AnalysisConfig
from qpa.errors import ConfigError
from qpa.files import read_json


def analyse(settings: AnalysisConfig) -> tuple[dict[str, Any], go.Figure]:
    """By run, the mean singular values of all modules' updates, and their effective rank `exp(entropy)` (Roy and Vetterli 2007)."""
    folders = [folder for folder in (settings.run, settings.baseline) if folder]
    found = {folder: summary(spectra(Path(folder))) for folder in folders}
    return found, figure(found)


def figure(found: dict[str, dict[str, Any]]) -> go.Figure:
    """A line for each run."""
    drawn = go.Figure()
    for name, numbers in found.items():
        values = numbers["singular_values"]
        drawn.add_scatter(x=list(range(1, len(values) + 1)), y=values, name=name, mode="lines+markers")
    longest = max(len(numbers["singular_values"]) for numbers in found.values())
    drawn.update_xaxes(title="number of the singular value", dtick=math.ceil(longest / 16))
    drawn.update_yaxes(title="share of the norm, mean over modules", type="log", exponentformat="power", dtick=1)
    drawn.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})  # folders' names are long
    return drawn.update_layout(template="plotly_white", height=420, showlegend=True, margin_t=30)


def spectra(folder: Path) -> dict[str, Tensor]:
    """Of a run's exported adapter, in the size that it is added in.

    Raises:
        ConfigError: the folder has no LoRA adapter, or one that changes nothing.
    """
    file = folder / "adapter" / "adapter_model.safetensors"
    try:
        found = spectra_of(load_file(file)) if file.is_file() else {}
    except (SafetensorError, KeyError) as error:
        raise ConfigError("run", folder, f"its adapter is damaged ({error}); python -m qpa.export run=DIR makes it again") from error
    if not any(values.any() for values in found.values()):
        raise ConfigError("run", folder, "has no exported LoRA or DoRA adapter that changes something")
    settings = read_json(file.parent / "adapter_config.json")
    return {name: values * _scale(settings, rank=len(values)) for name, values in found.items()}


def _scale(settings: dict[str, Any], *, rank: int) -> float:
    """What peft multiplies a module's `B A` by; its `alpha_pattern` is not looked at."""
    return settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def spectra_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """By module, the `r` singular values of `B A`, largest first."""
    found = {}
    for name, down in tensors.items():
        if name.endswith("lora_A.weight"):
            up = tensors[name.replace("lora_A", "lora_B")]
            factors = torch.linalg.qr(up.double()).R @ torch.linalg.qr(down.double().mT).R.mT  # has the same singular values
            found[name.removesuffix(".lora_A.weight")] = torch.linalg.svdvals(factors)
    return found


def summary(modules: dict[str, Tensor]) -> dict[str, Any]:
    """Over modules: mean share of each singular value, mean norm, mean effective rank."""
    values = torch.nn.utils.rnn.pad_sequence(list(modules.values()), batch_first=True)
    norms = values.norm(dim=1)
    values, norms = values[norms > 0], norms[norms > 0]
    shares = values / values.sum(1, keepdim=True)
    return {
        "singular_values": (values / norms[:, None]).mean(0).tolist(),
        "frobenius_norm": float(norms.mean()),
        "effective_rank": float(torch.special.entr(shares).sum(1).exp().mean()),
        "modules": len(values),
    }
