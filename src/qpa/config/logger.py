"""Group `logger`: Weights & Biases, or nothing beside the run's own files."""

import os
from typing import Literal

from pydantic import ValidationError, ValidatorFunctionWrapHandler, field_validator

from qpa.config.part import Part
from qpa.config.section import Section


class LoggerConfig(Section):
    """Group `logger`, and all that kind `none` has."""

    part = Part.SHOWN

    kind: str


class WandbLoggerConfig(LoggerConfig):
    """Kind `wandb`: to Weights & Biases."""

    project: str | None
    entity: str | None
    mode: Literal["offline", "online", "disabled"] | None
    group: str | None

    @field_validator("mode", mode="wrap")
    @classmethod
    def _name_the_variable(cls, mode: object, check: ValidatorFunctionWrapHandler) -> str | None:
        """wandb itself knows more modes, and a config that says nothing takes its variable."""
        try:
            return check(mode)
        except ValidationError:
            if mode != os.environ.get("WANDB_MODE"):
                raise
            raise ValueError("should be offline, online or disabled; it is the environment variable WANDB_MODE") from None
