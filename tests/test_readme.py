"""The commands of README and docs: those that take seconds run as they are written, of all others every value is composed and checked."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

from qpa.config import AnalysisConfig, TuneConfig, checked, parse
from qpa.config.composing import composed

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VARIABLE = re.compile(r"""^\s*([A-Z]+)="([^"]*)"$""")
STARTED = r"(?:time |srun )?(?:[\w./]*python|torchrun)\b[^`]*?(?:\btrain\.py|-m (?:qpa|benchmarks)\.\w+)"
COMMAND = re.compile(rf"(?:^\s*|`)({STARTED}(?: [^`]*)?)")
QUICK = re.compile(r"python -m qpa\.plan|python -m qpa\.report runs=docs|python train\.py --(help|cfg)")
GRAMMAR = re.compile(r"KEY=|\.\.\.|--config-dir")  # how a command is made up, not one; or of what is not ours (test_extending)


def commands() -> list[str]:
    """Every command of ours in a code block or in backticks, its shell variables filled in, without its comment."""
    found: dict[str, None] = {}
    for file in FILES:
        variables: dict[str, str] = {}
        for line in file.read_text().replace("\\\n", " ").splitlines():
            if assigned := VARIABLE.match(line):
                variables[assigned[1]] = assigned[2]
            for match in COMMAND.finditer(line):
                command = re.sub(r"\s+#.*| \(.*", "", match[1]).strip()
                for name in re.findall(r"\$([A-Z]+)", command):
                    command = command.replace(f"${name}", variables[name])
                found[command] = None
    return list(found)


def of(*modules: str) -> list[str]:
    """The commands of some modules that are not run."""
    return [c for c in commands() if parts(c)[0] in modules and not GRAMMAR.search(c) and not QUICK.match(c)]


def parts(command: str) -> tuple[str, list[str]]:
    """The module that a command runs, and what it gives to it."""
    words = shlex.split(command)
    at = next(at for at, word in enumerate(words) if word == "train.py" or word.startswith(("qpa.", "benchmarks.")))
    return words[at], words[at + 1 :]


def main_of(module: str) -> ModuleType:
    return import_module(module.replace("qpa.", "qpa.commands."))


def jobs(arguments: list[str]) -> list[list[str]]:
    """As many jobs as the longest list of values has: every value of every key is in one of them."""
    values = [values_of(override) for override in OverridesParser.create().parse_overrides([a for a in arguments if a[0] != "-"])]
    return [[value or first[0] for value, first in zip(row, values, strict=True)] for row in zip_longest(*values)] or [[]]


def values_of(override: Override) -> list[str]:
    """`KEY=VALUE` for all that an override sweeps over: of an interval its start, of seeds the first."""
    key, value = override.get_key_element(), override.value()
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}"]
    found = [f"{key}={each}" for each in override.sweep_string_iterator()]
    return found[:1] if key == "seed" else found


@pytest.mark.parametrize("command", [c for c in commands() if QUICK.match(c) and not GRAMMAR.search(c)])
def test_quick_command_works_as_written(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module, arguments = parts(command)
    if module == "train.py":
        subprocess.run([sys.executable, module, *arguments], capture_output=True, check=True)
    else:
        main_of(module).main([re.sub(r"^out=.*", f"out={tmp_path}", argument) for argument in arguments])


@pytest.mark.parametrize("command", of("train.py"))
def test_every_value_of_a_training_command_is_accepted(command: str) -> None:
    for overrides in jobs(parts(command)[1]):
        parse(composed("train", overrides))


@pytest.mark.parametrize("command", of("qpa.tune"))
def test_every_value_of_a_search_is_accepted(command: str) -> None:
    for overrides in jobs(parts(command)[1]):
        plain = composed("tune", overrides)
        checked(TuneConfig, plain.pop("tune"))
        parse(plain)


@pytest.mark.parametrize("command", of("qpa.analysis"))
def test_every_value_of_an_analysis_is_accepted(command: str) -> None:
    checked(AnalysisConfig, composed("analysis", parts(command)[1]))


@pytest.mark.parametrize("command", of("qpa.evaluate", "qpa.export", "qpa.chat", "qpa.report", "qpa.dashboard"))
def test_every_key_of_a_verb_is_in_its_usage_or_in_the_config(command: str) -> None:
    module, arguments = parts(command)
    parse(composed("train", [a for a in arguments if f"{a.partition('=')[0]}=" not in main_of(module).USAGE]))


@pytest.mark.parametrize("module", sorted({parts(c)[0] for c in commands()} - {"train.py"}))
def test_every_module_of_a_command_exists(module: str) -> None:
    assert find_spec(module)


def test_every_command_is_looked_at() -> None:
    assert len(commands()) > 80
    verbs = ("plan", "tune", "evaluate", "export", "analysis", "report", "dashboard")
    assert {parts(c)[0] for c in commands()} >= {"train.py", *(f"qpa.{verb}" for verb in verbs)}
    assert not [c for c in commands() if "$" in c.replace("$head", "")]  # Slurm's, of a machine


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_link_leads_somewhere(file: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
        path, _, place = link.partition("#")
        if not link.startswith("https://"):
            target = file.parent / path if path else file
            assert target.exists(), link
            assert not place or place in {anchor(heading) for heading in re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)}, link


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_test_that_the_docs_name_exists() -> None:
    text = "\n".join(file.read_text() for file in FILES)
    named = set(re.findall(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)`", text))
    assert len(named) > 20
    assert not [file for file in named if not (ROOT / "tests" / file).is_file()]
    code = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name in re.findall(r"`(test_\w+)\.\.\.`", text) if f"def {name}" not in code]


def kept(text: str, trained: str, word: str) -> str:
    """Of one table in docs/results.md, which another test holds to the records, the gain kept by a setting."""
    table = (ROOT / "docs/results.md").read_text().partition(f"**{text}**, base")[2].partition("\n\n")[2].partition("\n\n")[0]
    (row,) = [line.split(" | ") for line in table.splitlines() if f"| {trained} |" in line and word in line.split(" | ")[0]]
    return row[5].strip()


TEXTS = ("WikiText-2", "Shakespeare's plays")


def test_result_on_the_first_screen_is_that_of_the_tables() -> None:
    screen = (ROOT / "README.md").read_text().partition("## Where to go")[0]
    assert all(kept(text, "113,616", "the circuit").removesuffix(" %") in screen for text in TEXTS)
    assert all(kept(text, "111,936", "nothing").removesuffix(" %") in screen for text in TEXTS)


SHORT = {  # rows of the short table of docs/results.md, by what they begin with: the numbers trained, and a word of the setting
    "| LoRA r=1 |": ("305,280", "LoRA"),
    "| **QPA, `mapper.width=11`**": ("113,616", "the circuit"),
    "| the same without": ("111,936", "nothing"),
    "| LoRA r=1 on": ("120,960", "LoRA r=1"),
    "| Uni-LoRA | 5.0 %": ("122,112", "Uni"),
    "| **QPA, `mapper.width=2`**": ("22,032", "the circuit"),
    "| Uni-LoRA | 1.0 %": ("24,422", "Uni"),
}


@pytest.mark.parametrize("row", SHORT)
def test_short_table_of_the_results_is_that_of_the_long_ones(row: str) -> None:
    (line,) = [line for line in (ROOT / "docs/results.md").read_text().splitlines() if line.startswith(row)]
    cells = line.split(" | ")[2:]
    assert [cell.split(" %")[0] for cell in cells] == [kept(text, *SHORT[row]).split(" ±")[0] for text in TEXTS]


def test_every_file_that_the_docs_name_exists() -> None:
    places = [ROOT, ROOT / "src/qpa", ROOT / "tests", ROOT / "examples/extension"]
    named = {path for file in FILES for path in re.findall(r"`((?:\w+/)+\w+\.(?:py|sh))`", file.read_text())}
    assert len(named) > 30
    assert not [path for path in named if not any((place / path).is_file() for place in places)]
