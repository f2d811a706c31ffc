"""Group `circuit`: the ansatz, what runs it, and how it is measured and differentiated."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qpa.config.part import Part
from qpa.config.section import Section
from qpa.core.circuits.ansatz import ANGLES


class CircuitConfig(Section):
    """The circuits of a run."""

    part = Part.ANSATZ

    rotations: Annotated[list[Literal["RX", "RY", "RZ", "U3"]], Part.SIZES] = Field(min_length=1)
    entangler: Literal["linear", "reverse_linear", "ring", "all_to_all", "brick"]
    gate: Literal["CNOT", "CZ", "CRX", "CRY", "CRZ", "CU3"]
    final_rotations: Annotated[bool, Part.SIZES]
    qubits: Annotated[int | None, Part.METHOD] = Field(ge=1)
    layers: Annotated[int, Part.SIZES] = Field(ge=1)
    backend: Annotated[Literal["statevector", "torchquantum", "pennylane", "qiskit"], Part.COURSE]
    device: Annotated[str | None, Part.COURSE]
    shots: Annotated[int | None, Part.COURSE] = Field(ge=1)
    gradient: Annotated[Literal["exact", "parameter_shift", "spsa"] | None, Part.COURSE]
    noise: Annotated[float | None, Part.COURSE] = Field(gt=0, lt=1)
    mitigate_readout: Annotated[bool, Part.COURSE]

    @property
    def samples(self) -> bool:
        """Whether circuits give samples, so that no exact gradient is to be had."""
        return self.shots is not None or self.backend == "qiskit"

    @property
    def rule(self) -> str:
        """How gradients are computed: `exact` is autograd through a simulator."""
        return self.gradient or ("parameter_shift" if self.samples else "exact")

    @model_validator(mode="after")
    def _refuse_what_does_not_go_together(self) -> "CircuitConfig":
        if set(self.rotations) == {"RZ"}:
            raise ValueError("rotations=[RZ] leaves every probability as it is; add RY or RX")
        if ANGLES[self.gate]:
            angles = f"gate={self.gate} has angles, those of its first qubit, so every qubit has to control one other"
            if self.entangler != "ring":
                raise ValueError(f"entangler={self.entangler}: {angles}; entangler=ring, or gate=CNOT or CZ")
            if self.qubits == 1:
                raise ValueError(f"qubits=1: {angles}; two qubits or more, or gate=CNOT or CZ")
        if self.device is not None and self.backend not in ("pennylane", "qiskit"):
            raise ValueError(f"device={self.device}: backend={self.backend} has none; leave it out, or backend=qiskit or pennylane")
        if self.gradient == "exact" and self.samples:
            raise ValueError("gradient=exact needs a simulator's exact probabilities; parameter_shift or spsa")
        if self.backend == "qiskit" and self.shots is None and self.device not in (None, "aer"):
            raise ValueError(f"device={self.device} gives samples: say how many for each circuit, as in circuit.shots=1024")
        on_aer = self.backend == "qiskit" and self.device in (None, "aer") and self.shots is not None
        if self.noise is not None and not on_aer:
            raise ValueError(f"noise={self.noise} is of backend=qiskit device=aer with shots alone; fake devices bring their own")
        if self.mitigate_readout and not (self.backend == "qiskit" and (self.device or "aer") != "aer"):
            raise ValueError("mitigate_readout=true corrects a fake or real device of backend=qiskit; set it to false")
        return self
