"""Group `trainer`: arguments of `pytorch_lightning.Trainer`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qpa.config.part import Part
from qpa.config.section import OpenSection

OURS = {
    *("max_epochs", "min_epochs", "max_time", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "inference_mode"),
    *("fast_dev_run", "overfit_batches", "limit_train_batches", "limit_val_batches", "limit_test_batches", "use_distributed_sampler"),
    *("logger", "callbacks", "plugins", "enable_model_summary", "default_root_dir", "reload_dataloaders_every_n_epochs"),
}


class TrainerConfig(OpenSection):
    """How long training is, on what, and what is kept of it."""

    part = Part.COURSE

    strategy: Annotated[Literal["single", "ddp", "fsdp"], Part.SHOWN]
    devices: Annotated[int, Part.READ] = Field(ge=1)
    num_nodes: Annotated[int, Part.SHOWN] = Field(ge=1)
    accelerator: Literal["auto", "cpu", "gpu", "cuda"]
    max_steps: Annotated[int, Part.READ] = Field(ge=1)
    val_every: int = Field(ge=1)
    checkpoint_every: Annotated[int, Part.SHOWN] = Field(ge=1)
    accumulate_grad_batches: Annotated[int, Part.READ] = Field(ge=1)
    gradient_clip_val: float | None = Field(gt=0)
    log_every_n_steps: Annotated[int, Part.SHOWN] = Field(ge=1)
    precision: Annotated[Literal["auto", "32-true", "bf16-mixed"], Part.MEASURE]
    compile: bool
    capture: Annotated[bool, Part.SHOWN]
    enable_progress_bar: Annotated[bool, Part.SHOWN]

    @model_validator(mode="after")
    def _refuse_what_the_run_sets(self) -> "TrainerConfig":
        if ours := OURS.intersection(self.arguments()):
            raise ValueError(f"{', '.join(sorted(ours))} cannot be set: a run counts steps, and reads data.max_held_out_windows")
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
