"""The Fourier neural operator, as the package neuraloperator has it: from the seed, or one that a run of ours has trained."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from qpa.config import OperatorConfig
from qpa.errors import ConfigError, line
from qpa.tasks.operators.earlier import WEIGHTS


def fno(model: OperatorConfig, dimensions: int, folder: Path | None, *, seed: int, device: torch.device) -> nn.Module:
    """An operator from one function to another.

    Args:
        model: config group `model`.
        dimensions: of what the functions are of.
        folder: of a trained one's file; None: its weights are drawn from the seed, on the CPU.
        seed: of them.
        device: where to; on the meta device it has shapes without weights.

    Raises:
        ConfigError: the file is of another network.
    """
    from neuralop.models import FNO

    meta = device.type == "meta"
    with torch.random.fork_rng(devices=[]), torch.device("meta" if meta else "cpu"):
        torch.manual_seed(seed)
        found = FNO(n_modes=(model.modes,) * dimensions, in_channels=1, out_channels=1, hidden_channels=model.hidden, n_layers=model.layers)
    if folder and not meta:
        try:
            found.load_state_dict(load_file(folder / WEIGHTS))
        except (RuntimeError, SafetensorError) as error:
            raise ConfigError("model.path", model.path, f"its weights are damaged, or of another network ({line(error)})") from error
    return found.to(device).requires_grad_(False).eval()
