"""`python -m qpa.tune KEY=SPACE ... [tune.trials=20] [KEY=VALUE ...]`: search for the best values by validation perplexity, with Optuna.

Spaces are written as for a multirun: `mapper.width=4,11,32`, `circuit.layers=range(1,5)`, `generator.lr=tag(log,interval(1e-4,1e-1))`.
Every trial is an ordinary run with a folder of its own; the study itself is kept in `outputs/tune/STUDY.log` and goes on when
it is started again. Optuna is used itself, for Hydra's plugin pins Optuna 2. Needs `pip install 'qpa[tune]'`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from qpa import cli, record
from qpa.config import TuneConfig, checked, parse
from qpa.errors import ConfigError, UsageError, UserError
from qpa.verbs import composed

if TYPE_CHECKING:
    from optuna import Study, Trial

USAGE = "usage: python -m qpa.tune KEY=SPACE ... [tune.trials=20] [KEY=VALUE ...]"


def main(arguments: list[str]) -> None:
    """Search, and print the best trial with the command that repeats it."""
    overrides = OverridesParser.create().parse_overrides(arguments)
    spaces = {o.get_key_element(): o for o in overrides if o.is_sweep_override()}
    if not spaces:
        raise UsageError(USAGE)
    fixed = [o.input_line or "" for o in overrides if not o.is_sweep_override()]
    settings = checked(TuneConfig, composed("tune", fixed)["tune"], within="tune")
    fixed = [line for line in fixed if not line.startswith("tune.")]
    study = open_study(settings)

    def objective(trial: "Trial") -> float:
        return perplexity([*fixed, *(f"{key}={suggest(trial, key, space)}" for key, space in spaces.items())])

    study.optimize(objective, n_trials=settings.trials, catch=(UserError,))
    if not study.best_trials:
        raise UserError("no trial finished; the lines above say why")
    chosen = [f"{key}={value}" for key, value in study.best_params.items()]
    print(f"best of {len(study.trials)} trials, validation perplexity {study.best_value:.3f}")
    print(" ".join(["python", "train.py", *fixed, *chosen]))


def open_study(settings: TuneConfig) -> "Study":
    """The study of this name, from its journal where there is one.

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UserError("the search needs Optuna: pip install 'qpa[tune]'") from error
    journal = Path("outputs/tune") / f"{settings.study}.log"
    journal.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(study_name=settings.study, storage=storage, direction="minimize", load_if_exists=True)
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # repeatable, and not the same again when it goes on
    return study


def suggest(trial: "Trial", key: str, space: Override) -> Any:
    """A value of the space, chosen by Optuna.

    Raises:
        ConfigError: a sweep that is no space, as `glob`.
    """
    given = space.value()
    log = "log" in getattr(given, "tags", ())
    if isinstance(given, IntervalSweep):
        return trial.suggest_float(key, float(given.start or 0), float(given.end or 0), log=log)
    if isinstance(given, RangeSweep | ChoiceSweep):
        return trial.suggest_categorical(key, list(space.sweep_string_iterator()))
    raise ConfigError(key, space.input_line, "is no space; give a,b,c or range(1,5) or interval(0.1,1)")


def perplexity(overrides: list[str]) -> float:
    """Of the validation text after a run with these overrides; a run that has finished before is not repeated."""
    from qpa import run

    config = parse(composed("train", overrides))
    run.train(config)
    return record.read(config.folder)["qpa"]["val"]["perplexity"]


if __name__ == "__main__":
    with cli.one_line_errors():
        main(sys.argv[1:])
