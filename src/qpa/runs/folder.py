"""A run's folder: whose it is, what it may go on from, what an earlier run has left there."""

import glob
import os
import shutil
from contextlib import suppress
from pathlib import Path

from qpa.config import IDENTITY, STOPS, Config
from qpa.errors import ConfigError
from qpa.runs import record
from qpa.runs.plan import Plan
from qpa.training.names import BEST, CHECKPOINTS, LAST, METRICS, PREVIOUS, WANDB_ID


def make(folder: Path) -> None:
    """Make it.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("run_dir", folder, f"cannot be written ({error.strerror})") from error


def claim(folder: Path, config: Config) -> None:
    """Refuse a folder that is not ours to write into.

    Raises:
        ConfigError: what is in it, and the way out.
    """
    if record.finished(folder) and not config.force and config.ckpt is None:
        problem = "holds a finished run of another config, or of an earlier qpa; choose another folder"
        raise ConfigError("run_dir", folder, f"{problem}, ckpt=last to go on from it, or force=true to replace it")
    if any(folder.iterdir()) and not record.is_run(folder):
        raise ConfigError("run_dir", folder, "is neither empty nor a run's folder; choose another")
    if not os.access(folder, os.W_OK):
        raise ConfigError("run_dir", folder, "cannot be written (permission denied)")


def to_go_on_from(plan: Plan) -> list[Path]:
    """The checkpoints that `ckpt` asks for, newest first; empty to start from the beginning.

    Raises:
        ConfigError: there is none.
    """
    config, folder = plan.config, plan.folder
    if config.ckpt is None:
        return []
    own = config.ckpt in ("last", "auto")
    found = _newest(folder) if own else [path for path in [Path(config.ckpt)] if path.is_file()]
    if not found and config.ckpt == "last" and not config.run_dir:
        found = _of_fewer_steps(plan)
    if not found and config.ckpt != "auto":
        wanted = folder / CHECKPOINTS / LAST if own else config.ckpt
        others = ", nor a run of this config with fewer steps" if own else ""
        raise ConfigError("ckpt", config.ckpt, f"there is no {wanted}{others}; leave ckpt out to start from the beginning")
    return found


def _newest(folder: Path) -> list[Path]:
    return [path for name in (LAST, PREVIOUS) if (path := folder / CHECKPOINTS / name).is_file()]


def _of_fewer_steps(plan: Plan) -> list[Path]:
    """The checkpoints of the longest run that is the same but for fewer steps: they are part of what its folder is named by."""
    runs: dict[tuple[float, ...], tuple[str, Path]] = {}
    for folder in plan.folder.parent.glob(f"{glob.escape(plan.config.name)}-*"):
        with suppress(ConfigError, KeyError, TypeError):  # another one's, or damaged
            theirs = record.load_config(folder)
            if _is_shorter(plan, folder, theirs) and _newest(folder):
                runs[theirs.trainer.limits] = theirs.trainer.length, folder
    if not runs:
        return []
    length, longest = runs[max(runs)]
    print(f"Goes on from {longest}, whose steps were taken at the rates of a run of {length}")
    return _newest(longest)


def _is_shorter(plan: Plan, folder: Path, theirs: Config) -> bool:
    """Whether a run is the same but for ending earlier: after fewer steps or epochs, less time or patience."""
    mine_ends = plan.config.trainer
    trainer = theirs.trainer.model_copy(update={key: getattr(mine_ends, key) for key in STOPS})
    mine, longer = (
        IDENTITY.effective(config.model_dump(by_alias=True)) for config in (plan.config, theirs.model_copy(update={"trainer": trainer}))
    )
    ours = record.read(folder)["qpa"]
    same_content = all(ours.get(name, found) == found for name, found in plan.content.items())
    earlier = all(their <= our for their, our in zip(theirs.trainer.limits, mine_ends.limits, strict=True))
    return mine == longer and same_content and earlier and theirs.trainer.limits != mine_ends.limits


def clear(folder: Path, *, resumed: bool) -> None:
    """Take away what an earlier run left; a resumed one keeps its checkpoints and the metrics so far."""
    for name in ("adapter", "merged", *(() if resumed else (CHECKPOINTS,))):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("evaluation.json", "tasks.json", "answers.json", *(() if resumed else (WANDB_ID,))):
        (folder / name).unlink(missing_ok=True)
    metrics = folder / METRICS
    if resumed and metrics.exists():
        metrics.rename(folder / f"metrics-{len(list(folder.glob('metrics*.csv')))}.csv")
    for stale in () if resumed else folder.glob("metrics*.csv"):
        stale.unlink()


def inherit(folder: Path, earlier: Path) -> None:
    """Take over what the run with fewer steps had found: its best step, and its metrics."""
    if earlier.resolve() == folder.resolve():
        return
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    for file in (earlier / CHECKPOINTS / BEST, *earlier.glob("metrics-*.csv")):
        if file.exists():
            shutil.copy(file, folder / file.relative_to(earlier))
    if (earlier / METRICS).exists():
        shutil.copy(earlier / METRICS, folder / f"metrics-{len(list(folder.glob('metrics-*.csv'))) + 1}.csv")
