"""Lightning's DDP without its wrapper: the frozen model and the adapter's tensors are never sent, only the trained numbers' gradient.

The wrapper would send the gradients of the adapter's tensors, which the generator has many times fewer numbers than.
`training` has them summed once per step, after the vector-Jacobian product (`adaptation`, `exchange`).
"""

from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DDPStrategy


class GradientsOnly(DDPStrategy):
    """Processes and devices as in DDP; what is sent is up to the module."""

    def configure_ddp(self) -> None:
        """No wrapper."""

    def connect(self, model: LightningModule) -> None:
        """Before a test Lightning would send all weights from the first process: they are the same everywhere."""
        super().connect(model)
        everything = (*model.named_parameters(), *model.named_buffers())
        vars(model)["_ddp_params_and_buffers_to_ignore"] = [name for name, _ in everything]  # torch's own way to say so


class Shares(GradientsOnly):
    """The same, where each process has only a part of the frozen model (`sharding`)."""

    def teardown(self) -> None:
        """Lightning would move the module to the CPU, and the parts away from where the processes put them together."""
        assert self.accelerator is not None
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()
