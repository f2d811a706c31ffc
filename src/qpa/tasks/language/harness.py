"""Evaluation beyond perplexity: tasks of the LM Evaluation Harness, on a saved adapter and on its base model."""

from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel

from qpa.adapters.bottleneck import BottleneckModel
from qpa.adapters.methods import AdaptedModel
from qpa.adapters.whole import WholeModel
from qpa.errors import ConfigError, UserError
from qpa.tasks.pretrained.tokenizer import TextEncoder, as_transformers

Results = dict[str, dict[str, float]]


def evaluate(model: AdaptedModel | PreTrainedModel, encoder: TextEncoder, tasks: list[str], *, batch_size: int) -> Results:
    """Every task's metrics as the harness names them.

    Args:
        model: with an adapter or without.
        encoder: its tokenizer.
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
        raise UserError("tasks need the LM Evaluation Harness; run make setup EXTRAS=tasks") from error
    manager = TaskManager()
    if unknown := [task for task in tasks if task not in manager.all_tasks and not _is_file(task)]:
        raise ConfigError("tasks", ",".join(unknown), "no such task; lm-eval ls tasks prints all, a path of a task file of yours adds one")
    harness: Any = simple_evaluate  # untyped decorators hide its parameters, and the model's
    asked: Any = model.get_base_model() if isinstance(model, BottleneckModel | WholeModel) else model  # whose own forward adds nothing
    asked.tie_weights = lambda *_, **__: None  # the harness would tie a head and an embedding again that the adapter tells apart
    asked.get_input_embeddings().register_forward_pre_hook(_check_tokens)
    wrapped = cast(Any, HFLM)(pretrained=asked.eval(), tokenizer=as_transformers(encoder), batch_size=batch_size)
    try:
        found = harness(model=wrapped, tasks=list(tasks), task_manager=manager, log_samples=False, bootstrap_iters=0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        unreached = "; without the hub only tasks on files of your own run" if isinstance(error, OSError) else ""
        raise ConfigError("tasks", ",".join(tasks), " ".join(str(error).split()) + unreached) from error
    return {task: _numbers(metrics) for task, metrics in found["results"].items()}


def _check_tokens(embedding: Any, inputs: tuple) -> None:
    """Before a forward pass: on a GPU a token without a row would end the whole process."""
    largest, rows = int(inputs[0].max()), len(embedding.weight)
    if largest >= rows:
        problem = f"their text has token {largest}, and the model's embedding only {rows} rows"
        raise UserError(f"tasks: {problem}; save the model's own tokenizer beside it, or the model after resize_token_embeddings")


def _is_file(task: str) -> bool:
    path = Path(task)
    if path.suffix in (".yaml", ".yml") and not path.is_file():
        raise ConfigError("tasks", path, "there is no such file")
    return path.is_file()


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """As the harness names them: `exact_match,strict-match`; `acc` where nothing is filtered (its `acc,none`)."""
    kept = {name: value for name, value in metrics.items() if isinstance(value, float | int) and "stderr" not in name}
    return {name.removesuffix(",none"): value for name, value in kept.items() if name != "sample_len"}
