"""Group `trainer`: arguments of `pytorch_lightning.Trainer`."""

import math
import re
from datetime import timedelta
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from qpa.config.part import Part
from qpa.config.section import OpenSection

OURS = {
    *("min_epochs", "min_steps", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "inference_mode"),
    *("fast_dev_run", "overfit_batches", "limit_train_batches", "limit_val_batches", "limit_test_batches", "use_distributed_sampler"),
    *("logger", "callbacks", "plugins", "enable_model_summary", "default_root_dir", "reload_dataloaders_every_n_epochs"),
}
STOPS = ("max_steps", "max_epochs", "max_time", "patience")  # what ends a run
UNITS = ("weeks", "days", "hours", "minutes", "seconds")


class TrainerConfig(OpenSection):
    """How long training is, on what, and what is kept of it."""

    part = Part.COURSE

    strategy: Annotated[Literal["single", "ddp", "fsdp"], Part.SHOWN]
    devices: Annotated[int, Part.READ] = Field(ge=1)
    num_nodes: Annotated[int, Part.SHOWN] = Field(ge=1)
    accelerator: Literal["auto", "cpu", "gpu", "cuda"]
    max_steps: Annotated[int | None, Part.READ] = Field(ge=1)
    max_epochs: Annotated[float | None, Part.READ] = Field(gt=0)
    max_time: str | dict[str, float] | None
    patience: int | None = Field(ge=1)
    val_every: int = Field(ge=1)
    checkpoint_every: Annotated[int, Part.SHOWN] = Field(ge=1)
    accumulate_grad_batches: Annotated[int, Part.READ] = Field(ge=1)
    gradient_clip_val: float | None = Field(gt=0)
    log_every_n_steps: Annotated[int, Part.SHOWN] = Field(ge=1)
    precision: Annotated[Literal["auto", "32-true", "bf16-mixed"], Part.MEASURE]
    compile: bool
    capture: Annotated[bool, Part.SHOWN]
    enable_progress_bar: Annotated[bool, Part.SHOWN]

    @field_validator("max_time", mode="before")
    @classmethod
    def _refuse_what_is_no_time(cls, given: Any) -> Any:
        if given is not None and not _seconds(given):
            raise ValueError("should be DD:HH:MM:SS in quotes, as '00:02:00:00' for two hours, or {hours: 2}")
        return given

    @model_validator(mode="after")
    def _refuse_what_the_run_sets(self) -> "TrainerConfig":
        if ours := OURS.intersection(self.arguments()):
            raise ValueError(f"{', '.join(sorted(ours))} cannot be set: a run counts steps, and reads data.max_held_out_windows")
        if self.max_steps is None and self.max_epochs is None:
            raise ValueError("max_steps=null, max_epochs=null: the rate falls over the steps of the whole run; give one of the two")
        if self.strategy == "single" and self.processes != 1:
            problem = f"devices={self.devices}: a run trains on one device; on several: trainer=ddp trainer.devices={self.devices}"
            raise ValueError(f"{problem}; several runs at once: -m hydra/launcher=processes")
        if self.shards and self.processes == 1:
            raise ValueError("devices=1: one process has nobody to share the model out with; give two at least, or trainer=default")
        if self.shards and self.compile:
            raise ValueError("compile=true: layers that are put together while they are read with are not compiled; set it to false")
        return self

    @property
    def together(self) -> bool:
        """Whether several processes train one run."""
        return self.strategy != "single"

    @property
    def shards(self) -> bool:
        """Whether they share the frozen model out among them."""
        return self.strategy == "fsdp"

    @property
    def processes(self) -> int:
        """How many train together."""
        return self.devices * self.num_nodes

    @property
    def known_steps(self) -> int | None:
        """Optimizer steps of a whole run; None where they follow from the number of training examples (`Task.steps`)."""
        return self.max_steps if self.max_epochs is None else None

    @property
    def time(self) -> timedelta | None:
        """`max_time`, if there is any."""
        return None if self.max_time is None else timedelta(seconds=_seconds(self.max_time))

    @property
    def length(self) -> str:
        """How long a whole run is, in words."""
        epochs = None if self.max_epochs is None else f"{self.max_epochs:g} epoch{'' if self.max_epochs == 1 else 's'}"
        steps = None if self.max_steps is None else f"{self.max_steps:,} steps"
        return ", at most ".join(filter(None, (epochs, steps)))

    @property
    def limits(self) -> tuple[float, ...]:
        """By each of `STOPS`, after how much a run ends."""
        seconds = self.time.total_seconds() if self.time else None
        given = (self.max_steps, self.max_epochs, seconds, self.patience)
        return tuple(math.inf if limit is None else limit for limit in given)


def _seconds(given: Any) -> float:
    """Of a time as Lightning takes it; 0 where it does not."""
    if isinstance(given, str) and re.fullmatch(r"\d+:\d\d:\d\d:\d\d", given):
        given = dict(zip(UNITS[1:], map(int, given.split(":")), strict=True))
    if not isinstance(given, dict) or any(type(number) not in (int, float) or number < 0 for number in given.values()):
        return 0
    try:
        return timedelta(**cast(dict[str, float], given)).total_seconds()
    except (TypeError, ValueError, OverflowError):  # another unit, or too long
        return 0
