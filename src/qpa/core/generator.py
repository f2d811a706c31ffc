"""The generator: from a few trained numbers to all weights of an adapter (paper, section 3)."""

import torch
from torch import Tensor, nn

from qpa.core.layout import Layout, Slot
from qpa.core.mappers.rows import Start
from qpa.errors import UserError


class Generator(nn.Module):
    """Weights of the whole adapter: a frozen start plus what latents and mapper generate.

    Args:
        layout: where each weight lies in the flat vector.
        latents: one number per chunk (`qpa.core.latents`: circuits, or a control in their place).
        mapper: from these to all chunks (`qpa.core.mappers`).
        start: the PEFT method's own initial weights as one flat vector, drawn from the seed, not trained, not saved. None as
            in the paper's released code: no start, and the mean of all generated weights taken away.
    """

    def __init__(self, layout: Layout, *, latents: nn.Module, mapper: nn.Module, start: Tensor | None) -> None:
        super().__init__()
        self.latents = latents
        self.mapper = mapper
        self.start = None if start is None else Start(layout, start.float())
        known = torch.zeros(1) if start is None else start.float()
        self.register_buffer("start_sums", torch.stack([known.double().sum(), known.double().abs().sum()]))
        self.start_sums: Tensor
        self.register_load_state_dict_pre_hook(_check_start)
        self.register_buffer("is_weight", _is_weight(layout) if start is None else None, persistent=False)
        self.is_weight: Tensor | None
        self.weight_count = layout.generated

    @property
    def device(self) -> torch.device:
        """Where its numbers are, and what it generates."""
        return self.start_sums.device

    @property
    def centred(self) -> bool:
        """Whether the mean of all weights is taken away, which needs all of them first."""
        return self.is_weight is not None

    def forward(self, out: Tensor | None = None) -> Tensor:
        """All weights as one flat vector, written into `out` where one is given."""
        generated = self.mapper(self.latents(), self.start, out)
        return generated if self.is_weight is None else generated - (generated * self.is_weight).sum() / self.weight_count


def view(flat: Tensor, slot: Slot) -> Tensor:
    """The part of a flat vector that is one tensor, in the tensor's own shape."""
    tensor = slot.tensor
    rows = flat[slot.offset :].as_strided((tensor.rows, tensor.row), (slot.stride, 1))
    return rows.t() if tensor.transposed else rows.view(tensor.shape)


def _is_weight(layout: Layout) -> Tensor:
    """Which numbers of the flat vector are weights, `[size]`: the last chunk of a stream may end in some that are not."""
    found = torch.zeros(layout.size, dtype=torch.bool)
    for slot in layout.slots:
        view(found, slot).fill_(True)
    return found


def _check_start(generator: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """The start is not saved but drawn again: refuse a checkpoint whose start was another."""
    saved = state.get(f"{prefix}start_sums")
    if saved is not None and not torch.allclose(saved.to(generator.start_sums), generator.start_sums, rtol=1e-6):  # pyright: ignore
        raise UserError(
            "this checkpoint was trained from other initial adapter weights than seed and config give here; "
            "use the seed, the config and the package versions in its run's result.json"
        )
