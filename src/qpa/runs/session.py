"""One run's training: all of it built before the run's folder is touched, then fit, export, measure, and the record filled in."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

from qpa.adapters import methods, saved
from qpa.config import earlier
from qpa.errors import ConfigError, UserError, line
from qpa.runs import answers, baseline, parts, record
from qpa.runs.measure import adapter_folder, export, measure
from qpa.runs.parts import Parts
from qpa.runs.plan import Plan
from qpa.runs.record import DRAWN, Record
from qpa.tasks.task import Learner
from qpa.training import checkpoints, loggers
from qpa.training.callbacks import EntanglementLog, StepClock
from qpa.training.checkpoints import Checkpoints, DamagedError
from qpa.training.exchange import losses_named
from qpa.training.held_out import outputs
from qpa.training.loggers import Logged
from qpa.training.module import Course, FineTuning
from qpa.training.names import CHECKPOINTS
from qpa.training.quiet import quiet
from qpa.training.sharding import Sharded
from qpa.training.signals import Signals
from qpa.training.stopping import Stopping
from qpa.training.trainer import make_trainer


@dataclass(frozen=True)
class Session:
    """One run, ready to begin.

    Attributes:
        clock: takes the time of its steps.
        keeper: writes its checkpoints.
        stopping: ends it before its last step.
        resume_from: a checkpoint that fits, None to start from the beginning.
        from_step: the optimizer step it was written after.
    """

    parts: Parts
    module: FineTuning
    trainer: Trainer
    clock: StepClock
    keeper: Checkpoints
    stopping: Stopping
    resume_from: Path | None
    from_step: int


def prepare(plan: Plan, folder: Path, candidates: Sequence[Path]) -> Session:
    """Build everything, and read the first of the checkpoints that is not damaged.

    Raises:
        ConfigError: a library refuses one of the config's values, the checkpoint does not fit, or all are damaged.
    """
    quiet()
    settings, task = plan.config.trainer, plan.task
    if plan.context.first:
        loggers.check(plan.config.logger)
    task.prepare()
    task.held_out()  # refuses fewer examples than processes
    clock = StepClock()
    keeper = Checkpoints(folder / CHECKPOINTS, every=settings.checkpoint_every, val_every=settings.val_every, metric=task.metric)
    stopping = Stopping(settings, task.metric)
    callbacks = [clock, keeper, Signals(keeper), EntanglementLog(), *stopping.callbacks]
    trainer = make_trainer(settings, folder, steps=task.steps, context=plan.context, metric=task.metric, callbacks=callbacks)
    built = parts.build(plan)
    for note in plan.notes() if plan.context.first else ():
        print(f"qpa: {note}", file=sys.stderr)
    learner = task.learner(built.model, trained=True)
    if settings.shards:
        learner = Sharded(learner, methods.adapter_parameters(built.model).values())
    if settings.compile:
        learner.compile()
    resume_from, content = _newest_good(plan, candidates) if candidates else (None, None)
    from_step = _fit_checkpoint(built, resume_from, content) if resume_from and content else 0
    return Session(built, make_module(built, learner), trainer, clock, keeper, stopping, resume_from, from_step)


def make_module(built: Parts, learner: Learner) -> FineTuning:
    """The LightningModule of a run's parts."""
    plan, config = built.plan, built.plan.config
    return FineTuning(
        learner,
        built.adaptation,
        Course(
            optimizer=config.optimizer,
            trainer=config.trainer,
            steps=plan.task.steps,
            seed=config.seed,
            full=plan.task.full(),
            counted=plan.task.counted,
            rank=plan.context.rank,
            lineage=plan.lineage,
        ),
    )


def _newest_good(plan: Plan, candidates: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    """The first of the checkpoints that is not damaged, and its content; of damaged ones a line is said."""
    for path in candidates:
        try:
            return path, checkpoints.read(path)
        except DamagedError:
            print(f"qpa: {path} is damaged and skipped", file=sys.stderr)
    raise ConfigError("ckpt", plan.config.ckpt, f"{candidates[-1]} is no checkpoint, or damaged; leave ckpt out to start anew")


def _fit_checkpoint(built: Parts, path: Path, content: dict[str, Any]) -> int:
    """The step of a checkpoint of a run as this one, but for steps and rates."""
    mine, theirs = built.plan.lineage, content.get("lineage")
    if not isinstance(theirs, dict) or "computation" not in theirs:
        raise ConfigError("ckpt", path, "is of an older qpa, whose steps came to other numbers; leave ckpt out to start anew")
    theirs = earlier.lineage(theirs)
    if other := sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)):
        raise ConfigError("ckpt", path, f"is of a run with another {', '.join(other)}; leave ckpt out to start anew")
    try:
        built.adaptation.check_state(content["state_dict"])
        step = int(content["global_step"])
    except (UserError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError("ckpt", path, f"no checkpoint of this config ({line(error)}); leave ckpt out to start anew") from error
    trainer, most = built.plan.config.trainer, built.plan.task.steps
    if step > most:
        key = "max_steps" if trainer.max_epochs is None else "max_epochs"
        raise ConfigError(f"trainer.{key}", getattr(trainer, key), f"{path} has {step} steps already; give at least as many, here {most}")
    return step


def run(session: Session, folder: Path, result: Record) -> None:
    """Train, export the adapter, measure it and the base model, fill in the record."""
    built, plan, module = session.parts, session.parts.plan, session.module
    with loggers.opened(_logged(plan, session.from_step), folder) as opened, losses_named(), adapter_folder(plan, folder) as adapter:
        session.trainer.loggers = opened
        loggers.summarise(opened, plan.counts.metrics())
        record.forget_peak_memory()
        result["qpa"]["resumed_from_step"] = session.from_step
        try:
            fit(session)
            export(built, adapter)
        finally:  # what was run on a device is paid for, whatever came of it
            result["qpa"]["usage"] = asdict(built.usage) if built.usage else None
        sent, total, says = module.exchange.sent, methods.total_parameters(built.model), outputs(module.learner, plan.task.probe())
        module.learner.drop()
        scores = session.keeper.scores if built.usage is None else {}  # what is sampled is sampled anew for the export
        known = {"val": scores} if scores else {}
        measured = measure(plan, session.trainer, adapter, trained=says, known=known)
        if plan.context.first:
            plan.task.draw(measured, adapter, folder / f"{DRAWN}.{plan.task.picture.kind}")
        marks, samples = answers.ask(plan, adapter)
        answers.save(samples, folder)
        measured |= marks
        size, seconds = saved.weights_file(adapter).stat().st_size, session.clock.seconds
        record.fill(result, plan, measured=measured, file_size=size, seconds=seconds, sent=sent, total=total)
        record.fill_length(result, plan.task, steps=session.trainer.global_step, reason=session.stopping.reason)
        baseline.compare(plan, result)
        loggers.summarise(opened, record.summary(result, measured))
        loggers.tabled(opened, "answers", samples)


def _logged(plan: Plan, from_step: int) -> Logged:
    config = plan.config
    return Logged(config.logger, config.model_dump(by_alias=True), plan.context, plan.task.metric, "train", from_step)


def fit(session: Session) -> None:
    """Train to the last step or until something ends it before, validate that too, and go back to the best step by validation."""
    plan, trainer, module, keeper = session.parts.plan, session.trainer, session.module, session.keeper
    held_out = plan.task.held_out()["val"]
    train = plan.task.train_loader(from_step=session.from_step)
    if session.resume_from is None:
        module.adaptation.write()  # the first weights; then each step of the optimizer writes the next
    trainer.fit(module, train, held_out, ckpt_path=session.resume_from, weights_only=True)
    if keeper.judged != trainer.global_step and (trainer.global_step % plan.config.trainer.val_every or keeper.score is None):
        (last,) = trainer.validate(module, held_out, verbose=False)
        keeper.judge(trainer, last[f"val/{plan.task.metric.name}"])
    with torch.no_grad():  # no step follows
        module.load_state_dict(checkpoints.read(keeper.best)["state_dict"])
