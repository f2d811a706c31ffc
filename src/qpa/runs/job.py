"""The heavy part of a run: build, fit, measure, export. Lightning's trainer enters here."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from pytorch_lightning import Callback, Trainer

from qpa.config import Config, TrainerConfig
from qpa.core.adaptation import GeneratedAdaptation
from qpa.core.latents import Circuits
from qpa.errors import ConfigError
from qpa.runs import baseline, numerics, record
from qpa.runs.measurement import Measured, adapter_folder, export, logits, measure
from qpa.runs.parts import Assembly, assemble, planned_adapter
from qpa.runs.preflight import check_layout, known_tensors
from qpa.runs.recipe import check_numbers
from qpa.tasks.language import base_model, quantization, source
from qpa.tasks.language.hidden_store import HiddenStore, store_path
from qpa.tasks.language.reading import HELD_OUT
from qpa.tasks.language.windows import Windows
from qpa.tasks.loaders import held_out_loader, train_loader
from qpa.training import checkpoints, loggers
from qpa.training import processes as launch
from qpa.training.callbacks import EntanglementLog, StepClock, progress
from qpa.training.checkpoints import Checkpoints, DamagedError, WholeFiles
from qpa.training.exchange import losses_named
from qpa.training.module import FineTuning
from qpa.training.quiet import quiet
from qpa.training.signals import Signals
from qpa.training.strategy import GradientsOnly

MOST_WATCHED = 1 << 18  # amplitudes of all circuits


@dataclass(frozen=True)
class Prepared:
    """All that can be built before a run's folder is touched.

    Attributes:
        resume_from: a checkpoint that fits, None to start from the beginning.
        from_step: the optimizer step it was written after.
    """

    assembly: Assembly
    module: FineTuning
    resume_from: Path | None
    from_step: int


def prepare(config: Config, base_folder: Path | None, windows: dict[str, Windows], candidates: Sequence[Path]) -> Prepared:
    """Build model, adaptation and optimizer, and read the first of the checkpoints that is not damaged.

    Raises:
        ConfigError: the checkpoint does not fit, all are damaged, or a library refuses one of the config's values.
    """
    quiet()
    base_model.check_tokens(config.model, base_folder, windows.values())
    loggers.check(config)
    make_trainer(config.trainer, Path("."), loggers=[], callbacks=[])  # writes nothing; the run makes its own
    layout = check_layout(config, known_tensors(config) or planned_adapter(config, base_folder)[0])
    if layout is not None:  # what cannot work is refused before any weight is loaded
        check_numbers(config, layout)
    assembly = assemble(config, base_folder)
    counts = assembly.parameters
    if counts.ratio > 1:
        print(
            f"qpa: {counts.trainable:,} numbers are trained to generate {counts.plain_peft:,}; python -m qpa.plan finds fewer",
            file=sys.stderr,
        )
    try:
        module = FineTuning(config, assembly.model, assembly.adaptation)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError("peft", config.peft["_target_"], f"the adapted model does not run: {reason}") from error
    for split in HELD_OUT:
        if split in windows:
            held_out_loader(config, windows[split])  # refuses fewer windows than processes
    module.configure_optimizers()
    if config.trainer.compile:
        torch.compiler.reset()  # what an earlier job of a sweep has compiled counts against the limit
        module.language.compile()
    module.stores = open_stores(config, module, windows, base_folder=base_folder)
    resume_from, content = _newest_good(config, candidates) if candidates else (None, None)
    from_step = _fit_checkpoint(config, assembly, resume_from, content) if resume_from and content else 0
    return Prepared(assembly, module, resume_from, from_step)


def _newest_good(config: Config, candidates: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    """The first of the checkpoints that is not damaged, and its content; of damaged ones a line is said."""
    for path in candidates:
        try:
            return path, checkpoints.read(path)
        except DamagedError:
            print(f"qpa: {path} is damaged and skipped", file=sys.stderr)
    raise ConfigError("ckpt", config.ckpt, f"{candidates[-1]} is no checkpoint, or damaged; leave ckpt out to start anew")


def _fit_checkpoint(config: Config, assembly: Assembly, path: Path, content: dict[str, Any]) -> int:
    """The step of a checkpoint of a run as this one, but for steps and rates."""
    mine, theirs = config.lineage(), content.get("lineage")
    if not isinstance(theirs, dict) or "computation" not in theirs:
        raise ConfigError("ckpt", path, "is of an older qpa, whose steps came to other numbers; leave ckpt out to start anew")
    if other := sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)):
        raise ConfigError("ckpt", path, f"is of a run with another {', '.join(other)}; leave ckpt out to start anew")
    try:
        assembly.adaptation.load_state_dict(content["state_dict"])
        step = int(content["global_step"])
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError("ckpt", path, "no checkpoint of this config (other sizes); leave ckpt out to start anew") from error
    if step > config.trainer.max_steps:
        raise ConfigError("trainer.max_steps", config.trainer.max_steps, f"{path} has {step} steps already; give at least {step}")
    return step


def run(
    config: Config, prepared: Prepared, *, base_folder: Path | None, windows: dict[str, Windows], folder: Path, result: record.Record
) -> None:
    """Train, export the adapter, measure it and the base model on the held-out windows, fill in the record."""
    assembly, module = prepared.assembly, prepared.module
    clock, settings = StepClock(), config.trainer
    keeper = Checkpoints(folder / "checkpoints", every=settings.checkpoint_every, val_every=settings.val_every)
    result["qpa"] |= {"resumed_from_step": prepared.from_step, "precision": settings.precision, "processes": settings.processes}
    with loggers.opened(config, folder, job_type="train", from_step=prepared.from_step) as opened, losses_named():
        trainer = make_trainer(settings, folder, loggers=opened, callbacks=[clock, keeper, Signals(keeper), *_watching(assembly)])
        loggers.summarise(opened, assembly.parameters.metrics())
        record.forget_peak_memory()
        with adapter_folder(folder, trainer) as adapter:
            try:
                fit(config, trainer, prepared, windows, keeper=keeper)
                export(config, assembly, adapter)
            finally:  # what was run on a device is paid for, whatever came of it
                result["qpa"]["usage"] = asdict(assembly.usage) if assembly.usage else None
            trained = logits(module, windows["val"])
            measured = measure(config, trainer, windows, base_folder=base_folder, adapter=adapter, stores=module.stores, trained=trained)
        if not trainer.is_global_zero:
            return
        total = quantization.count(assembly.model)
        counts = assembly.parameters.record()
        record.fill(result, config, folder, parameters=counts, measured=measured, seconds=clock.seconds, total_params=total)
        result["qpa"]["bytes_per_step"] = module.exchange.sent / len(clock.seconds) if clock.seconds else None
        baseline.compare(config, result)
        loggers.summarise(opened, record.summary(result))


def open_stores(config: Config, module: FineTuning, windows: dict[str, Windows], *, base_folder: Path | None) -> dict[str, HiddenStore]:
    """By split, where the body's output is kept; none where the config or the adapter does not allow it.

    Raises:
        ConfigError: it was asked for where more than the head is adapted, or where it does not fit.
    """
    data, language = config.data, module.language
    head_only, dtype = language.only_head_is_adapted(), language.base.dtype
    if data.cache_hidden and not head_only:
        raise ConfigError("data.cache_hidden", True, "more than the head is adapted, so what the body puts out changes; set it to false")
    drops_out = head_only and data.cache_hidden is not False and language.body_drops_out()
    if data.cache_hidden and drops_out:
        problem = "the body drops out while it is trained, and kept states would not; set it to null, or the model's dropout to 0"
        raise ConfigError("data.cache_hidden", True, problem)
    if data.cache_hidden is False or not head_only or drops_out:
        return {}
    shapes = {split: (len(w.rows), (w.tokens, language.width)) for split, w in windows.items()}
    size = sum(HiddenStore.bytes(n, shape, dtype) for n, shape in shapes.values()) / 2**30
    folder = source.cache_folder(config)
    if size > data.cache_hidden_gib:
        if data.cache_hidden:
            raise ConfigError("data.cache_hidden_gib", data.cache_hidden_gib, f"all hidden states take {size:.1f} GiB; give at least that")
        return {}
    print(f"Hidden states of the frozen body are kept, up to {size:.2f} GiB in {folder / 'hidden'}")
    gpu, versions = numerics.on_gpu(config.trainer.accelerator), f"{torch.__version__}|{transformers.__version__}"
    body = f"{source.identity(config, base_folder)}|{dtype}|{gpu}|{versions}"
    read_as = {split: config.trainer.precision if split == "train" else "as stock peft" for split in windows}  # FineTuning's two ways
    paths = {split: store_path(folder, model=f"{body}|{read_as[split]}", windows=w.key) for split, w in windows.items()}
    try:
        return {split: HiddenStore(paths[split], windows=n, shape=shape, dtype=dtype) for split, (n, shape) in shapes.items()}
    except OSError as error:
        reason = f"{size:.1f} GiB cannot be kept in {folder} ({error.strerror}); set it to false"
        raise ConfigError("data.cache_hidden", data.cache_hidden, reason) from error


def fit(config: Config, trainer: Trainer, prepared: Prepared, windows: dict[str, Windows], *, keeper: Checkpoints) -> None:
    """Train to `max_steps`, validate the last step too, and go back to the best step by validation perplexity."""
    held_out = held_out_loader(config, windows["val"])
    train = train_loader(config, windows["train"], from_step=prepared.from_step)
    trainer.fit(prepared.module, train, held_out, ckpt_path=prepared.resume_from, weights_only=True)
    if trainer.global_step % config.trainer.val_every or keeper.score is None:
        (last,) = trainer.validate(prepared.module, held_out, verbose=False)
        keeper.judge(trainer, last["val/perplexity"])
    prepared.module.load_state_dict(checkpoints.read(keeper.best)["state_dict"])


def evaluate(config: Config, *, base_folder: Path | None, windows: dict[str, Windows], adapter: Path) -> Measured:
    """Measure a saved adapter on held-out windows."""
    quiet()
    alone = config.trainer.model_copy(update={"strategy": "single", "devices": 1, "num_nodes": 1})
    config = numerics.resolved(config.model_copy(update={"trainer": alone}))
    base_model.check_tokens(config.model, base_folder, windows.values())
    trainer = make_trainer(config.trainer, adapter.parent, loggers=[], callbacks=[])
    with loggers.opened(config, adapter.parent / "evaluation", job_type="evaluate") as opened:
        found = measure(config, trainer, windows, base_folder=base_folder, adapter=adapter)
        loggers.summarise(opened, {f"{split}/{key}": value for split, numbers in found.items() for key, value in numbers.items()})
    return found


def make_trainer(settings: TrainerConfig, folder: Path, *, loggers: list, callbacks: list[Callback]) -> Trainer:
    """The Lightning trainer of config group `trainer`.

    Raises:
        ConfigError: Lightning refuses the settings; its own words are in the text.
    """
    ours = {"_target_": settings.target, "max_steps": settings.max_steps, "accumulate_grad_batches": settings.accumulate_grad_batches}
    ours |= {"gradient_clip_val": settings.gradient_clip_val, "log_every_n_steps": settings.log_every_n_steps}
    terminal = sys.stdout.isatty()
    speaks = launch.rank() == 0
    live = settings.enable_progress_bar and terminal and not record.in_sweep() and speaks
    ours |= {"precision": settings.precision, "enable_progress_bar": live}
    ours |= {"accelerator": settings.accelerator, "devices": settings.devices, "num_nodes": settings.num_nodes}
    together = settings.strategy == "ddp"
    fixed: dict[str, Any] = dict(
        max_epochs=-1,
        val_check_interval=settings.val_every * settings.accumulate_grad_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        inference_mode=False,  # leaves bound under inference mode could not be trained afterwards
        use_distributed_sampler=False,  # the order of windows is ours
        enable_model_summary=False,
        default_root_dir=folder,
        plugins=[WholeFiles(), *([TorchElasticEnvironment()] if together else [])],
        strategy=GradientsOnly() if together else "auto",
        logger=loggers,
        callbacks=[*callbacks, *([progress(live=live)] if speaks and (live or not terminal) else [])],
    )
    try:
        return instantiate(settings.arguments() | ours, **fixed)
    except InstantiationException as error:
        raise ConfigError("trainer", settings.target, " ".join(str(error.__cause__ or error).split())) from error


def _watching(assembly: Assembly) -> list[Callback]:
    """Circuits are watched where their states are small enough to be looked at."""
    adaptation = assembly.adaptation
    latents = adaptation.generator.latents if isinstance(adaptation, GeneratedAdaptation) else None
    if not isinstance(latents, Circuits) or len(latents.angles) << latents.angles.shape[-1] > MOST_WATCHED:
        return []
    return [EntanglementLog(latents)]
