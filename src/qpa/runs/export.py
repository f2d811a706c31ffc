"""A run's best checkpoint written for others: as a plain PEFT adapter, or folded into the base model."""

from pathlib import Path

from qpa.adapters import saved
from qpa.config import Config
from qpa.files import whole_folder
from qpa.runs import measure, parts, restored
from qpa.training.quiet import quiet


def adapter(config: Config, folder: Path) -> Path:
    """Generate the adapter's weights from a run's best checkpoint and save them; gives their folder."""
    checkpoint = restored.best(folder)
    quiet()
    built = parts.build(restored.here(config))
    restored.load(built.adaptation, checkpoint)
    measure.export(built, folder / "adapter")
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
