"""The labels that a model learns to tell: those of the training rows, in order."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qpa.errors import ConfigError
from qpa.tasks.classification.columns import Columns, Example, examples
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.reading import Rows


@dataclass(frozen=True)
class Labels:
    """All there are.

    Attributes:
        names: in order: numbers by their value, else words by the alphabet.
        several: whether a text may have any number of them; else it has one.
        commonest: the one that most of the training rows have.
    """

    names: tuple[str, ...]
    several: bool
    commonest: str

    @cached_property
    def places(self) -> dict[str, int]:
        """By name, its number."""
        return {name: number for number, name in enumerate(self.names)}

    def settings(self) -> dict[str, Any]:
        """Of a model's config, in transformers' words."""
        kind = "multi_label_classification" if self.several else "single_label_classification"
        by_number = dict(enumerate(self.names))
        return {"num_labels": len(self.names), "id2label": by_number, "label2id": self.places, "problem_type": kind}


def of(rows: Rows, columns: Columns, faults: Faults) -> Labels:
    """Of the training rows.

    Raises:
        ConfigError: a row cannot be used, or all have the same label.
    """
    found = [(example.labels, several) for example, several in examples(rows, columns, faults)]
    if not found:
        raise ConfigError(*rows.key, "no row can be used" + (f": {said}" if (said := faults.said()) else "; give others"))
    several = found[0][1]
    counts = Counter(label for labels, _ in found for label in labels)
    if len(counts) < (1 if several else 2):
        label = next(iter(counts), "none")
        raise ConfigError(*rows.key, f"all {len(found):,} rows have the same label ({label}), so that nothing can be learned; give others")
    return Labels(_in_order(counts), several, counts.most_common(1)[0][0])


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    names = sorted(names)
    return tuple(sorted(names, key=int) if all(name.lstrip("-").isdecimal() for name in names) else names)


def unknown(example: Example, labels: Labels) -> str | None:
    """What of an example's labels is in no training row; None if nothing is."""
    return next((name for name in example.labels if name not in labels.places), None)
