"""What gradients cost in circuits and shots, counted beforehand and while a run goes on; no torch here."""

from dataclasses import dataclass

SECONDS_PER_SHOT = 300e-6  # a superconducting device's usual delay between shots (250 us on IBM's), reset, gates and readout


@dataclass
class Usage:
    """What was run so far; `seconds` of a real device as it counts them, of a local one by the clock, 0 for drawn samples."""

    jobs: int = 0
    circuits: int = 0
    shots: int = 0
    seconds: float = 0.0

    def add(self, circuits: int, shots: int, seconds: float) -> None:
        """Count one job of `shots` per circuit."""
        self.jobs += 1
        self.circuits += circuits
        self.shots += circuits * shots
        self.seconds += seconds


def circuits_per_step(rule: str, angles: int) -> int:
    """How many circuits one circuit and its gradient need, `angles` being its `A Q`."""
    return {"exact": 1, "parameter_shift": 1 + 2 * angles, "spsa": 3}[rule]
