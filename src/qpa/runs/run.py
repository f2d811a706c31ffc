"""A training run from config to closing table: check, prepare, train, measure, export, record."""

import glob
import os
import shutil
from contextlib import suppress
from pathlib import Path

from qpa.config import Config
from qpa.errors import ConfigError
from qpa.files import locked, write_json
from qpa.runs import baseline, preflight, record, table
from qpa.tasks.language import hub_data, source, text, tokenizer
from qpa.training import processes as launch


def train(config: Config) -> None:
    """Run one config, or show its result if it has finished before.

    Raises:
        UserError: something in the config or the data cannot work, or the loss was not finite.
    """
    config = ready(config)
    baseline.check(config)
    folder = config.folder
    if config.trainer.strategy == "ddp" and not launch.started():
        _start_processes(config)
        return
    launch.end_with_parent()
    if launch.rank() > 0:
        if not record.finished(folder, config) or config.force:
            _take_part(config, folder, {"qpa": {}})
        return
    _make(folder)
    with locked(folder, wait=record.in_sweep()):  # two jobs of a sweep may be one run, as LoRA with several mapper widths
        if record.finished(folder, config) and not config.force:
            print(f"Finished before (force=true runs it again): {folder}")
            result = record.read(folder)
            if config.baseline:
                baseline.compare(config, result)
                write_json(folder / record.RESULT, result)
            table.show(result, folder)
            return
        _claim(folder, config)
        _train(config, folder)


def ready(config: Config) -> Config:
    """The config with what this machine decides written into it, which a run's folder is named by too.

    Raises:
        ConfigError: something in it cannot work.
    """
    preflight.check(config)
    source.cache_folder(config)
    if config.data.source == "hub":
        hub_data.check(config.data)
    else:
        text.read(config.data)
    from qpa.runs import numerics  # torch: a second

    return numerics.resolved(config)


def _start_processes(config: Config) -> None:
    """Find a mistake once, before there are several of us."""
    if record.in_sweep():
        problem = (
            "several processes for each job of a multirun are not started; run each job by itself, or one device per job: trainer=default"
        )
        raise ConfigError("trainer.strategy", "ddp", f"{problem} hydra/launcher=processes")
    if config.trainer.num_nodes > 1:
        raise ConfigError("trainer.num_nodes", config.trainer.num_nodes, "start it on every machine with torchrun (docs/scaling.md)")
    launch.start(config.trainer.devices)


def _train(config: Config, folder: Path) -> None:
    _take_part(config, folder, None)
    table.show(record.read(folder), folder)


def _take_part(config: Config, folder: Path, unwritten: record.Record | None) -> None:
    """Prepare and train; of several processes only the first, which has no `unwritten` record, touches the folder."""
    checkpoints = _checkpoints(folder, config)
    texts = text.read(config.data)
    base_folder = source.folder(config)
    encoder = tokenizer.load(base_folder)
    from qpa.runs import job  # datasets, torch, transformers and Lightning: seconds
    from qpa.tasks.language import windows as data

    windows = data.windows(config, texts, encoder, source.cache_folder(config))
    prepared = job.prepare(config, base_folder, windows, checkpoints)
    if unwritten is not None:
        job.run(config, prepared, base_folder=base_folder, windows=windows, folder=folder, result=unwritten)
        return
    own = folder / "checkpoints"
    _clear(
        folder, resumed=prepared.resume_from is not None and prepared.resume_from.parent.resolve() == own.resolve()
    )  # only now: a mistake found so far has cost nothing
    if prepared.resume_from is not None and config.ckpt == "last":
        _inherit(folder, prepared.resume_from.parent.parent)
    record.save_config(folder, config)
    with record.writing(folder, config) as result:
        job.run(config, prepared, base_folder=base_folder, windows=windows, folder=folder, result=result)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("run_dir", folder, f"cannot be written ({error.strerror})") from error


def _claim(folder: Path, config: Config) -> None:
    """Refuse a folder that is not ours to write into."""
    if record.finished(folder) and not config.force and config.ckpt is None:
        raise ConfigError(
            "run_dir",
            folder,
            "holds a finished run of another config; choose another folder, ckpt=last to go on from it, or force=true to replace it",
        )
    if any(folder.iterdir()) and not record.is_run(folder):
        raise ConfigError("run_dir", folder, "is neither empty nor a run's folder; choose another")
    if not os.access(folder, os.W_OK):
        raise ConfigError("run_dir", folder, "cannot be written (permission denied)")


def _checkpoints(folder: Path, config: Config) -> list[Path]:
    """What the run may go on from, newest first; empty to start from the beginning."""
    if config.ckpt is None:
        return []
    own = config.ckpt in ("last", "auto")
    found = _newest(folder) if own else [path for path in [Path(config.ckpt)] if path.is_file()]
    if not found and config.ckpt == "last" and not config.run_dir:
        found = _of_fewer_steps(config)
    if not found and config.ckpt != "auto":
        wanted = folder / "checkpoints" / "last.ckpt" if own else config.ckpt
        others = ", nor a run of this config with fewer steps" if own else ""
        raise ConfigError("ckpt", config.ckpt, f"there is no {wanted}{others}; leave ckpt out to start from the beginning")
    return found


def _newest(folder: Path) -> list[Path]:
    return [path for name in ("last.ckpt", "previous.ckpt") if (path := folder / "checkpoints" / name).is_file()]


def _of_fewer_steps(config: Config) -> list[Path]:
    """The checkpoints of the longest run that is the same but for fewer steps: they are part of what its folder is named by."""
    runs: dict[int, Path] = {}
    for folder in config.folder.parent.glob(f"{glob.escape(config.name)}-*"):
        with suppress(ConfigError):  # another one's, or damaged
            theirs = record.load_config(folder)
            steps = theirs.trainer.max_steps
            longer = theirs.model_copy(update={"trainer": theirs.trainer.model_copy(update={"max_steps": config.trainer.max_steps})})
            if steps < config.trainer.max_steps and longer.fingerprint() == config.fingerprint() and _newest(folder):
                runs[steps] = folder
    if not runs:
        return []
    steps = max(runs)
    print(f"Goes on from {runs[steps]}, whose steps were taken at the rates of a run of {steps}")
    return _newest(runs[steps])


def _inherit(folder: Path, earlier: Path) -> None:
    """Take over what the run with fewer steps had found: its best step, and its metrics."""
    if earlier.resolve() == folder.resolve():
        return
    (folder / "checkpoints").mkdir(exist_ok=True)
    for file in (earlier / "checkpoints" / "best.ckpt", *earlier.glob("metrics-*.csv")):
        if file.exists():
            shutil.copy(file, folder / file.relative_to(earlier))
    if (earlier / "metrics.csv").exists():
        shutil.copy(earlier / "metrics.csv", folder / f"metrics-{len(list(folder.glob('metrics-*.csv'))) + 1}.csv")


def _clear(folder: Path, *, resumed: bool) -> None:
    """Take away what an earlier run left; a resumed one keeps its checkpoints and the metrics so far."""
    for name in ("adapter", "merged", *(() if resumed else ("checkpoints",))):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("evaluation.json", "tasks.json", *(() if resumed else (record.WANDB_ID,))):
        (folder / name).unlink(missing_ok=True)
    metrics = folder / "metrics.csv"
    if resumed and metrics.exists():
        metrics.rename(folder / f"metrics-{len(list(folder.glob('metrics*.csv')))}.csv")
    for stale in () if resumed else folder.glob("metrics*.csv"):
        stale.unlink()
