"""What single commands have beside a run's config."""

from typing import Annotated, Literal

from pydantic import Field

from qpa.config.section import Section


class PlanConfig(Section):
    """Group `plan`, of `qpa.plan` alone."""

    output: Literal["table", "json"]
    target_ratio: float | None = Field(gt=0)


class TuneConfig(Section):
    """Group `tune`, of `qpa.tune` alone."""

    trials: int = Field(ge=1)


class ChatConfig(Section):
    """What `qpa.chat` takes beside a run."""

    prompt: str | None = Field(default=None, min_length=1)
    template: str | None = None
    max_tokens: int = Field(default=200, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**32)


class AnalysisConfig(Section):
    """`conf/analysis.yaml`, of `qpa.analysis` alone."""

    what: Literal["gradient_variance", "contribution", "spectrum", "entanglement"]
    run: str | None
    baseline: str | None
    out: str | None
    ansaetze: list[str] = Field(min_length=1)
    qubits: list[Annotated[int, Field(ge=1, le=14)]] = Field(min_length=1)
    layers: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    samples: int = Field(ge=2)
    draws: int = Field(ge=1)
    seed: int = Field(ge=0, lt=2**32)
