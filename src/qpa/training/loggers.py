"""Where numbers go while a run lasts: the run's own `metrics.csv`, always, and Weights & Biases. wandb enters here.

wandb's own environment variables hold wherever neither the config nor the run's folder says otherwise (docs/sweeps.md).
"""

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from qpa.config import LoggerConfig, WandbLoggerConfig
from qpa.config.context import Context
from qpa.errors import ConfigError
from qpa.tasks.task import Metric
from qpa.training import history
from qpa.training.names import WANDB_ID

INIT_SECONDS = 30  # that an online run waits for W&B before it goes on without
PLACES = [place for place in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR") if not os.environ.get(place)]  # that are ours to choose


@dataclass(frozen=True)
class Logged:
    """What W&B is told of a run.

    Attributes:
        settings: config group `logger`.
        config: the whole config, as plain values.
        context: of the run.
        metric: the task's.
        job_type: `train`, or what is done with a run afterwards.
        from_step: the optimizer step of the checkpoint that a resumed run goes on from.
    """

    settings: LoggerConfig
    config: dict[str, Any]
    context: Context
    metric: Metric
    job_type: str
    from_step: int = 0


@contextmanager
def opened(logged: Logged, folder: Path) -> Iterator[list[Logger]]:
    """A run's loggers, which write into `folder`; closed at the end as finished or failed.

    An open W&B run would swallow a multirun's next job.
    """
    if not logged.context.first:
        yield []
        return
    own: list[Logger] = [CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1)]
    if not isinstance(logged.settings, WandbLoggerConfig) or logged.settings.mode == "disabled":
        yield own
        return
    import wandb

    exit_code = 1
    logger = None
    with _spared():
        logger = _wandb(logged, logged.settings, folder)
    try:
        yield [*own, *([logger] if logger else [])]
        exit_code = 0
    finally:
        with _spared(quiet=logger is None or logger.lost):
            wandb.finish(exit_code=exit_code)
        if logger is None or logger.lost:
            with suppress(Exception):
                wandb.teardown(exit_code=exit_code)  # else it complains once more when the process ends


@contextmanager
def _spared(*, quiet: bool = False) -> Iterator[None]:
    """What goes wrong with W&B is said in one line and costs nothing else: its client raises many kinds, of its own and of sockets."""
    try:
        yield
    except Exception as error:
        if not quiet:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"qpa: W&B is lost ({reason}); the run goes on, its numbers are in metrics.csv and result.json", file=sys.stderr)


class SparedWandbLogger(WandbLogger):
    """Lightning's logger for as long as W&B is there; what it cannot take afterwards is left out."""

    lost = False

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """A row of the run's history."""
        self.attempt(lambda: super(SparedWandbLogger, self).log_metrics(metrics, step))

    def attempt(self, action: Callable[[], object]) -> None:
        """Do it, unless W&B is lost."""
        if self.lost:
            return
        self.lost = True
        with _spared():
            action()
            self.lost = False


def check(settings: LoggerConfig) -> None:
    """Refuse an online run without an account before anything is written.

    Raises:
        ConfigError: wandb knows no key; its own words are in the text.
    """
    if not isinstance(settings, WandbLoggerConfig) or settings.mode != "online":
        return
    import wandb
    from wandb.errors import Error

    _forget_empty_variables()
    try:
        wandb.login()
    except Error as error:
        if "Failed to execute API request" not in str(error):  # there is a key, but nobody to show it to: the run goes on without
            raise ConfigError("logger.mode", "online", f"{error} Or choose logger.mode=offline") from error


def summarise(loggers: list[Logger], numbers: Mapping[str, float]) -> None:
    """Put final numbers where W&B's tables and scatter plots look for them (`result.json` holds them anyway)."""
    for logger in loggers:
        if isinstance(logger, SparedWandbLogger):
            logger.attempt(lambda run=logger.experiment: run.summary.update(dict(numbers)))


def draw(loggers: list[Logger], name: str, figure: Any, numbers: Mapping[str, float]) -> None:
    """Put a plotly figure and its numbers into W&B."""
    for logger in loggers:
        if isinstance(logger, SparedWandbLogger):
            import wandb

            logger.attempt(lambda run=logger.experiment: run.log({name: wandb.Plotly(figure)}))
    summarise(loggers, numbers)


def tabled(loggers: list[Logger], name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put a table of the run's own into W&B, if it has any rows, which all have the same columns."""
    if not rows:
        return
    columns, data = list(rows[0]), [list(row.values()) for row in rows]
    for logger in loggers:
        if isinstance(logger, SparedWandbLogger):
            logger.attempt(lambda logger=logger: logger.log_table(name, columns=columns, data=data))


def table(logger: DictConfig, folder: Path, name: str, columns: Sequence[str], rows: list[list[str | float | None]]) -> None:
    """Log one table as a run of its own, job type `sweep`, in the group of the sweep that has `folder`."""
    import wandb
    from wandb.errors import Error

    _set_variables(folder)
    group = logger.group or folder.name
    settings = wandb.Settings(silent=True, console="off")
    cells: Any = rows  # wandb's own annotation says arrays
    place = {"project": logger.project, "entity": logger.entity, "dir": folder, "group": group}
    try:
        with wandb.init(**place, name=f"{group}-table", job_type="sweep", mode=logger.mode, settings=settings) as run:
            run.log({name: wandb.Table(columns=list(columns), data=cells)})
    except Error as error:  # the jobs themselves are on record
        print(f"qpa: the sweep's table is not in W&B: {error}", file=sys.stderr)


def _forget_empty_variables() -> None:
    """They count as not set; wandb refuses some of them."""
    for name in [name for name, value in os.environ.items() if name.startswith("WANDB_") and not value]:
        del os.environ[name]


def _set_variables(folder: Path) -> None:
    """wandb writes nothing outside the folder, unless the user has told it where to."""
    _forget_empty_variables()
    for place in PLACES:
        os.environ[place] = str((folder / "wandb" / place.split("_")[1].lower()).resolve())


def _wandb(logged: Logged, settings: WandbLoggerConfig, folder: Path) -> SparedWandbLogger:
    """A W&B run of the folder's id. Of a resumed one that W&B's server does not know it holds the earlier parts too, in their place."""
    folder.mkdir(exist_ok=True)
    _set_variables(folder)
    identity = folder / WANDB_ID
    if not identity.exists():
        alone = logged.context.sweep is None and logged.job_type == "train"  # several jobs cannot share an id
        identity.write_text((os.environ.get("WANDB_RUN_ID") if alone else None) or _new_id())
    parts = list(folder.glob(f"wandb/*run-*-{identity.read_text()}*")) if logged.from_step else []
    known = any(map(_sent, parts))
    goes_on = known and settings.mode == "online"  # on the server, by the id
    if known and not goes_on:
        identity.write_text(_new_id())  # to one that it knows the server would add the whole curve once more
    rows = [] if goes_on or not logged.from_step else [row for row in history.read(folder) if row[0] < logged.from_step]
    logger = SparedWandbLogger(experiment=_begun(logged, settings, folder, identity.read_text()))
    for step, numbers in rows:
        logger.log_metrics(numbers, step)
    for part in () if goes_on or logger.lost else parts:
        if part.name.startswith("offline"):
            shutil.rmtree(part, ignore_errors=True)  # else `wandb sync` would send its steps too
    return logger


def _begun(logged: Logged, settings: WandbLoggerConfig, folder: Path, identity: str) -> Any:
    """The W&B run itself."""
    import wandb

    seconds = float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_SECONDS)
    trains, sweep, metric = logged.job_type == "train", logged.context.sweep, logged.metric
    run = wandb.init(
        project=settings.project,
        entity=settings.entity,
        name=os.environ.get("WANDB_NAME") or folder.name if trains else f"{folder.parent.name}-{logged.job_type}",
        dir=folder,
        id=identity,
        resume="allow",  # a resumed run goes on in the same W&B run
        mode=settings.mode,
        group=settings.group or (sweep.name if sweep else None),
        job_type=logged.job_type,
        config=logged.config,
        settings=wandb.Settings(silent=True, console="off", init_timeout=seconds),
    )
    goal = "min" if metric.better == "lower" else "max"
    run.define_metric(f"val/{metric.name}", summary=goal)  # all else in the summary is written once, at the end
    return run


def _new_id() -> str:
    return uuid.uuid4().hex[:8]


def _sent(part: Path) -> bool:
    """Whether W&B's server knows a part of a run: it was online, or `wandb sync` has left its mark."""
    return part.name.startswith("run-") or any(part.glob("*.wandb.sync*"))
