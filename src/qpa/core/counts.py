"""How many numbers are trained, by part, and how many plain PEFT would train."""

from dataclasses import dataclass

from qpa.core.generator import Generator


@dataclass(frozen=True)
class Counts:
    """Counts of trained numbers.

    Attributes:
        latents: of what makes the numbers of chunks: the circuits' angles, or a control's weights.
        mapper: the mapper's weights.
        trainable: both, or the adapter's own numbers where nothing is generated.
        plain_peft: the adapter's own numbers.
    """

    latents: int
    mapper: int
    trainable: int
    plain_peft: int

    def __str__(self) -> str:
        parts = f"circuits or what stands in their place {self.latents:,}, mapper {self.mapper:,}"
        return f"{self.trainable:,} numbers are trained ({parts}): {100 * self.ratio:.2f} % of {self.plain_peft:,}"

    @property
    def ratio(self) -> float:
        """Trained numbers as a share of plain PEFT's."""
        return self.trainable / self.plain_peft

    def metrics(self) -> dict[str, float]:
        """Under the names that dashboards compare by."""
        return {f"params/{name}": value for name, value in self.record().items()}

    def record(self) -> dict[str, float]:
        """As they stand in `result.json`, where the latents have always been called `circuit`."""
        counts = {"circuit": self.latents, "mapper": self.mapper, "trainable": self.trainable, "plain_peft": self.plain_peft}
        return {**counts, "ratio": self.ratio}


def count(generator: Generator, plain_peft: int) -> Counts:
    """The counts of a generator."""
    latents, mapper = (sum(p.numel() for p in part.parameters() if p.requires_grad) for part in (generator.latents, generator.mapper))
    return Counts(latents, mapper, latents + mapper, plain_peft)


def direct(plain_peft: int) -> Counts:
    """The counts where the adapter's own numbers are trained."""
    return Counts(0, 0, plain_peft, plain_peft)
