"""A run's best checkpoint written for others: as a plain PEFT adapter, as what makes it, or folded into the base model."""

from pathlib import Path
from typing import cast

from qpa.adapters import base_weights, saved
from qpa.adapters.methods import AdaptedModel
from qpa.config import Config
from qpa.errors import ConfigError
from qpa.files import whole_folder
from qpa.library.generate import Generated
from qpa.library.load import load
from qpa.runs import graphs, measure, parts, restored
from qpa.runs.parts import Parts
from qpa.training.quiet import quiet


def adapter(config: Config, folder: Path) -> Path:
    """Generate the adapter's weights from a run's best checkpoint and save them; gives their folder."""
    measure.export(_best(config, folder), folder / "adapter")
    return folder / "adapter"


def compact(config: Config, folder: Path) -> Path:
    """Save what makes the adapter's weights, from a run's best checkpoint; gives its folder.

    Raises:
        ConfigError: nothing makes them: the run trained the adapter itself.
        UserError: they could not be made from it again.
    """
    if config.generator.kind == "none":
        raise ConfigError(
            "generator", "none", "this run has trained the adapter itself, so that nothing smaller makes it; leave out compact=true"
        )
    built = _best(config, folder)
    assert isinstance(built.adaptation, Generated)
    built.model.peft_config["default"].base_model_name_or_path = built.plan.task.base_name()
    built.adaptation.save(folder / "compact")
    return folder / "compact"


def expanded(config: Config, folder: Path) -> Path:
    """Make the adapter from a run's compact form alone, without its checkpoint, and save it; gives its folder.

    Raises:
        UserError: there is none, or it does not give the weights that it gave when it was saved.
    """
    quiet()
    task = restored.here(config).task
    model = cast(AdaptedModel, load(task.base(own=base_weights.changes_base(config.peft)), folder / "compact"))
    saved.save_adapter(model, folder / "adapter", base_name=task.base_name())
    task.save_beside(folder / "adapter")
    return folder / "adapter"


def merged(config: Config, folder: Path) -> Path:
    """Fold a run's saved adapter into the base model and save the whole; gives its folder.

    Raises:
        ExportError: the saved model does not say what the adapter says; nothing is written.
    """
    quiet()
    task = restored.here(config).task
    with whole_folder(folder / "merged") as scratch:
        task.save_merged(lambda base: saved.load_adapter(base, folder / "adapter"), scratch)
    return folder / "merged"


def onnx(config: Config, folder: Path) -> Path:
    """Save a run's model, with its saved adapter folded in where it can be, for other frameworks; gives its folder.

    Raises:
        ConfigError: this task's models cannot be saved so, or the packages for it are missing.
        ExportError: the saved model does not say what the adapted one says; nothing is written.
    """
    quiet()
    task = restored.here(config).task
    inputs = task.inputs()
    if inputs is None:
        raise ConfigError("onnx", "true", "this task's models have no ONNX form here; leave it out, or merged=true")
    model = saved.load_adapter(task.base(own=True), folder / "adapter").eval()
    with whole_folder(folder / "onnx") as scratch:
        graphs.save(saved.merge(model), inputs, scratch)
        task.save_beside(scratch)
    return folder / "onnx"


def _best(config: Config, folder: Path) -> Parts:
    """A run's objects as they were at its best step."""
    checkpoint = restored.best(folder)
    quiet()
    built = parts.build(restored.here(config))
    restored.load(built.adaptation, checkpoint)
    return built
