"""Groups `generator`, `latents` and `mapper`: what makes the adapter's weights."""

from typing import Annotated, Literal

from pydantic import Field

from qpa.config.part import Part
from qpa.config.section import Section


class GeneratorConfig(Section):
    """Group `generator`, and all that kind `none` has: the adapter's own weights are trained."""

    part = Part.METHOD

    kind: str


class QPAGeneratorConfig(GeneratorConfig):
    """Kind `qpa`: the adapter's weights are generated."""

    circuits: Literal["per_module", "shared"]
    start: Literal["peft", "paper"]


class LatentsConfig(Section):
    """Group `latents`: what gives each chunk its number; circuits, or a control that has no settings of its own."""

    part = Part.METHOD

    kind: str
    start: Literal["random"] | None = None  # not in what an earlier qpa has saved, nor in other packages' files


class MLPLatentsConfig(LatentsConfig):
    """Kind `mlp`: a small network per circuit."""

    hidden: int | None = Field(ge=1)


class MPSLatentsConfig(LatentsConfig):
    """Kind `mps`: a matrix-product state per circuit."""

    bond_dimension: int | None = Field(ge=1)


class MapperConfig(Section):
    """Group `mapper`, and what all of its kinds have: from the chunks' numbers to the chunks of weights."""

    part = Part.METHOD

    kind: str
    chunk_size: int | None = Field(ge=1)


class RowsMapperConfig(MapperConfig):
    """Kinds `tied` (neighbouring layers share their rows) and `codes` (products of learned codes in a basis of shared rows)."""

    width: int = Field(ge=1)


class PaperMapperConfig(MapperConfig):
    """Kind `paper`: the paper's MLP, from a basis state's bits and its probability to a chunk of weights."""

    hidden: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    activation: Literal["tanh", "silu", "gelu", "relu", "none"]


class QuantumTrainMapperConfig(PaperMapperConfig):
    """Kind `quantum_train`: that MLP on probabilities squeezed by `(bound * tanh(gain * 2**(N-1) * p)) ** power`, less their mean.

    Kind `quantum_train_scaled`: these three trained too, and a factor for each tensor.
    """

    labels: Literal["basis", "random"]
    gain: float = Field(gt=0)
    bound: float = Field(gt=0)
    power: float = Field(gt=0)


class SubspaceMapperConfig(MapperConfig):
    """Kind `subspace`: all weights in a random subspace."""

    numbers: int = Field(ge=1)
