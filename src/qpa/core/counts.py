"""How many numbers are trained, by part, and how many plain PEFT would train."""

from dataclasses import dataclass

from qpa.core.generator import Generator


@dataclass(frozen=True)
class Counts:
    """Counts of trained numbers.

    Attributes:
        latents: of what makes the numbers of chunks: the circuits' angles, or a control's weights.
        mapper: the mapper's weights.
        trainable: both and what is beside them, or the adapter's own numbers where nothing is generated.
        plain_peft: the adapter's own numbers, those of `beside` among them.
        beside: what is trained plainly beside the generator, as a new head.
    """

    latents: int
    mapper: int
    trainable: int
    plain_peft: int
    beside: int = 0

    def __str__(self) -> str:
        parts = f"circuits or what stands in their place {self.latents:,}, mapper {self.mapper:,}"
        parts += f", plainly beside them {self.beside:,}" if self.beside else ""
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
        return {**counts, **({"beside": self.beside} if self.beside else {}), "ratio": self.ratio}


def count(generator: Generator, generated: int, *, beside: int = 0) -> Counts:
    """The counts of a generator, and of what is trained plainly beside it."""
    latents, mapper = (sum(p.numel() for p in part.parameters() if p.requires_grad) for part in (generator.latents, generator.mapper))
    return Counts(latents, mapper, latents + mapper + beside, generated + beside, beside)


def direct(plain_peft: int) -> Counts:
    """The counts where the adapter's own numbers are trained."""
    return Counts(0, 0, plain_peft, plain_peft)
