"""Lightning's Trainer as a run uses it."""

import sys
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from pytorch_lightning import Callback, Trainer

from qpa.config import TrainerConfig
from qpa.config.context import Context
from qpa.errors import ConfigError
from qpa.tasks.task import Metric
from qpa.training.callbacks import progress
from qpa.training.checkpoints import WholeFiles
from qpa.training.strategy import GradientsOnly


def make_trainer(
    settings: TrainerConfig, folder: Path, *, steps: int, context: Context, metric: Metric, callbacks: list[Callback]
) -> Trainer:
    """The trainer of config group `trainer`; it writes nothing before it fits, and logs nowhere until it is given loggers.

    Args:
        settings: the group.
        folder: of the run.
        steps: of the optimizer in a whole run.
        context: of the run.
        metric: the task's.
        callbacks: what watches it beside the progress display.

    Raises:
        ConfigError: Lightning refuses the settings; its own words are in the text.
    """
    terminal = sys.stdout.isatty()
    live = settings.enable_progress_bar and terminal and context.sweep is None and context.first
    shown = [progress(metric, live=live)] if context.first and (live or not terminal) else []
    try:
        return instantiate(_theirs(settings, live=live), **_ours(settings, folder, steps), callbacks=[*callbacks, *shown])
    except InstantiationException as error:
        raise ConfigError("trainer", settings.target, " ".join(str(error.__cause__ or error).split())) from error


def _theirs(settings: TrainerConfig, *, live: bool) -> dict[str, Any]:
    """What the config says under Lightning's own names."""
    named = ("accumulate_grad_batches", "gradient_clip_val", "log_every_n_steps", "precision", "accelerator")
    named = (*named, "devices", "num_nodes")
    said = {name: getattr(settings, name) for name in named}
    return settings.arguments() | said | {"_target_": settings.target, "enable_progress_bar": live}


def _ours(settings: TrainerConfig, folder: Path, steps: int) -> dict[str, Any]:
    return {
        "max_steps": steps,
        "max_epochs": -1,  # passes over the data are steps by now
        "val_check_interval": settings.val_every * settings.accumulate_grad_batches,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "inference_mode": False,  # what is made under it could not be trained with afterwards
        "use_distributed_sampler": False,  # the order of examples is ours
        "enable_model_summary": False,
        "default_root_dir": folder,
        "plugins": [WholeFiles(), *([TorchElasticEnvironment()] if settings.together else [])],
        "strategy": GradientsOnly() if settings.together else "auto",
        "logger": [],
    }
