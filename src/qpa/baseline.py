"""How much of another run's gain a run keeps: `baseline=DIR`, as a rule the same without a generator.

`gain_kept = (ln base - ln adapted) / (ln base - ln adapted of the baseline)`, perplexities of the same tokens: the share of the
NLL that the baseline gains over the base model.
"""

import math
from pathlib import Path

from qpa import record
from qpa.config import Config
from qpa.earlier import completed
from qpa.errors import ConfigError
from qpa.record import Record

PATHS = ("train_files", "val_files", "test_files", "forgetting_files")  # of `data`: texts are told by their digests
CACHES = ("cache_hidden", "cache_hidden_gib")


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
    mine, other = _conditions(config.model_dump(by_alias=True)), _conditions(completed(theirs["run_info"]["train_config"]))
    for key, value in mine.items():
        if value != other.get(key):
            raise ConfigError("baseline", folder, f"is a run with {key}={other.get(key)}, this one has {value}; give a run with the same")


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


def _conditions(config: Record) -> dict[str, object]:
    """What must be equal for gains to be compared: model, text and its windows, steps; by config key."""
    trainer = {key: config["trainer"][key] for key in ("max_steps", "accumulate_grad_batches")}
    trainer["devices"] = config["trainer"]["devices"] * config["trainer"]["num_nodes"]
    data = {key: value for key, value in config["data"].items() if key not in (*PATHS, *CACHES)}
    groups = {"model": config["model"], "data": data, "trainer": trainer}
    return {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}
