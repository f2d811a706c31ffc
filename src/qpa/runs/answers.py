"""What the base and the adapted model answer to held-out prompts, beside each other."""

import json
from pathlib import Path

from qpa.adapters import base_weights
from qpa.files import read_json, write_whole
from qpa.runs.plan import Plan
from qpa.tasks.task import Measured

ANSWERS = "answers.json"
Sample = dict[str, str]  # `prompt`, `reference`, and the answers `base` and `adapted`


def ask(plan: Plan, adapter: Path) -> tuple[Measured, list[Sample]]:
    """Answers with a saved adapter, as stock peft reads it, and without; and how good they are, as the group `answers`.

    Nothing where the task has no questions, or where processes share the model out among them.
    """
    from qpa.adapters import saved  # peft: seconds

    task = plan.task
    questions = [] if plan.config.trainer.shards or not plan.context.first else task.questions()
    if not questions:
        return {}, []
    before = task.answers(task.base(), questions)
    after = task.answers(saved.load_adapter(task.base(own=base_weights.changes_base(plan.config.peft)), adapter), questions)
    marks, base = task.marks(after, questions), task.marks(before, questions)
    group = {**marks, **{f"base_{name}": value for name, value in base.items()}, "prompts": float(len(questions))}
    told = zip(questions, before, after, strict=True)
    samples = [{"prompt": q.prompt, "reference": q.reference, "base": one, "adapted": other} for q, one, other in told]
    return {"answers": group}, samples


def save(samples: list[Sample], folder: Path) -> None:
    """Write them into the run's folder, if there are any."""
    if samples:
        write_whole(folder / ANSWERS, json.dumps(samples, indent=1, ensure_ascii=False).encode())


def read(folder: Path) -> list[Sample]:
    """Of a run's folder; none where it has none."""
    return read_json(folder / ANSWERS) if (folder / ANSWERS).is_file() else []
