"""What a model answers to held-out prompts, and how near it comes to what the data answer."""

import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from qpa.errors import ConfigError, line
from qpa.files import read_json
from qpa.tasks.language.examples import Writer
from qpa.tasks.language.forms import ASSISTANT, USER, Dialogue, Message, UnusableError
from qpa.tasks.language.template import Template
from qpa.tasks.pretrained.tokenizer import TextEncoder
from qpa.tasks.rows.reading import Rows
from qpa.tasks.task import Question

GENERATION = "generation_config.json"
PROBE: list[Message] = [{"role": USER, "content": "?"}, {"role": ASSISTANT, "content": "Yes"}]

Mark = Callable[[list[str], list[str]], dict[str, float]]  # answers, and the data's


@dataclass(frozen=True)
class Asked(Question):
    """A held-out prompt as tokens too, `ids`, up to where the answer begins."""

    ids: list[int]


def questions(rows: Rows, writer: Writer, *, most: int, longest: int) -> list[Asked]:
    """Of the first rows that have an answer and a prompt no longer than so many tokens."""

    def asked() -> Iterator[Asked]:
        for row in rows:
            try:
                ids, reference = writer.asked(row)
            except UnusableError:
                continue
            if len(ids) <= longest:
                yield Asked(writer.encoder.tokenizer.decode(ids, skip_special_tokens=False), reference, ids)

    return list(islice(asked(), most))


def stops(folder: Path | None, encoder: TextEncoder, template: Template | None) -> set[int]:
    """Tokens that end an answer: the tokenizer's and the model's EOS, and the one by which a chat template ends the assistant's turns."""
    ends = {encoder.eos}
    if folder is not None and (folder / GENERATION).is_file():
        given = read_json(folder / GENERATION).get("eos_token_id")
        ends |= set(given) if isinstance(given, list) else {given} - {None}
    if template is not None:
        with suppress(UnusableError):
            after = template.whole(Dialogue(PROBE)).rpartition(PROBE[-1]["content"])[2]
            first = encoder.encode([after.lstrip()], special_tokens=True)[0][:1]
            ends |= {token for token in first if token in encoder.tokenizer.get_added_tokens_decoder()}
    return ends


def marks(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Mark]:
    """By name, the metrics of `data.answer_metrics`: classes of torchmetrics, functions of scikit-learn, or what `evaluate` loads.

    Raises:
        ConfigError: there is no such class or function, or it refuses its settings.
    """
    return {name: _mark(name, settings) for name, settings in metrics.items()}


def _mark(name: str, settings: Mapping[str, Any]) -> Mark:
    key, target = f"data.answer_metrics.{name}", settings.get("_target_")
    given = {option: value for option, value in settings.items() if option != "_target_"}
    try:
        kind: Any = pkgutil.resolve_name(str(target))
        found = kind(**given) if isinstance(kind, type) or not _of_sklearn(kind) else partial(kind, **given)
    except Exception as error:  # whatever another's code raises
        problem = f"cannot be made ({line(error)}); give a class of torchmetrics.text or a function of sklearn.metrics"
        raise ConfigError(key, target, problem) from error

    def mark(answers: list[str], references: list[str]) -> dict[str, float]:
        try:
            return _numbers(name, _asked(found, answers, references))
        except Exception as error:
            raise ConfigError(key, target, f"refuses answers and references ({line(error)}); give another metric of texts") from error

    return mark


def _asked(metric: Any, answers: list[str], references: list[str]) -> Any:
    """Each library has its own order."""
    if isinstance(metric, partial):
        return metric(references, answers)
    if hasattr(metric, "update"):
        return metric(answers, references)
    return metric.compute(predictions=answers, references=references)


def _of_sklearn(function: Any) -> bool:
    return callable(function) and list(inspect.signature(function).parameters)[:2] == ["y_true", "y_pred"]


def _numbers(name: str, value: Any) -> dict[str, float]:
    """One number under the metric's name; of ROUGE's three the F-measure, which is what is meant by it; several under both names."""
    if not isinstance(value, dict):
        return {name: float(value)}
    measures = {part: float(number) for part, number in value.items() if not part.endswith(("_precision", "_recall"))}
    return {name: next(iter(measures.values()))} if len(measures) == 1 else {f"{name}_{part}": number for part, number in measures.items()}


def marked(answers: Sequence[str], asked: Sequence[Question], *, by: Mapping[str, Mark]) -> dict[str, float]:
    """Every metric of some answers, white space around them aside."""
    said, right = [answer.strip() for answer in answers], [question.reference.strip() for question in asked]
    return {name: number for mark in by.values() for name, number in mark(said, right).items()}
