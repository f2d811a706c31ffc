"""A training run from plan to closing table: claim the folder, prepare, fit, export, measure, record."""

from pathlib import Path

from qpa.config import Config
from qpa.config.context import Context
from qpa.errors import ConfigError
from qpa.files import locked, write_json
from qpa.runs import baseline, folder, record, table
from qpa.runs import plan as plans
from qpa.runs.plan import Plan
from qpa.training import processes
from qpa.training.names import CHECKPOINTS


def ready(config: Config, context: Context) -> Plan:
    """The plan of a training run, its data looked at as well.

    Raises:
        ConfigError: something in config or data cannot work.
    """
    plan = plans.make(config, context, read=True)
    baseline.check(plan)
    return plan


def train(plan: Plan) -> None:
    """Run it, or show its result if it has finished before.

    Raises:
        UserError: something in the config or the data cannot work, or the loss was not finite.
    """
    config, place = plan.config, plan.folder
    if config.trainer.together and not processes.started():
        _start_processes(plan)
        return
    processes.end_with_parent()
    if not plan.context.first:
        if not record.finished(place, plan.fingerprint) or config.force:
            _work(plan, place)
        return
    folder.make(place)
    with locked(place, wait=plan.context.sweep is not None):  # two jobs of a sweep may be one run, as LoRA with several mapper widths
        if record.finished(place, plan.fingerprint) and not config.force:
            _show_again(plan, place)
            return
        folder.claim(place, config)
        _work(plan, place)
        table.show(record.read(place), place)


def _show_again(plan: Plan, place: Path) -> None:
    """A finished run's result, beside another baseline if one is given."""
    print(f"Finished before (force=true runs it again): {place}")
    result = record.read(place)
    if plan.config.baseline:
        baseline.compare(plan, result)
        write_json(place / record.RESULT, result)
    table.show(result, place)


def _start_processes(plan: Plan) -> None:
    """Every mistake that can be found has been found once, before there are several of us."""
    if plan.context.sweep is not None:
        problem = (
            "several processes for each job of a multirun are not started; run each job by itself, or one device per job: trainer=default"
        )
        raise ConfigError("trainer.strategy", plan.config.trainer.strategy, f"{problem} hydra/launcher=processes")
    if plan.config.trainer.num_nodes > 1:
        problem = "start it on every machine with torchrun (docs/scaling.md)"
        raise ConfigError("trainer.num_nodes", plan.config.trainer.num_nodes, problem)
    processes.start(plan.config.trainer.devices)


def _work(plan: Plan, place: Path) -> None:
    """Of several processes only the first touches the folder, and not before a mistake could still cost what is in it."""
    candidates = folder.to_go_on_from(plan)
    plan.task.fetch()
    from qpa.runs import session  # torch, transformers, peft, Lightning: seconds

    prepared = session.prepare(plan, place, candidates)
    if plan.context.first:
        _take_over(plan, place, prepared.resume_from)
    with record.writing(place, plan) as result:
        session.run(prepared, place, result)


def _take_over(plan: Plan, place: Path, resume_from: Path | None) -> None:
    own = place / CHECKPOINTS
    folder.clear(place, resumed=resume_from is not None and resume_from.parent.resolve() == own.resolve())
    if resume_from is not None and plan.config.ckpt == "last":
        folder.inherit(place, resume_from.parent.parent)
    record.save_config(place, plan.config)
