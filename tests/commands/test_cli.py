"""The command line as a user meets it: real processes, one clear line for every mistake before anything slow is loaded."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from qpa.commands.cli import describe
from qpa.errors import ConfigError, line

TINY = ["model.weights=random", "model.num_layers=1", "logger=none"]


NEEDS_FOLDER_OR_HUB = {"ckpt=last", "model=gpt2", "run_dir=conf", "run_dir=/sys/qpa", "data=hub"}
SLOW = {"torch", "transformers", "peft", "pytorch_lightning", "datasets", "wandb"}  # a second and more each

# train.py in a process that leaves the names of the packages it has loaded.
WATCHED = """
import atexit, runpy, sys
out, *sys.argv = sys.argv[1:]
atexit.register(lambda: open(out, "w").write(" ".join({name.partition(".")[0] for name in sys.modules})))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(*arguments: str, entry: tuple[str, ...] = ("train.py",), **environment: str) -> subprocess.CompletedProcess:
    offline = {"HF_HUB_OFFLINE": "1"}  # on any machine: what needs the hub fails here
    return subprocess.run(
        [sys.executable, *entry, *arguments], cwd=ROOT, capture_output=True, text=True, env=os.environ | offline | environment, check=False
    )


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["circuit.qubits=99"], 1, ["circuit.qubits=99", "memory", "at most"]),
        (["circuit.qubits=0"], 1, ["circuit.qubits=0", "greater than or equal to 1"]),
        (["circuit.qubits=many"], 1, ["circuit.qubits=many", "integer"]),
        (["circuit.qubits=4", "mapper.chunk_size=10"], 1, ["circuit.qubits=4", "circuit.qubits=11 fits", "mapper.chunk_size=1056 fits"]),
        (["mapper.chunk_size=9999999"], 1, ["mapper.chunk_size=9999999", "at most 16896"]),
        (["circuit.shots=0"], 1, ["circuit.shots=0", "greater than or equal to 1"]),
        (["circuit.gradient=exact", "circuit.shots=100"], 1, ["gradient=exact", "parameter_shift or spsa"]),
        (["circuit.device=aer"], 1, ["device=aer", "backend=statevector has none"]),
        (["circuit.backend=qiskit", "circuit.device=fake_manila"], 1, ["device=fake_manila", "circuit.shots=1024"]),
        (["circuit.rotations=[RZ]"], 1, ["rotations=[RZ]", "add RY or RX"]),
        (["circuit.shots=9", "trainer=ddp"], 1, ["trainer.strategy=ddp", "use trainer=default, or leave shots out"]),
        (["circuit.backend=abacus"], 1, ["circuit.backend=abacus", "'statevector', 'torchquantum', 'pennylane' or 'qiskit'"]),
        (["data=text", "data.train_files=[nowhere.txt]"], 1, ["data.train_files=nowhere.txt", "cannot be read"]),
        (["data=text", "data.train_files=[/dev/null]"], 1, ["data.train_files=/dev/null", "is no file"]),
        (["data=text", f"data.train_files=[{sys.executable}]"], 1, ["data.train_files=", "no UTF-8 text", "a binary file"]),
        (["data=hub"], 1, ["data.hub=None", "OWNER/NAME", "local folder"]),
        (["data=text"], 1, ["data.train_files", "at least one"]),
        (["data.batch_size=0"], 1, ["data.batch_size=0", "greater than or equal to 1"]),
        (["peft.target_modules=[nothing]"], 1, ["peft.target_modules=['nothing']", "q_proj", "lm_head"]),
        (["peft.target_modules=null"], 1, ["peft.target_modules=None", "list of module names"]),
        (["peft.target_modules='['"], 1, ["peft.target_modules=[", "regular expression"]),
        (["model.num_layers=31"], 1, ["model.num_layers=31", "at most 30"]),
        (["model.architecture.num_hidden_layers=1001"], 1, ["num_hidden_layers=1001", "at most 1,000"]),
        (["model.package=os.path"], 1, ["model.package=os.path", "pip install"]),
        (["model=gpt2", "data.context=1100"], 1, ["data.context=1100", "at most 1024"]),
        (["mapper.width=0"], 1, ["mapper.width=0", "greater than or equal to 1"]),
        (["mapper.chunk_size=1"], 1, ["mapper.chunk_size=1", "at most 1,048,576"]),
        (["data.train_files=[README.md]"], 1, ["data.train_files", "no key of the chosen data", "data=text"]),
        (["trainer.devices=2"], 1, ["devices=2", "a run trains on one device", "hydra/launcher=processes"]),
        (["+trainer.min_epochs=2"], 1, ["trainer", "min_epochs cannot be set"]),
        (["+trainer.limit_val_batches=0"], 1, ["trainer", "limit_val_batches", "max_held_out_windows"]),
        (["generator.start=null"], 1, ["generator.start=None", "'peft' or 'paper'"]),
        (["generator.circuits=null"], 1, ["generator.circuits=None", "'per_module' or 'shared'"]),
        (["generator=none", "generator.circuits=shared"], 1, ["generator.circuits", "generator=paper, generator=qpa, generator=shared"]),
        (["generator.lr=1e-3"], 1, ["generator.lr: is optimizer.lr now"]),
        (["+generator.lr=1e-3"], 1, ["generator.lr=0.001: is optimizer.lr now"]),
        (["logger=none", "logger.group=mine"], 1, ["logger.group", "logger=wandb"]),
        (
            ["mapper.kind=mlp"],
            1,
            ["mapper.kind=mlp: there is no such kind; there are codes, paper, quantum_train, quantum_train_scaled, subspace, tied"],
        ),
        (["data.source=null"], 1, ["data.source=None", "string"]),
        (["+mapper.hidden=[3]"], 1, ["mapper.hidden=[3]", "no key of the chosen group"]),
        (["run_dir=conf"], 1, ["run_dir=conf", "neither empty nor a run's folder"]),
        (["run_dir=/sys/qpa"], 1, ["run_dir=/sys/qpa", "cannot be written"]),
        (["cache_dir=/sys/qpa", "model.weights=random"], 1, ["cache_dir=/sys/qpa", "cannot be written", "choose another"]),
        (["peft=prompt", "peft.num_virtual_tokens=abc"], 1, ["peft.num_virtual_tokens=abc", "at least 1"]),
        (["peft=prefix", "model.gradient_checkpointing=true"], 1, ["model.gradient_checkpointing=True", "prefixes"]),
        (["latents=mps", "latents.bond_dimension=0"], 1, ["latents.bond_dimension=0", "greater than or equal to 1"]),
        (["peft.r=0"], 1, ["peft.r=0", "at least 1"]),
        (["task=control", "data.environment=CartPol-v1"], 1, ["data.environment=CartPol-v1", "no such environment", "CartPole-v1"]),
        (["model=gpt2"], 1, ["model.hub=openai-community/gpt2", "model.path=DIR"]),
        (["model=causal_lm"], 1, ["model.hub=None", "model.path=DIR"]),
        (["model.path=/nowhere"], 1, ["model.path=/nowhere", "config.json"]),
        (["model=bert"], 1, ["model=bert", "gemma2", "smollm2"]),
        (["circuit.qubit=8"], 1, ["circuit.qubit", "no such key"]),
        (["optimizer.lr=nan"], 1, ["optimizer.lr=nan", "finite"]),
        (["ckpt=last", "seed=123456"], 1, ["ckpt=last", "last.ckpt"]),
        (["circuit.qubits"], 2, ["circuit.qubits", "KEY=VALUE"]),
        (["peft.target_modules=.*(q|v)_proj"], 2, ["peft.target_modules", """'peft.target_modules=".*(q|v)_proj"'"""]),
        (["--no-such-flag"], 2, ["--no-such-flag"]),
    ],
)
def test_mistake_gets_one_clear_line_before_anything_slow(arguments: list[str], code: int, words: list[str], tmp_path: Path) -> None:
    done = command(*arguments, entry=("-c", WATCHED, str(tmp_path / "loaded"), "train.py"))
    loaded = set((tmp_path / "loaded").read_text().split())
    assert "hydra" in loaded
    late = {"torch"} if set(arguments) & NEEDS_FOLDER_OR_HUB else set()  # torch tells what this machine computes in, and so the folder
    assert not (SLOW - late) & loaded
    assert done.returncode == code
    last = done.stderr.strip().splitlines()[-1]
    assert all(word in last for word in words), last
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1


def test_full_error_shows_the_traceback_when_asked_for() -> None:
    done = command("circuit.qubits=99", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("module", ["qpa.evaluate", "qpa.export", "qpa.chat"])
def test_verbs_name_their_usage_and_refuse_what_is_no_run(module: str, tmp_path: Path) -> None:
    usage = command(entry=("-m", module))
    assert (usage.returncode, "usage:" in usage.stderr, usage.stderr.count("\n")) == (2, True, 1)
    bare = command(f"run={tmp_path}", {"qpa.evaluate": "tasks", "qpa.export": "merged", "qpa.chat": "prompt"}[module], entry=("-m", module))
    assert (bare.returncode, "usage:" in bare.stderr) == (2, True)
    wrong = command(f"run={tmp_path}", entry=("-m", module))
    assert (wrong.returncode, "no run folder" in wrong.stderr, wrong.stderr.count("\n")) == (1, True, 1)


@pytest.mark.slow
def test_unreachable_data_set_is_one_line() -> None:
    done = command("data=wikitext2", *TINY)
    assert done.returncode == 1
    assert "data.hub=Salesforce/wikitext" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_readonly_run_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = command(f"run_dir={tmp_path}/file/run", *TINY)
    assert done.returncode == 1
    assert "run_dir=" in done.stderr
    assert "cannot be written" in done.stderr


@pytest.mark.slow
def test_command_line_of_the_mission_composes_for_gemma2_dora(tmp_path: Path, text_file: Path) -> None:
    """`model=gemma2 peft=dora circuit.qubits=8`, the model's own shape but for depth, vocabulary, the MLP's width and weights."""
    done = command(
        "model=gemma2", "peft=dora", "circuit.qubits=8", "model.weights=random", "model.num_layers=1", "model.architecture.vocab_size=300",
        "model.architecture.intermediate_size=1024", "trainer.max_steps=1", "data=text", f"data.train_files=[{text_file}]",
        "data.val_fraction=0.02", "data.max_held_out_windows=8", "data.context=32", "data.batch_size=8", "logger=none",
        f"run_dir={tmp_path}/run", f"cache_dir={tmp_path}/cache",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/run"
    assert done.stderr == ""


@pytest.mark.slow
def test_online_run_without_an_account_is_one_line_and_leaves_the_folder_empty(tmp_path: Path, text_file: Path) -> None:
    text = ["data=text", f"data.train_files=[{text_file}]", "data.context=32", f"cache_dir={tmp_path}/cache"]
    shape = ["model.weights=random", "model.num_layers=1", "model.architecture.vocab_size=300"]
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_API_KEY": ""}
    done = command(*shape, *text, "logger.mode=online", f"run_dir={tmp_path}/run", **home)
    assert done.returncode == 1
    assert "logger.mode=online" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    "override",
    [
        "peft.target_modules=.*(q|v)_proj",
        r"peft.target_modules=^model\.layers\.(0|1)\..*proj$",
        "data.train_files=[C:\\x(1).txt,b.txt]",
        "data.train_files=[a b.txt",
        "run_dir=/tmp/a(1)",
        "name=a=b",
        "name='x",
        'name=a"b(\\',
        "+peft.rank_pattern={^q(:3}",
    ],
)
def test_value_that_hydras_grammar_does_not_take_is_shown_in_quotes_that_it_takes(override: str) -> None:
    """The line names the key, and what stands at its end, given to a shell, is the value that was meant."""
    parser = OverridesParser.create()
    with pytest.raises(OverrideParseException) as caught:
        parser.parse_overrides([override])
    shown = describe(caught.value)
    key, _, value = override.partition("=")
    assert shown.startswith(override)
    (argument,) = shlex.split(shown.rpartition("quotes round the value: ")[2])
    (parsed,) = parser.parse_overrides([argument])
    assert parsed.key_or_group == key.lstrip("+")
    meant = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else value
    assert parsed.value() == meant


def test_ansatz_of_ones_own_is_a_choice_of_every_command(tmp_path: Path) -> None:
    (tmp_path / "circuit").mkdir()
    ansatz = "{defaults: [_measured], rotations: [RX], entangler: ring, gate: CZ, final_rotations: true}"
    (tmp_path / "circuit" / "mine.yaml").write_text(ansatz)
    shown = command("--config-dir", str(tmp_path), "circuit=mine", "--cfg", "job", "--package", "circuit")
    assert "entangler: ring" in shown.stdout
    planned = command("--config-dir", str(tmp_path), "circuit=mine", "circuit.qubits=99", entry=("-m", "qpa.plan"))
    assert (planned.returncode, "circuit.qubits=99" in planned.stderr) == (1, True)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("seed", -1, "has\n  to be positive"), "seed=-1: has to be positive"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), "a.txt: No such file or directory"),
        (OSError("no\nroom"), "no room"),
    ],
)
def test_error_below_the_commands_is_the_same_line(error: Exception, said: str) -> None:
    assert line(error) == describe(error) == said
