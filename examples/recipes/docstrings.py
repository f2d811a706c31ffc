"""Labelled texts out of Python itself: which package of the standard library does a docstring belong to?

    python examples/recipes/docstrings.py docstrings.jsonl
    python train.py task=classification model=minilm data=files data.train_files=[docstrings.jsonl]

A row is the docstring of a module, class or function, its source parsed and not run, and the package that it stands in: some 2,400 rows of
ten packages in CPython 3.11, from 623 of tkinter to 96 of urllib. White space is joined, and a text is cut at 600 characters. What is
shorter than 40 is left out, and so is a text that several packages have; one that a package has twice is there once. The name of each of
the ten packages is masked wherever it stands, also within a word, so that no row says its label. Near copies stay, as those of the many
alike methods of tkinter are: scores are of these texts, not of any library.
"""

import ast
import json
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "tkinter", "unittest", "urllib", "xml")
NAMES = re.compile("|".join(PACKAGES), re.IGNORECASE)
SHORTEST, LONGEST = 40, 600  # characters
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(package: str) -> Iterator[str]:
    """Of all that a package holds, but for its tests."""
    folder = Path(sysconfig.get_path("stdlib")) / package
    for file in sorted(folder.rglob("*.py")):
        if {"test", "tests", "idlelib"} & {*file.parts}:
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
                yield " ".join(NAMES.sub("_", text).split())[:LONGEST]


def rows() -> list[dict[str, str]]:
    """All of them."""
    found = {package: dict.fromkeys(text for text in docstrings(package) if len(text) >= SHORTEST) for package in PACKAGES}
    owners = Counter(text for texts in found.values() for text in texts)
    return [{"text": text, "label": package} for package, texts in found.items() for text in texts if owners[text] == 1]


if __name__ == "__main__":
    lines = [json.dumps(row) + "\n" for row in rows()]
    Path(sys.argv[1]).write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines):,} rows in {sys.argv[1]}")
