"""The heavy part of a run: build, fit, measure, export. Lightning's trainer enters here."""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from hydra.utils import instantiate
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from qpa import loggers, peft_model, record
from qpa.adaptation import DirectAdaptation
from qpa.assembly import assemble, load_base
from qpa.callbacks import StepClock, progress
from qpa.config import Config, TrainerConfig
from qpa.loaders import held_out_loader, train_loader
from qpa.quiet import quiet
from qpa.training import HELD_OUT, FineTuning, Measured


def run(
    config: Config, *, base_folder: Path | None, windows: dict[str, Dataset], folder: Path, checkpoint: Path | None, result: record.Record
) -> None:
    """Train, measure base and adapted model on the held-out windows, export the adapter, fill in the record."""
    quiet()
    assembly = assemble(config, base_folder)
    module = FineTuning(assembly.model, assembly.adaptation, optimizer=config.optimizer, steps=config.trainer.max_steps)
    clock, checkpoints = StepClock(), _checkpoints(folder)
    with loggers.opened(config, folder, job_type="train") as opened:
        trainer = make_trainer(config.trainer, folder, loggers=opened, callbacks=[clock, checkpoints])
        loggers.summarise(opened, assembly.parameters.metrics())
        fit(config, trainer, module, windows, checkpoints=checkpoints, resume_from=checkpoint)
        measure(config, trainer, module, windows)
        peft_model.save_adapter(assembly.model, folder / "adapter", base_name=config.model.path or config.model.hub)
        total = sum(p.numel() for p in assembly.model.parameters())
        counts = assembly.parameters.record()
        record.fill(result, config, folder, parameters=counts, measured=module.measured(), seconds=clock.seconds, total_params=total)
        loggers.summarise(opened, record.summary(result))


def fit(
    config: Config,
    trainer: Trainer,
    module: FineTuning,
    windows: dict[str, Dataset],
    *,
    checkpoints: ModelCheckpoint,
    resume_from: Path | None,
) -> None:
    """Train to `max_steps`, validate the last step too, and go back to the best step by validation perplexity."""
    from_step = torch.load(resume_from, weights_only=True)["global_step"] if resume_from else 0
    held_out = held_out_loader(config, windows["val"])
    trainer.fit(module, train_loader(config, windows["train"], from_step=from_step), held_out, ckpt_path=resume_from)
    best = Path(checkpoints.best_model_path) if checkpoints.best_model_path else None
    if trainer.global_step % config.trainer.val_every:
        (last,) = trainer.validate(module, held_out, verbose=False)
        if best is None or last["val/perplexity"] < checkpoints.best_model_score:  # pyright: ignore[reportOperatorIssue]
            best = _path(checkpoints, "best")
            trainer.save_checkpoint(best)
        trainer.save_checkpoint(_path(checkpoints, "last"))
    assert best is not None, "the last step was validated"
    module.load_state_dict(torch.load(best, weights_only=True)["state_dict"])


def evaluate(config: Config, *, base_folder: Path | None, windows: dict[str, Dataset], adapter: Path) -> Measured:
    """Measure a saved adapter on held-out windows."""
    quiet()
    model = peft_model.load_adapter(load_base(config, base_folder), adapter)
    module = FineTuning(model, DirectAdaptation({}), optimizer=config.optimizer, steps=1)
    trainer = make_trainer(config.trainer, adapter.parent, loggers=[], callbacks=[])
    measure(config, trainer, module, windows)
    return module.measured()


def measure(config: Config, trainer: Trainer, module: FineTuning, windows: dict[str, Dataset]) -> None:
    """Read the held-out windows with the adapter and without it; `module.measured()` holds what was found."""
    trainer.test(module, [held_out_loader(config, windows[split]) for split in HELD_OUT], verbose=False)


def make_trainer(settings: TrainerConfig, folder: Path, *, loggers: list, callbacks: list[Callback]) -> Trainer:
    """The Lightning trainer of config group `trainer`."""
    ours = {"_target_": settings.target, "max_steps": settings.max_steps, "accumulate_grad_batches": settings.accumulate_grad_batches}
    ours |= {"gradient_clip_val": settings.gradient_clip_val, "log_every_n_steps": settings.log_every_n_steps}
    live = settings.enable_progress_bar and sys.stdout.isatty()
    ours |= {"precision": settings.precision, "enable_progress_bar": live}
    return instantiate(
        settings.arguments() | ours,
        max_epochs=-1,
        val_check_interval=settings.val_every * settings.accumulate_grad_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        inference_mode=False,  # leaves bound under inference mode could not be trained afterwards
        use_distributed_sampler=False,  # the order of windows is ours
        enable_model_summary=False,
        default_root_dir=folder,
        logger=loggers,
        callbacks=[*callbacks, progress(live=live)],
    )


def _checkpoints(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best",
        monitor="val/perplexity",
        save_last=True,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )


def _path(checkpoints: ModelCheckpoint, name: str) -> Path:
    return Path(checkpoints.dirpath or "") / f"{name}.ckpt"
