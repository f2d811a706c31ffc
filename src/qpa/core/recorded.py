"""Work on a GPU that is the same each time, recorded once as CUDA graphs: thousands of small kernels then take one launch.

A graph runs the same kernels on the same memory. So what is recorded reads and writes tensors that stay where they are, never waits for
the device, and does nothing on the CPU that a replay would have to do again.
"""

import gc
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
WARM_UP = 3  # runs before a recording: kernels are loaded and workspaces taken outside of it


class Recorded(Generic[T]):
    """A function without arguments, as a CUDA graph.

    Attributes:
        result: what the function gave when it was recorded; each replay writes its tensors anew.

    Args:
        function: what is recorded; it is not run again.
        pool: the memory that graphs which run one after another share.
    """

    def __init__(self, function: Callable[[], T], pool: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):  # other threads may pin memory meanwhile
            self.result = function()

    def __call__(self) -> T:
        """Run it again."""
        self.graph.replay()
        return self.result


def possible(device: torch.device) -> bool:
    """Whether there are such graphs on a device."""
    return device.type == "cuda"


def record(*functions: Callable[[], T]) -> list[Callable[[], T]]:
    """Functions that run one after another, as CUDA graphs to be replayed in this order.

    Raises:
        RuntimeError: something in them cannot be recorded, as a wait for the device; in torch's or CUDA's words.
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            for function in functions:
                function()
    torch.cuda.current_stream().wait_stream(beside)
    gc.collect()  # what a dead cycle holds of the warm-up's autograd graph would add gradients up on its stream
    pool = torch.cuda.graph_pool_handle()
    return [Recorded(function, pool) for function in functions]
