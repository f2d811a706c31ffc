"""The generator: from a few trained numbers to all weights of an adapter (paper, section 3)."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qpa.core.layout import Layout, Slot
from qpa.core.mappers.rows import Start
from qpa.errors import UserError

START, SETTINGS = "start_sums", "settings"  # in a state, beside what is trained
OTHER_START = (
    "this state was trained from other initial adapter weights than seed and config give here; "
    "use the seed, the config and the package versions of its run (a run's are in its result.json)"
)


class Generator(nn.Module):
    """Weights of the whole adapter: a frozen start plus what latents and mapper generate.

    Args:
        layout: where each weight lies in the flat vector.
        latents: one number per chunk (`qpa.core.latents`: circuits, or a control in their place).
        mapper: from these to all chunks (`qpa.core.mappers`).
        start: the PEFT method's own initial weights as one flat vector, drawn from the seed, not trained, not saved. None as
            in the paper's released code: no start, and the mean of all generated weights taken away.
        settings: what latents and mapper were made with, in words; told apart from others when a state is loaded.
        recordable: whether latents and mapper do the same at each call, on tensors alone (`qpa.core.recorded`).
    """

    def __init__(
        self,
        layout: Layout,
        *,
        latents: nn.Module,
        mapper: nn.Module,
        start: Tensor | None,
        settings: str = "",
        recordable: bool = False,
    ) -> None:
        super().__init__()
        self.recordable = recordable
        self.latents = latents
        self.mapper = mapper
        self.start = None if start is None else Start(layout, start.float())
        known = torch.zeros(1) if start is None else start.float()
        self.register_buffer("start_sums", torch.stack([known.double().sum(), known.double().abs().sum()]))
        self.start_sums: Tensor
        self.register_buffer("settings", torch.tensor(_hashed(settings)))
        self.settings: Tensor
        self.register_buffer("is_weight", _is_weight(layout) if start is None else None, persistent=False)
        self.is_weight: Tensor | None
        self.weight_count = layout.generated

    @property
    def device(self) -> torch.device:
        """Where its numbers are, and what it generates."""
        return self.start_sums.device

    def forward(self) -> Tensor:
        """All weights as one flat vector, `[size]`."""
        generated = self.mapper(self.latents(), self.start)
        return generated if self.is_weight is None else generated - (generated * self.is_weight).sum() / self.weight_count

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state that is not of this generator: of other sizes, other settings, or trained from another start, which is not in it.

        Raises:
            UserError: what is other.
        """
        mine = self.state_dict()
        for name, here in mine.items():
            there = state.get(name, here if name == SETTINGS else None)  # of an earlier qpa
            if there is None or there.shape != here.shape:
                sizes = f"{list(there.shape)} there and {list(here.shape)} here" if there is not None else "not in it"
                raise UserError(f"this state is of another generator: {name} is {sizes}; give the same model and settings")
        if more := state.keys() - mine.keys():
            raise UserError(f"this state is of another generator: it has {min(more)}, which is not here; give the same settings")
        if bool(state.get(SETTINGS, mine[SETTINGS]).to(mine[SETTINGS]) != mine[SETTINGS]):
            raise UserError("this state is of another generator, of equal sizes; give the same circuit, latents and mapper")
        if not torch.allclose(state[START].to(mine[START]), mine[START], rtol=1e-6):
            raise UserError(OTHER_START)


def view(flat: Tensor, slot: Slot) -> Tensor:
    """The part of a flat vector that is one tensor, in the tensor's own shape."""
    tensor = slot.tensor
    rows = flat[slot.offset :].as_strided((tensor.rows, tensor.row), (slot.stride, 1))
    return (rows.t() if tensor.transposed else rows).view(tensor.shape)


def real(tensor: Tensor) -> Tensor:
    """The tensor, or of a complex one its real and imaginary parts as neighbours, in the same memory."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def real_shape(tensor: Tensor) -> tuple[int, ...]:
    """Of that."""
    return (*tensor.shape, 2) if tensor.is_complex() else tuple(tensor.shape)


def _is_weight(layout: Layout) -> Tensor:
    """Which numbers of the flat vector are weights, `[size]`: the last chunk of a stream may end in some that are not."""
    found = torch.zeros(layout.size, dtype=torch.bool)
    for slot in layout.slots:
        view(found, slot).fill_(True)
    return found


def _hashed(words: str) -> int:
    """63 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
