"""A training run from config to closing table: check, prepare, train, measure, export, record."""

import shutil
from pathlib import Path

from qpa import preflight, record, source, table, text, tokenizer
from qpa.config import Config
from qpa.errors import ConfigError


def train(config: Config) -> None:
    """Run one config, or show its result if it has finished before.

    Raises:
        UserError: something in the config or the data cannot work, or the loss was not finite.
    """
    folder = config.folder
    if record.finished(folder, config) and not config.force:
        print(f"Finished before (force=true runs it again): {folder}")
        table.show(record.read(folder), folder)
        return
    _refuse_other_runs(folder, config)
    checkpoint = _checkpoint(folder, config)
    preflight.check(config)
    texts = text.read(config.data)
    _open(folder, config, keep=checkpoint is not None)
    with record.writing(folder, config) as result:
        base_folder = source.folder(config)
        encoder = tokenizer.load(base_folder)
        from qpa import data, job  # datasets, torch, transformers and Lightning: seconds

        windows = data.windows(config, texts, encoder, source.cache_folder(config))
        job.run(config, base_folder=base_folder, windows=windows, folder=folder, checkpoint=checkpoint, result=result)
    table.show(record.read(folder), folder)


def _refuse_other_runs(folder: Path, config: Config) -> None:
    if record.finished(folder) and not record.finished(folder, config) and not config.force and config.ckpt is None:
        raise ConfigError(
            "run_dir",
            folder,
            "holds a finished run of another config; choose another folder, ckpt=last to go on from it, or force=true to replace it",
        )


def _checkpoint(folder: Path, config: Config) -> Path | None:
    if config.ckpt is None:
        return None
    path = folder / "checkpoints" / "last.ckpt" if config.ckpt == "last" else Path(config.ckpt)
    if not path.is_file():
        raise ConfigError("ckpt", config.ckpt, f"there is no {path}; leave ckpt out to start from the beginning")
    return path


def _open(folder: Path, config: Config, *, keep: bool) -> None:
    """Make the run's folder; a run from the beginning replaces the checkpoints and records of an earlier try."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not keep:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            for name in ("metrics.csv", record.RESULT, record.WANDB_ID):
                (folder / name).unlink(missing_ok=True)
        record.save_config(folder, config)
    except OSError as error:
        raise ConfigError("run_dir", folder, f"cannot be written ({error.strerror})") from error
