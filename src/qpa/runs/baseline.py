"""How much of another run's gain a run keeps: `baseline=DIR`, as a rule the same without a generator.

A gain is what the adapted model is better by than the base model (`Metric.gain`): of perplexities of the same tokens the NLL gained.
"""

from pathlib import Path

from qpa.config import IDENTITY
from qpa.config.earlier import judged, of_record
from qpa.config.identity import Part
from qpa.errors import ConfigError
from qpa.runs import record
from qpa.runs.plan import Plan
from qpa.runs.record import Record
from qpa.tasks.task import Metric

SAME = (Part.TASK, Part.READ, Part.MEASURE)  # what has to be equal for gains to be compared


def check(plan: Plan) -> None:
    """Refuse a baseline that is not finished, or of another task, metric, data, model, number of steps or of what they read.

    Raises:
        ConfigError: what is wrong with it.
    """
    if plan.config.baseline is None:
        return
    folder = Path(plan.config.baseline)
    if not record.finished(folder):
        raise ConfigError("baseline", folder, "holds no finished run; give the folder that a training printed last")
    try:
        theirs = record.read(folder)
        _check_judged_alike(plan.config.task.kind, plan.task.metric, folder, theirs)
        _check_same(plan, folder, theirs)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError("baseline", folder, f"has a damaged {record.RESULT}; run it again with force=true") from error


def _check_judged_alike(kind: str, metric: Metric, folder: Path, theirs: Record) -> None:
    found = judged(theirs)
    if found["task"]["kind"] != kind:
        raise ConfigError(
            "baseline", folder, f"is a run of the task {found['task']['kind']}, this one is of {kind}; give a run of the same"
        )
    if (other := Metric(**found["metric"])) != metric:
        raise ConfigError("baseline", folder, f"was judged by {_said(other)}, this one is by {_said(metric)}; give a run judged alike")


def _said(metric: Metric) -> str:
    return f"{metric.name} ({', '.join(filter(None, (metric.unit, f'{metric.better} is better', metric.scale)))})"


def _check_same(plan: Plan, folder: Path, theirs: Record) -> None:
    if "texts" not in theirs["qpa"]:
        raise ConfigError("baseline", folder, "was made by an older qpa that did not record its text; run it again with force=true")
    digests = {split: found for split, found in plan.content["texts"].items() if split != "forgetting"}
    if any(theirs["qpa"]["texts"].get(split) != found for split, found in digests.items()):
        raise ConfigError("baseline", folder, "was trained or tested on other text; give a run on the same")
    mine = IDENTITY.picked(plan.config.model_dump(by_alias=True), *SAME)
    other = IDENTITY.picked(of_record(theirs), *SAME)
    for key in sorted(mine.keys() | other.keys()):
        ours, found = mine.get(key), other.get(key)
        if ours != found:
            raise ConfigError("baseline", folder, f"is a run with {key}={found}, this one has {ours}; give a run with the same")


def compare(plan: Plan, result: Record) -> None:
    """Add `gain_kept` to what a run found on its test and validation split, null where the baseline has gained nothing."""
    if plan.config.baseline is None:
        return
    theirs = record.read(Path(plan.config.baseline))
    metric = plan.task.metric
    for split in ("test", "val"):
        ours, other = result["qpa"][split], theirs["qpa"][split]
        ours["gain_kept"] = gain_kept(metric, *((found[f"base_{metric.name}"], found[metric.name]) for found in (ours, other)))
    result["qpa"]["baseline"] = {"name": theirs["run_info"]["experiment_name"], "fingerprint": theirs["qpa"]["fingerprint"]}


def gain_kept(metric: Metric, ours: tuple[float, float], theirs: tuple[float, float]) -> float | None:
    """Of two pairs of the base and the adapted model's value, our gain as a share of theirs; None where theirs is none."""
    mine, other = (metric.gain(base, adapted) for base, adapted in (ours, theirs))
    return mine / other if other > 0 else None
