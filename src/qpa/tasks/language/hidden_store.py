"""Hidden states of a frozen body, kept on disk: where only the head is adapted, the body need not read a window twice.

One memory-mapped file per model and text, `[windows, T, hidden]` in the body's own dtype, filled window by window as a run
comes to it; a byte per window says whether it is there. Runs of a sweep share it, at the same time if need be: what two
write to the same place is the same.
"""

import fcntl
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

STORED_AS = {torch.bfloat16: np.uint16, torch.float16: np.uint16, torch.float32: np.float32}


def store_path(folder: Path, *, model: str, windows: str) -> Path:
    """The file's place in a cache folder, without its ending.

    Args:
        folder: the cache folder.
        model: identifies the body, its weights and how it computes.
        windows: identifies the text and how it is cut.
    """
    return folder / "hidden" / hashlib.sha256(f"{model}|{windows}".encode()).hexdigest()[:24]


class HiddenStore:
    """The hidden states of one text's windows.

    Args:
        path: of the file, without its ending.
        windows: how many there are.
        shape: `[T, hidden]` of one.
        dtype: of the body.
    """

    def __init__(self, path: Path, *, windows: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.dtype = dtype
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_suffix(f".{str(dtype).removeprefix('torch.')}")
        self.states, fresh = _mapped(file, np.dtype(STORED_AS[dtype]), (windows, *shape))
        self.there, _ = _mapped(path.with_suffix(".there"), np.dtype(np.uint8), (windows,))
        if fresh:  # the file of states was deleted, or had another size: what the flags say is of that one
            self.there[:] = 0

    def read(self, indices: Sequence[int]) -> Tensor | None:
        """`[B, T, hidden]` of some windows, None if one of them is not there yet."""
        if not self.there[indices].all():
            return None
        return torch.from_numpy(self.states[indices]).view(self.dtype)

    def write(self, indices: Sequence[int], hidden: Tensor) -> None:
        """Keep `[B, T, hidden]` of some windows."""
        plain = hidden.detach().to("cpu", self.dtype).contiguous()
        self.states[indices] = plain.view(torch.uint16).numpy() if self.states.dtype == np.uint16 else plain.numpy()
        self.there[indices] = 1

    @staticmethod
    def bytes(windows: int, shape: tuple[int, int], dtype: torch.dtype) -> int:
        """Size of the whole file."""
        return windows * shape[0] * shape[1] * dtype.itemsize


def _mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> tuple[np.memmap, bool]:
    """A file of zeros where there is none, else the one there is; and whether it is new.

    Raises:
        OSError: the disk has no room for it. All of it is taken at once: to write into a map that has none kills the process.
    """
    size = dtype.itemsize * int(np.prod(shape))
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of two processes the second finds what the first has made
        file.seek(0, os.SEEK_END)
        fresh = file.tell() != size
        if fresh:
            file.truncate(0)
            os.posix_fallocate(file.fileno(), 0, size)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape), fresh
