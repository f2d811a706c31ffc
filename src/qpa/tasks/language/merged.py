"""A language model with an adapter folded into its weights, saved as transformers reads it, in fp32: bf16 would round small updates."""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from qpa.adapters import saved
from qpa.adapters.methods import AdaptedModel
from qpa.errors import ExportError

PROBE = 64  # tokens that adapter and merged model are compared by
SAME = 1e-3  # of the logits' spread


def save(model: AdaptedModel, folder: Path, *, vocabulary: int, beside: Path | None) -> None:
    """Fold, save, read again, and compare what is said.

    Args:
        model: the adapter on its base, neither quantised nor in bf16.
        folder: where to.
        vocabulary: how many tokens there are.
        beside: the folder whose tokenizer is saved as well, None where there is none.

    Raises:
        ExportError: the saved model does not say what the adapter says.
    """
    ids = torch.randint(vocabulary, (1, PROBE), generator=torch.Generator().manual_seed(0))
    expected = _logits(model.eval(), ids)
    cast(Any, saved.merge(model)).save_pretrained(folder)
    if not saved.same_outputs(
        _logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), ids), expected, within=SAME
    ):
        problem = "folded into the weights, saved and read again, the model does not say what the adapter says; use the adapter itself"
        raise ExportError(f"merged=true: {problem}")
    for file in beside.glob("tokenizer*") if beside else ():
        shutil.copy(file, folder)


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids).logits
