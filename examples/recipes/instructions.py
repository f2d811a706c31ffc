"""Conversations about Python's standard library, made of its own source: every Python has it, and nobody needs a download.

    python examples/recipes/instructions.py chats.jsonl

Two kinds of questions, one line of JSON each, `{"messages": [user, assistant]}`, in a fixed order:

- What does `json.dumps` do? The first sentence of the docstring of every public function, class and method. Answers are free text.
- What does Python print after a doctest's line? Examples of the docstrings that are one line and print one. Answers are exact.

What is read is the source, by `ast`: nothing is imported. Tests, vendored packages and what several places say alike are left out.
"""

import ast
import builtins
import doctest
import inspect
import json
import re
import sys
import sysconfig
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "ensurepip", "turtledemo", "idle_test", "__pycache__", "distutils"}
SHORTEST, LONGEST = 20, 160  # characters of an answer
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Modules of the standard library by name, parsed."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if LEFT_OUT & set(parts) or any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        try:
            yield ".".join(part for part in parts if part != "__init__"), ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue


def documented(name: str, node: ast.AST) -> Iterator[tuple[str, str]]:
    """Public definitions within a module or class, with their docstrings."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Documented) and not child.name.startswith("_"):
            full = f"{name}.{child.name}"
            if text := ast.get_docstring(child):
                yield full, text
            if isinstance(child, ast.ClassDef):
                yield from documented(full, child)


def first_sentence(text: str) -> str | None:
    """Of a docstring; None where it is none, or says too little or too much."""
    paragraph = " ".join(inspect.cleandoc(text).split("\n\n")[0].split())
    found = re.match(r"[A-Z][^>`]*?[a-z)][.](?= |$)", paragraph)
    return found[0] if found and SHORTEST <= len(found[0]) <= LONGEST else None


def printed(text: str, known: set[str]) -> Iterator[tuple[str, str]]:
    """Doctests of one line that print one and need no line before them, each with what they print."""
    try:
        examples = doctest.DocTestParser().get_examples(text)
    except ValueError:
        return
    for example in examples:
        line, prints = example.source.strip(), example.want.strip()
        if prints and "\n" not in line + prints and len(line) <= LONGEST and "Traceback" not in prints and names(line) <= known:
            yield line, prints


def names(line: str) -> set[str]:
    """That a line of Python reads."""
    try:
        return {node.id for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Name)}
    except SyntaxError:
        return {line}


def questions() -> Iterator[tuple[str, str]]:
    """All of them, each once."""
    asked: set[str] = set()
    answered: set[str] = set()
    for module, tree in sources():
        known = {*dir(builtins), module.split(".")[0], *(node.name for node in tree.body if isinstance(node, Documented))}
        docs = [*([(module, text)] if (text := ast.get_docstring(tree)) else []), *documented(module, tree)]
        for name, text in docs:
            found = [(f"What does Python print for {line}", prints) for line, prints in printed(text, known)]
            if (sentence := first_sentence(text)) and sentence not in answered:
                found.append((f"What does Python's {name} do?", sentence))
                answered.add(sentence)
            yield from ((question, answer) for question, answer in found if question not in asked)
            asked |= {question for question, _ in found}


def main(path: Path) -> None:
    """Write them, shuffled the same way each time, so that any part of the file is like the whole."""
    rows = sorted(questions(), key=lambda row: sha256(row[0].encode()).hexdigest())
    with path.open("w", encoding="utf-8") as file:
        for question, answer in rows:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    print(f"{len(rows):,} conversations in {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "chats.jsonl"))
