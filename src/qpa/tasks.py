"""Evaluation beyond perplexity: tasks of the LM Evaluation Harness, on a saved adapter and on its base model."""

from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerFast

from qpa.errors import ConfigError, UserError
from qpa.peft_model import AdaptedModel
from qpa.tokenizer import TextEncoder

Results = dict[str, dict[str, float]]


def evaluate(model: AdaptedModel, encoder: TextEncoder, tasks: list[str], *, batch_size: int) -> dict[str, Results]:
    """By `adapted` and `base`, every task's metrics as the harness names them.

    Args:
        model: with the adapter loaded.
        encoder: the model's tokenizer.
        tasks: names the harness knows, or paths of task files of your own (YAML).
        batch_size: texts of one forward pass.

    Raises:
        UserError: lm-eval is not installed.
        ConfigError: there is no such task, or its data cannot be had.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError("tasks need the LM Evaluation Harness: pip install 'qpa[tasks]'") from error
    own = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    for path in own:
        if not path.is_file():
            raise ConfigError("tasks", path, "there is no such file")
    manager = TaskManager(include_path=[str(folder.resolve()) for folder in {path.parent for path in own}] or None)
    names = [_name(Path(task)) if Path(task) in own else task for task in tasks]
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise ConfigError("tasks", ",".join(unknown), "no such task; lm-eval ls tasks prints all, a path of a task file of yours adds one")
    harness: Any = simple_evaluate  # untyped decorators hide its parameters, and the model's
    wrapped = cast(Any, HFLM)(pretrained=model.eval(), tokenizer=_tokenizer(encoder), batch_size=batch_size)

    def measured() -> Results:
        try:
            found = harness(model=wrapped, tasks=list(names), task_manager=manager, log_samples=False, bootstrap_iters=0)
        except (OSError, ValueError) as error:
            raise ConfigError("tasks", ",".join(names), " ".join(str(error).split())) from error
        return {task: _numbers(metrics) for task, metrics in found["results"].items()}

    adapted = measured()
    with model.disable_adapter():
        return {"adapted": adapted, "base": measured()}


def _name(path: Path) -> str:
    """The task's name in its file."""
    lines = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    return next((value.strip() for key, _, value in lines if key == "task"), path.stem)


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name.partition(",")[0]: value for name, value in metrics.items() if isinstance(value, float | int) and "stderr" not in name}


def _tokenizer(encoder: TextEncoder) -> PreTrainedTokenizerFast:
    """As transformers has it."""
    token = encoder.tokenizer.id_to_token
    special = {"eos_token": token(encoder.eos), "pad_token": token(encoder.eos)}
    if encoder.bos is not None:
        special["bos_token"] = token(encoder.bos)
    return PreTrainedTokenizerFast(tokenizer_object=encoder.tokenizer, **special)
