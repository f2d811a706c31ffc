"""The exported adapter, and what is measured of it: what another user will have, not the model that was trained."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from qpa.adapters import methods as peft_model
from qpa.config import Config
from qpa.errors import ExportError
from qpa.runs.parts import Assembly, base_to_adapt, shared_base
from qpa.tasks.language import source
from qpa.tasks.language.hidden_store import HiddenStore
from qpa.tasks.language.language_model import LanguageModel
from qpa.tasks.language.perplexity import Perplexity
from qpa.tasks.language.reading import HELD_OUT, HeldOut, Reading
from qpa.tasks.language.windows import Windows
from qpa.tasks.loaders import held_out_loader

COMPARED = 64  # tokens by which a saved adapter is compared with the trained one
SAME = 1e-3  # of the logits' spread: the same numbers, computed the same way
Measured = dict[str, dict[str, float | int]]  # by split


@contextmanager
def adapter_folder(folder: Path, trainer: Trainer) -> Iterator[Path]:
    """Where the adapter is written: of several processes the first writes the run's, the others one of their own to read it from."""
    if trainer.is_global_zero:
        yield folder / "adapter"
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place) / "adapter"


def export(config: Config, assembly: Assembly, adapter: Path) -> None:
    """Write the adapter as its adaptation makes it now."""
    with torch.no_grad():  # not a training step: circuits are sampled as they are wherever this adaptation is written
        assembly.adaptation.write()
    peft_model.save_adapter(assembly.model, adapter, base_name=source.published_name(config.model), initial=assembly.initial)


def measure(
    config: Config,
    trainer: Trainer,
    windows: dict[str, Windows],
    *,
    base_folder: Path | None,
    adapter: Path,
    stores: Mapping[str, HiddenStore] | None = None,
    trained: Tensor | None = None,
) -> Measured:
    """Perplexity of held-out text: of the base model as it is published, and with a saved adapter on it, as stock peft reads it.

    Whatever a method has done to the base's weights in training, these are what another user will have.

    Args:
        config: of the run.
        trainer: what runs the loaders.
        windows: by split.
        base_folder: of the base model's files.
        adapter: the saved adapter's folder.
        stores: hidden states that are kept, by split.
        trained: `logits` of the model that was trained.

    Raises:
        ExportError: the saved adapter does not say what the trained model says.
    """
    models = shared_base(config, base_folder), peft_model.load_adapter(base_to_adapt(config, base_folder), adapter)
    paper = config.data.protocol == "paper"
    base, adapted = (HeldOut(LanguageModel(model), stores or {}, paper_protocol=paper) for model in models)
    if trained is not None and not peft_model.same_logits(logits(adapted, windows["val"]), trained, within=SAME):
        problem = "the saved adapter, read by peft on the published base model, does not say what the trained model says"
        raise ExportError(f"peft={config.peft['_target_']}: {problem}; choose another method or other settings of it")
    texts = [split for split in HELD_OUT if split in windows]
    for reader in (base, adapted):
        trainer.test(reader, [held_out_loader(config, windows[split]) for split in texts], verbose=False)
    return {split: _pair(base.perplexity(split), adapted.perplexity(split)) for split in texts} | _legacy(base, adapted)


def _pair(base: Perplexity, adapted: Perplexity) -> dict[str, float | int]:
    return {"perplexity": float(adapted.compute()), "base_perplexity": float(base.compute()), "tokens": adapted.count()}


def _legacy(base: HeldOut, adapted: HeldOut) -> Measured:
    if base.legacy is None or adapted.legacy is None:
        return {}
    return {"legacy": {"perplexity": float(adapted.legacy.compute()), "base_perplexity": float(base.legacy.compute())}}


@torch.no_grad()
def logits(reader: Reading, windows: Windows) -> Tensor:
    """What a model says of the first held-out tokens, `[1, t, vocabulary]`, on the CPU."""
    first = windows[0]
    batch = {"input_ids": first["input_ids"][None].to(reader.language.base.device), "index": torch.tensor([0])}
    reader.eval()
    with reader.as_stock_peft():
        return reader.language.head(reader.hidden(batch, "val")[:, :COMPARED]).float().cpu()
