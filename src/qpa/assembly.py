"""From a config to the objects of a run: base model, PEFT adapter, generator, adaptation."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from qpa import base_model, peft_model
from qpa.adaptation import Adaptation, DirectAdaptation, GeneratedAdaptation, Leaves
from qpa.circuits import backend
from qpa.config import CodeMapperConfig, Config, MapperConfig
from qpa.generator import Circuits, Generator
from qpa.layout import Layout
from qpa.mapper import CodeMapper, Mapper, MLPMapper
from qpa.preflight import check_memory, make_layout


@dataclass(frozen=True)
class Parameters:
    """How many numbers are trained, and how many plain PEFT would train."""

    circuit: int
    mapper: int
    trainable: int
    plain_peft: int

    @property
    def ratio(self) -> float:
        """Trained numbers as a share of plain PEFT's."""
        return self.trainable / self.plain_peft

    def metrics(self) -> dict[str, float]:
        """Under the names that dashboards compare by."""
        return {f"params/{name}": value for name, value in self.record().items()}

    def record(self) -> dict[str, float]:
        """As they stand in `result.json`."""
        return asdict(self) | {"ratio": self.ratio}


@dataclass(frozen=True)
class Assembly:
    """The objects of one run.

    Attributes:
        layout: None when the adapter's own weights are trained.
    """

    model: PeftModel
    adaptation: Adaptation
    parameters: Parameters
    layout: Layout | None


def assemble(config: Config, folder: Path | None) -> Assembly:
    """Load the base model from `folder` (None: random weights), wrap it, and build what is trained, all drawn from the seed."""
    peft_config = peft_model.make_config(config.peft)
    base = load_base(config, folder)
    model = peft_model.wrap(base, peft_config, seed=config.seed, gradient_checkpointing=config.model.gradient_checkpointing)
    parameters = peft_model.adapter_parameters(model)
    plain = sum(p.numel() for p in parameters.values())
    if config.generator.kind == "none":
        return Assembly(model, DirectAdaptation(parameters), Parameters(0, 0, plain, plain), None)
    layout = make_layout(config, peft_model.adapter_tensors(model))
    check_memory(config, circuits=layout.circuits, qubits=layout.qubits)
    leaves = Leaves(layout, parameters)
    generator = make_generator(config, layout, leaves.values)
    circuit, mapper = (sum(p.numel() for p in part.parameters()) for part in (generator.circuits, generator.mapper))
    counts = Parameters(circuit, mapper, circuit + mapper, plain)
    return Assembly(model, GeneratedAdaptation(generator, leaves), counts, layout)


def load_base(config: Config, folder: Path | None) -> PreTrainedModel:
    """The frozen model; random weights are drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return base_model.load(config.model, folder)


def make_generator(config: Config, layout: Layout, start: torch.Tensor) -> Generator:
    """The config's circuits and mapper, their initial weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        circuits = Circuits(layout, layers=config.circuit.layers, backend=backend(config.circuit.backend))
        mapper = make_mapper(config.mapper, layout)
    return Generator(start=start, circuits=circuits, mapper=mapper)


def make_mapper(settings: MapperConfig, layout: Layout) -> Mapper:
    """The config's mapper."""
    if isinstance(settings, CodeMapperConfig):
        return CodeMapper(layout, width=settings.width)
    return MLPMapper(layout, hidden=settings.hidden, activation=settings.activation)
