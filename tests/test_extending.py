"""What docs/extending.md adds from outside the package: that it is what stands in examples/extension, and that each of it trains."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples/extension"
QUOTED = re.compile(r"^```\w+\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = ["model.weights=random", "model.num_layers=2", "data.context=64", "data.max_held_out_windows=4"]
SHORT = ["trainer.max_steps=4", "trainer.val_every=4", "logger=none"]

# By what is added: the command, and how many numbers its circuits (or what stands in their place) and its mapper train. Two layers of
# SmolLM2 have 14 linear modules, so 14 circuits of 4 qubits; the kinds of LoRA's tensors have rows of 576, 192 and 1,536 numbers.
ADDED = {
    "an ansatz": (["circuit=all_pairs", *TINY], 14 * 4 * 2 * 3, None),
    "a PEFT method": (["peft=loha", *TINY], None, None),
    "a mapper": (["mapper=waves", *TINY], None, 8 * (576 + 192 + 1536)),
    "a control": (["latents=sines", *TINY], 14 * 2, None),
    "a task": (["experiment=curve", "optimizer.lr=3e-2"], None, None),
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with what `pip install -e examples/extension` writes: the package's name and its entry points."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / f"my_qpa-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = ("\n".join([f"[{group}]", *(f"{k} = {v}" for k, v in entries.items())]) for group, entries in project["entry-points"].items())
    (info / "entry_points.txt").write_text("\n".join(groups))
    return info.parent


@pytest.mark.slow
@pytest.mark.parametrize("added", ADDED)
def test_what_is_added_from_outside_trains(added: str, site: Path, tmp_path: Path) -> None:
    arguments, latents, mapper = ADDED[added]
    command = [sys.executable, "train.py", "--config-dir", str(EXAMPLE / "my_conf"), *arguments, *SHORT, f"run_dir={tmp_path / 'run'}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", site, EXAMPLE)))}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    ours = json.loads((tmp_path / "run/result.json").read_text())["qpa"]
    metric = "error" if added == "a task" else "perplexity"
    assert ours["test"][metric] < ours["test"][f"base_{metric}"]
    assert latents in (None, ours["params"]["circuit"])
    assert mapper in (None, ours["params"]["mapper"])


@pytest.mark.parametrize(("file", "text"), QUOTED.findall((ROOT / "docs/extending.md").read_text()))
def test_page_quotes_the_example(file: str, text: str) -> None:
    assert text.strip() in (EXAMPLE / file).read_text()


def test_every_file_of_the_example_is_named_on_the_page_or_belongs_to_the_task() -> None:
    page = (ROOT / "docs/extending.md").read_text()
    files = {str(file.relative_to(EXAMPLE)) for file in EXAMPLE.rglob("*") if file.is_file() and "__" not in str(file)}
    of_the_task = {"my_conf/task/curve.yaml", "my_conf/model/network.yaml", "my_conf/data/points.yaml"}
    assert {file for file in files if file not in page} == of_the_task
