"""What makes a generator: of a whole run's config the groups that the method itself is made of."""

from typing import Annotated

from pydantic import Field, SerializeAsAny

from qpa.config.circuit import CircuitConfig
from qpa.config.generator import (
    GeneratorConfig,
    LatentsConfig,
    MapperConfig,
    MLPLatentsConfig,
    MPSLatentsConfig,
    PaperMapperConfig,
    QPAGeneratorConfig,
    QuantumTrainMapperConfig,
    RowsMapperConfig,
    SubspaceMapperConfig,
)
from qpa.config.kinds import Kinds
from qpa.config.part import Part
from qpa.config.section import Section

GENERATORS = {"qpa": QPAGeneratorConfig, "none": GeneratorConfig}
LATENTS = dict.fromkeys(("circuit", "frozen_circuit", "table", "shared_table", "random_features", "zeros", "random"), LatentsConfig)
LATENTS |= {"mlp": MLPLatentsConfig, "mps": MPSLatentsConfig}
MAPPERS = {"tied": RowsMapperConfig, "codes": RowsMapperConfig, "paper": PaperMapperConfig, "quantum_train": QuantumTrainMapperConfig}
MAPPERS |= {"quantum_train_scaled": QuantumTrainMapperConfig, "subspace": SubspaceMapperConfig}

Latents = Annotated[SerializeAsAny[LatentsConfig], Kinds("latents", LATENTS)]
Mapper = Annotated[SerializeAsAny[MapperConfig], Kinds("mapper", MAPPERS)]
Seed = Annotated[int, Part.SEED, Field(ge=0, lt=2**32)]


class Settings(Section):
    """Of one generator."""

    generator: QPAGeneratorConfig
    latents: Latents
    circuit: CircuitConfig
    mapper: Mapper
    seed: Seed

    @property
    def runs_circuits(self) -> bool:
        """Whether circuits give the chunks' numbers, trained or not."""
        return self.latents.kind in ("circuit", "frozen_circuit")
