"""How many numbers are trained, by part, and how many plain PEFT would train."""

from dataclasses import asdict, dataclass

from qpa.core.generator import Generator


@dataclass(frozen=True)
class Parameters:
    """Counts of trained numbers.

    Attributes:
        circuit: angles, or what the control in the circuits' place trains.
        mapper: the mapper's weights.
        trainable: both, or the adapter's own numbers where nothing is generated.
        plain_peft: the adapter's own numbers.
    """

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


def count(generator: Generator, plain_peft: int) -> Parameters:
    """The counts of a generator."""
    circuit, mapper = (sum(p.numel() for p in part.parameters()) for part in (generator.latents, generator.mapper))
    return Parameters(circuit, mapper, circuit + mapper, plain_peft)


def direct(plain_peft: int) -> Parameters:
    """The counts where the adapter's own numbers are trained."""
    return Parameters(0, 0, plain_peft, plain_peft)
