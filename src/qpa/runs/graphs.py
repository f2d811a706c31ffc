"""A trained model as a graph for other frameworks (ONNX), and the proof that it says the same there."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qpa.errors import ConfigError, ExportError

FILE = "model.onnx"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-3  # of the largest output: other kernels round otherwise


class Logits(nn.Module):
    """A model as what it says, alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        """Its logits."""
        said = self.model(*inputs)
        return getattr(said, "logits", said)


def save(model: nn.Module, inputs: dict[str, Tensor], folder: Path) -> None:
    """Write `model.onnx`, whose inputs have these names and any number of examples, and run it once.

    Raises:
        ConfigError: a package that is needed is not installed, or torch cannot write this model so, in its words.
        ExportError: onnxruntime finds other logits.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError("onnx", "true", f"{missing[0]} is not installed; make setup EXTRAS=onnx, or pip install 'qpa[onnx]'")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here needs
    logits, given = Logits(model).eval(), tuple(inputs.values())
    batch = torch.export.Dim("batch")
    try:
        torch.onnx.export(
            logits,
            given,
            folder / FILE,
            input_names=[*inputs],
            output_names=["logits"],
            dynamic_shapes={"inputs": tuple({0: batch} for _ in given)},
            external_data=False,
            verbose=False,
            dynamo=True,
        )
    except Exception as error:  # whatever torch raises of another's module
        raise ConfigError("onnx", "true", f"torch cannot write this model so ({str(error).strip().splitlines()[0]})") from error
    with torch.no_grad():
        _check(folder / FILE, inputs, logits(*given))


def _check(file: Path, inputs: dict[str, Tensor], expected: Tensor) -> None:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
    difference = float((torch.from_numpy(found) - expected).abs().max())
    if not difference <= LARGEST_DIFFERENCE * max(1.0, float(expected.abs().max())):
        raise ExportError(f"onnxruntime finds logits that differ by up to {difference:.2g} from torch's; nothing is written")
