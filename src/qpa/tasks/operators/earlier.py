"""An operator that an earlier run has trained, as the base model of this one. No torch."""

import json
from pathlib import Path
from typing import Any

from qpa import files
from qpa.config import OperatorConfig
from qpa.errors import ConfigError, line

WEIGHTS = "model.safetensors"  # as peft=whole saves a network
OPERATOR_FILE = "operator.json"  # beside it: equation, sizes, scale
SIZES = ("modes", "hidden", "layers")
SCALE = ("input_mean", "input_std", "output_mean", "output_std")


def folder(model: OperatorConfig) -> Path | None:
    """Of `model.path`, a run's or its adapter's: where the weights are; None for random ones.

    Raises:
        ConfigError: none are there.
    """
    if model.path is None:
        return None
    for place in (Path(model.path) / "adapter", Path(model.path)):
        if (place / WEIGHTS).is_file() and (place / OPERATOR_FILE).is_file():
            return place
    problem = f"no trained operator is there ({WEIGHTS} and {OPERATOR_FILE}); give the folder of a run of task=operators peft=whole"
    raise ConfigError("model.path", model.path, problem)


def check(model: OperatorConfig, dimensions: int) -> None:
    """Refuse a trained operator of other sizes.

    Raises:
        ConfigError: with the sizes that it has.
    """
    place = folder(model)
    if place is None:
        return
    saved = read(place)
    theirs = {key: saved.get(key) for key in SIZES}
    if theirs != {key: getattr(model, key) for key in SIZES}:
        given = " ".join(f"model.{key}={theirs[key]}" for key in SIZES)
        raise ConfigError("model.path", model.path, f"its network has other sizes; give {given}")
    if saved.get("dimensions") != dimensions:
        problem = f"its functions have {saved.get('dimensions')} dimension(s), and those of the data {dimensions}; choose other data"
        raise ConfigError("model.path", model.path, problem)


def read(place: Path) -> dict[str, Any]:
    """What is beside its weights.

    Raises:
        ConfigError: it is not as we write it.
    """
    try:
        found = files.read_json(place / OPERATOR_FILE)
        _ = [float(found["scale"][name]) for name in SCALE], found["dimensions"], [found[key] for key in SIZES]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("model.path", place, f"its {OPERATOR_FILE} is damaged ({line(error)}); train it again") from error
    return found


def write(place: Path, content: dict[str, Any]) -> None:
    """The same, into an exported network's folder."""
    (place / OPERATOR_FILE).write_text(json.dumps(content, indent=2) + "\n")
