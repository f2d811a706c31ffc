"""How much of another run's gain a run keeps: `baseline=DIR`, as a rule the same without a generator.

`gain_kept = (ln base - ln adapted) / (ln base - ln adapted of the baseline)`, perplexities of the same tokens: the share of the
NLL that the baseline gains over the base model.
"""

import math
from pathlib import Path

from qpa.config import IDENTITY, Config
from qpa.config.earlier import of_record
from qpa.config.identity import Part
from qpa.errors import ConfigError
from qpa.runs import record
from qpa.runs.record import Record

SAME = (Part.TASK, Part.READ, Part.MEASURE)  # what has to be equal for gains to be compared


def check(config: Config) -> None:
    """Refuse a baseline that is not finished, or of other text, model, steps or tokens.

    Raises:
        ConfigError: what is wrong with it.
    """
    if config.baseline is None:
        return
    folder = Path(config.baseline)
    if not record.finished(folder):
        raise ConfigError("baseline", folder, "holds no finished run; give the folder that train.py printed last")
    try:
        _check_same(config, folder, record.read(folder))
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError("baseline", folder, f"has a damaged {record.RESULT}; run it again with force=true") from error


def _check_same(config: Config, folder: Path, theirs: Record) -> None:
    if "texts" not in theirs["qpa"]:
        raise ConfigError("baseline", folder, "was made by an older qpa that did not record its text; run it again with force=true")
    digests = {split: found for split, found in config.digests().items() if split != "forgetting"}
    if any(theirs["qpa"]["texts"].get(split) != found for split, found in digests.items()):
        raise ConfigError("baseline", folder, "was trained or tested on other text; give a run on the same")
    mine = IDENTITY.picked(config.model_dump(by_alias=True), *SAME)
    other = IDENTITY.picked(of_record(theirs), *SAME)
    for key in sorted(mine.keys() | other.keys()):
        ours, found = mine.get(key), other.get(key)
        if ours != found:
            raise ConfigError("baseline", folder, f"is a run with {key}={found}, this one has {ours}; give a run with the same")


def compare(config: Config, result: Record) -> None:
    """Add `gain_kept` to what a run found on its test and validation text, null where the baseline has gained nothing."""
    if config.baseline is None:
        return
    theirs = record.read(Path(config.baseline))
    for split in ("test", "val"):
        ours, other = result["qpa"][split], theirs["qpa"][split]
        ours["gain_kept"] = gain_kept(*((found["base_perplexity"], found["perplexity"]) for found in (ours, other)))
    result["qpa"]["baseline"] = {"name": theirs["run_info"]["experiment_name"], "fingerprint": theirs["qpa"]["fingerprint"]}


def gain_kept(ours: tuple[float, float], theirs: tuple[float, float]) -> float | None:
    """Of two pairs of base and adapted perplexity, our gain as a share of theirs; None where theirs is none."""
    mine, other = (math.log(base / adapted) for base, adapted in (ours, theirs))
    return mine / other if other > 0 else None
