"""`python -m qpa.tune KEY=SPACE ... [tune.trials=20] [KEY=VALUE ...]`: search for the best values by the validation metric, with Optuna.

Spaces are written as for a multirun: `mapper.width=4,11,32`, `circuit.layers=range(1,5)`, `optimizer.lr=tag(log,interval(1e-4,1e-1))`.
Every trial is an ordinary run with a folder of its own. The search is kept in `outputs/tune/`: the same command, started again,
goes on. Optuna is used itself, for Hydra's plugin pins Optuna 2. Needs `make setup EXTRAS=tune`.
"""

import hashlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from qpa.commands import cli
from qpa.commands.composing import goal
from qpa.config import TuneConfig, checked, parse
from qpa.config.composing import as_overrides, composed
from qpa.config.context import Context, program
from qpa.errors import ConfigError, UsageError, UserError
from qpa.runs import record
from qpa.tasks.task import Metric, find

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

USAGE = "usage: python -m qpa.tune KEY=SPACE ... [tune.trials=20] [KEY=VALUE ...]"


def main(arguments: list[str]) -> None:
    """Search, and print the best trial with the command that repeats it."""
    overrides = OverridesParser.create().parse_overrides(as_overrides(arguments))
    swept = {o.get_key_element(): o for o in overrides if o.is_sweep_override()}
    if not swept:
        raise UsageError(USAGE)
    fixed = [o.input_line or "" for o in overrides if not o.is_sweep_override()]
    plain = composed("tune", fixed)
    settings, metric = checked(TuneConfig, plain["tune"], within="tune"), find(plain["task"]["kind"]).metric
    fixed = [line for line in fixed if not line.startswith("tune.")]
    study = open_study(sorted([*fixed, *(o.input_line or "" for o in swept.values())]), metric)
    spaces = {key: space(key, override) for key, override in swept.items()}
    kept = {}  # between trials, as a base model
    for _ in range(settings.trials):
        attempt(study, spaces, fixed, kept)
    if not study.best_trials:
        raise UserError("no trial finished; the lines above say why")
    chosen = [f"{key}={value}" for key, value in study.best_params.items()]
    print(f"best of {len(study.trials)} trials, validation {metric.name} {study.best_value:.3f}")
    print(shlex.join([*program(), *fixed, *chosen]))


def open_study(identity: list[str], metric: Metric) -> "Study":
    """The search that is told by these lines, from its journal where there is one.

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UserError("the search needs Optuna; run make setup EXTRAS=tune") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = Path("outputs/tune") / f"{hashlib.sha256(repr(identity).encode()).hexdigest()[:8]}.log"
    journal.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(study_name=journal.stem, storage=storage, direction=goal(metric), load_if_exists=True)
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # repeatable, and not the same again when it goes on
    return study


def space(key: str, override: Override) -> "BaseDistribution":
    """What Optuna chooses a key's value from.

    Raises:
        ConfigError: a sweep that is no space, as `glob`, or one with nothing in it.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    given, written = override.value(), (override.input_line or "").partition("=")[2]
    try:
        if isinstance(given, IntervalSweep):
            return FloatDistribution(float(given.start or 0), float(given.end or 0), log="log" in given.tags)
        if isinstance(given, RangeSweep | ChoiceSweep):
            return CategoricalDistribution(list(override.sweep_string_iterator()))
    except ValueError as error:
        raise ConfigError(key, written, str(error)) from error
    raise ConfigError(key, written, "is no space; give a,b,c or range(1,5) or interval(0.1,1)")


def attempt(study: "Study", spaces: dict[str, "BaseDistribution"], fixed: list[str], kept: dict[Any, Any]) -> None:
    """One trial; one that fails tells its reason, and the search goes on."""
    from optuna.trial import TrialState

    trial = study.ask(spaces)
    chosen = [f"{key}={value}" for key, value in trial.params.items()]
    try:
        study.tell(trial, validation([*fixed, *chosen], kept))
    except Exception as error:
        if not cli.mendable(error):
            raise
        print(f"qpa: trial {trial.number} ({' '.join(chosen)}) failed: {cli.describe(error)}", file=sys.stderr)
        study.tell(trial, state=TrialState.FAIL)


def validation(overrides: list[str], kept: dict[Any, Any]) -> float:
    """The validation metric after a run with these overrides; a run that has finished before is not repeated."""
    from qpa.runs import run

    context = Context(command=shlex.join([*program(), *overrides]), kept=kept)
    plan = run.ready(parse(composed("train", overrides)), context)
    run.train(plan)
    return record.read(plan.folder)["qpa"]["val"][plan.task.metric.name]


script = cli.script(main)

if __name__ == "__main__":
    script()
