"""What runs circuits, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Execution:
    """How circuits are run, measured and differentiated; by default exactly, by what is always there.

    Attributes:
        backend: `statevector`, `torchquantum`, `pennylane` or `qiskit`.
        device: PennyLane's name of one, or `aer`, `fake_NAME` or a real device's name; None for the backend's simplest.
        shots: samples of every circuit, None for exact probabilities.
        gradient: `exact`, `parameter_shift` or `spsa`; None for the best there is.
        noise: of Aer: depolarising probability of every two-qubit gate.
        mitigate_readout: whether a fake or real device's readout errors are corrected.
    """

    backend: str = "statevector"
    device: str | None = None
    shots: int | None = None
    gradient: str | None = None
    noise: float | None = None
    mitigate_readout: bool = False

    @property
    def samples(self) -> bool:
        """Whether circuits give samples, so that no exact gradient is to be had."""
        return self.shots is not None or self.backend == "qiskit"

    @property
    def rule(self) -> str:
        """How gradients are computed: `exact` is autograd through a simulator."""
        return self.gradient or ("parameter_shift" if self.samples else "exact")
