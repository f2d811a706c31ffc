"""What runs are told apart and compared by: each config key says once, where it is declared (`qpa.config`), what it says of a run."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from qpa.config.kinds import Kinds
from qpa.config.part import Part
from qpa.config.section import Section
from qpa.core.circuits.ansatz import ANGLES

# Raised whenever a run of the same config comes to other numbers than before: what an older program has computed is then not taken
# for finished. tests/test_computation.py forces it up.
COMPUTATION = 3
# Raised to it whenever steps, and not only what is drawn before the first, come to other numbers: a checkpoint of an older program is
# then not gone on from.
STEPS = 2
# The same for runs whose circuits are sampled alone, whenever other samples are drawn.
SAMPLING = 2
NONE = "none"  # of `generator.kind`: the adapter itself is trained
CIRCUITS = ("circuit", "frozen_circuit")  # of `latents.kind`
UNSAID = (
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.patience",
    "latents.start",
    "data.train_bytes",
)  # where they are null, as if there were no such keys
UNTRAINED = ("zeros", "random")  # of `latents.kind`: start nowhere
SUBSPACE = "subspace"  # of `mapper.kind`
WITHOUT_SIZE = ("table", SUBSPACE, "zeros", "random")  # likewise: a number for each chunk, whatever the circuits are


class Identity:
    """Reads the marks of a config's class.

    A field is marked in its annotation, a group as a whole by its class attribute `part`; what is not marked itself is as its group.

    Args:
        config: the class of whole configs.
    """

    def __init__(self, config: type[Section]) -> None:
        self._parts = dict(_marks(config, ""))

    def part(self, path: str) -> Part:
        """Of a dotted key, or of the nearest group around it that is marked, as of a kind that another package offers.

        One of another version of qpa counts as a method's.
        """
        while path and path not in self._parts:
            path = path.rpartition(".")[0]
        return self._parts.get(path, Part.METHOD)

    def effective(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """By dotted key, all that has an effect on what a run computes; processes are counted together, wherever they run."""
        flat = dict(_flat(config))
        if "trainer.devices" in flat:  # not in what is of the generator alone
            flat["trainer.devices"] *= flat["trainer.num_nodes"]
        kind = standing(config)
        if kind not in (NONE, SUBSPACE, *UNTRAINED) and flat.get("latents.start"):
            kind = CIRCUITS[0]  # which circuits there are has an effect on what starts from them, too
        given = {path: value for path, value in flat.items() if value is not None or path not in UNSAID}
        return {path: value for path, value in given.items() if self.part(path) is not Part.SHOWN and self._has_effect(path, value, kind)}

    def picked(self, config: Mapping[str, Any], *parts: Part) -> dict[str, Any]:
        """Of `effective`, the keys that say these things."""
        return {path: value for path, value in self.effective(config).items() if self.part(path) in parts}

    def place(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Of `effective`, what a circuit and all that can stand in its place have in common, but for seed and rate."""
        return {
            path: value
            for path, value in self.effective(config).items()
            if self.part(path) not in (Part.SEED, Part.RATE) and not path.startswith("latents.") and not self._of_circuits(path)
        }

    def _has_effect(self, path: str, value: Any, kind: str) -> bool:
        if kind == NONE:
            return not path.startswith(("latents.", "circuit.", "mapper."))
        if kind in CIRCUITS or not self._of_circuits(path):
            return True
        sizes = self.part(path) is Part.SIZES or (path == "circuit.gate" and ANGLES[value] > 0)  # angles of gates count too
        return kind not in WITHOUT_SIZE and sizes

    def _of_circuits(self, path: str) -> bool:
        """Which circuits there are and what runs them, but for their number of basis states: chunks need those whatever stands there."""
        return path.startswith("circuit.") and self.part(path) is not Part.METHOD


def standing(config: Mapping[str, Any]) -> str:
    """What stands in the circuits' place, `none` where the adapter itself is trained, `subspace` where that is all there is."""
    if config["generator"]["kind"] == NONE:
        return NONE
    kind = config["latents"]["kind"]
    return SUBSPACE if kind in UNTRAINED and config["mapper"]["kind"] == SUBSPACE else kind


def hashed(value: object) -> str:
    """Eight hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _marks(section: type[Section], prefix: str) -> Iterator[tuple[str, Part]]:
    for name, field in section.model_fields.items():
        path = prefix + (field.alias or name)
        yield from ((path, mark) for mark in field.metadata if isinstance(mark, Part))
        kinds = (kind for mark in field.metadata if isinstance(mark, Kinds) for kind in mark.ours.values())
        for group in (field.annotation, *kinds):
            if isinstance(group, type) and issubclass(group, Section):
                yield path, group.part
                yield from _marks(group, path + ".")
