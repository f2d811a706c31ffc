"""What pyproject.toml promises: every import declared, licence and citation in the wheel."""

import ast
import subprocess
import sys
import tomllib
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def imported(file: Path) -> set[str]:
    """Top-level names of what a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"qpa"}


def test_every_package_that_is_imported_is_declared() -> None:
    extras = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    declared = {canonicalize_name(Requirement(line).name) for line in (*PROJECT["dependencies"], *extras)}
    providers = packages_distributions()
    names = set().union(*map(imported, (ROOT / "src" / "qpa").rglob("*.py")))
    assert len(names) > 20
    undeclared = {name for name in names if not declared & {canonicalize_name(found) for found in providers.get(name, [name])}}
    assert undeclared == set()


def test_wheels_metadata_names_licence_and_citation(tmp_path: Path) -> None:
    script = "from setuptools import build_meta; import sys; print(build_meta.prepare_metadata_for_build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True)
    folder = tmp_path / done.stdout.splitlines()[-1]
    metadata = Parser().parsestr((folder / "METADATA").read_text())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("License-File")) == {"LICENSE", "CITATION.cff"}
    for name in ("LICENSE", "CITATION.cff"):
        assert (folder / "licenses" / name).read_bytes() == (ROOT / name).read_bytes()


def test_citation_says_what_the_package_says() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["license"], citation["version"]) == (PROJECT["license"], PROJECT["version"])
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2410.09846"


@pytest.mark.parametrize("line", ["Apache License", "Version 2.0, January 2004"])
def test_licence_is_the_one_that_is_named(line: str) -> None:
    assert line in (ROOT / "LICENSE").read_text()
