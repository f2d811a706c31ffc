"""The command line's errors: what a user can mend becomes one line.

Exit codes: 0 done, 1 something in the config or the run cannot work, 2 wrong usage, 3 another process of the run is gone.
`HYDRA_FULL_ERROR=1` shows tracebacks.
"""

import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from qpa.commands.composing import choices_with
from qpa.config.context import program
from qpa.config.earlier import MOVED
from qpa.errors import MENDABLE, OURS, TRACEBACKS, LostProcessError, UsageError, line
from qpa.training.processes import LOST

LAUNCHERS = {"joblib": "launchers", "submitit_slurm": "launchers", "submitit_local": "launchers", "ray": "ray"}  # and their extras


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line on stderr for every error that a user can mend."""
    if not TRACEBACKS:
        os.environ[OURS] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them its own way
    try:
        yield
    except Exception as error:
        if TRACEBACKS or not mendable(error):
            raise
        print(f"qpa: {describe(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, OverrideParseException | UsageError) else LOST if isinstance(error, LostProcessError) else 1)


def script(main: Callable[[list[str]], None]) -> Callable[[], None]:
    """A command as a console script calls it: its `main` with the words that were typed."""

    def run() -> None:
        with one_line_errors():
            main(sys.argv[1:])

    return run


def mendable(error: Exception) -> bool:
    """Whether a user can mend it: known kinds, and whatever Hydra itself raises of a command line (a bare ValueError for `~group=1`)."""
    frames = traceback.extract_tb(error.__traceback__)
    known = (*MENDABLE, HydraException, OmegaConfBaseException)
    return isinstance(error, known) or (isinstance(error, ValueError) and "hydra" in Path(frames[-1].filename).parts)


def describe(error: Exception) -> str:
    """An error in one line, Hydra's and OmegaConf's too: key, value, way out."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, value = (error.missing_cfg_file or "").rpartition("/")
        if value in LAUNCHERS:
            return f"{group}={value}: is not installed; run make setup EXTRAS={LAUNCHERS[value]}"
        choices = sorted(option for option in error.options if not option.startswith("_"))  # the others are parts of choices
        return f"{group}={value}: there is no such choice; there are {', '.join(choices)}"
    if isinstance(error, OverrideParseException):
        return _quoted(error.override)
    if unknown := re.match(r"Could not override '(.+?)'\.", str(error)):
        return f"{unknown[1]}: {_way_out(unknown[1])}"
    if isinstance(error, OmegaConfBaseException):
        return str(error).splitlines()[0]
    cause = error.__cause__
    return " ".join(f"{error} ({cause})".split()) if isinstance(error, HydraException) and cause else line(error)


def _way_out(key: str) -> str:
    """What to do in place of setting a key that the config does not have."""
    if key in MOVED:
        return f"is {MOVED[key]} now"
    if there := choices_with(key):
        return f"no key of the chosen {key.partition('.')[0]}, but of {', '.join(there)}"
    return f"there is no such key; {shlex.join(program())} --cfg job prints all keys, +{key}=... adds one"


def _quoted(override: str) -> str:
    """What to write in place of an override that Hydra's grammar does not take: its value in quotes, and the whole in the shell's."""
    key, given, value = override.partition("=")
    if not given or not key:
        return f"{override}: is no KEY=VALUE; {shlex.join(program())} --help shows how"
    is_list = value.startswith("[") and value.endswith("]")
    right = f"[{','.join(map(_in_quotes, value[1:-1].split(',')))}]" if is_list else _in_quotes(value)
    line = f"{override}: has signs that mean something to Hydra; put quotes round the value: {shlex.quote(f'{key}={right}')}"
    return " ".join(line.splitlines())


def _in_quotes(value: str) -> str:
    """As Hydra's grammar reads it back: https://hydra.cc/docs/advanced/override_grammar/basic/#quoted-values"""
    stripped = value.strip()
    if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "'\"":
        return stripped
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', stripped)
    ending = re.search(r"\\*$", escaped)
    return f'"{escaped}{ending[0] if ending else ""}"'
