"""One training step, and the validation between steps: the LightningModule around a PEFT model and its adaptation."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from qpa.adapters.methods import AdaptedModel
from qpa.config import Config
from qpa.core.adaptation import Adaptation
from qpa.errors import ConfigError, NonFiniteLossError
from qpa.tasks.language.language_model import LanguageModel
from qpa.tasks.language.perplexity import LegacyPerplexity, Perplexity
from qpa.tasks.language.reading import Batch, Reading
from qpa.training.exchange import Exchange


class FineTuning(Reading):
    """Trains an adaptation of a frozen language model.

    Its parameters, optimizer and checkpoints are those of the adaptation alone; the frozen model is only carried along.

    Args:
        config: of the run; read are its steps, seed, optimizer, and the protocol of its data.
        model: the language model with the adapter.
        adaptation: what is trained and how it reaches the model's adapter.
    """

    def __init__(self, config: Config, model: AdaptedModel, adaptation: Adaptation) -> None:
        super().__init__(LanguageModel(model), {})
        self.adaptation = adaptation
        self.exchange = Exchange()
        self.schedule = config.optimizer
        self.settings = config.trainer
        self.seed = config.seed
        self.lineage = config.lineage()
        self.last_checked = 0
        self.full = config.data.batch_size * (config.data.context - 1)  # tokens that a micro-batch of full windows predicts
        self.paper_protocol = config.data.protocol == "paper"
        self.nll_read, self.tokens_read = torch.zeros(()), torch.zeros((), dtype=torch.int64)  # of the step so far
        self.val_perplexity = Perplexity()
        self.legacy = LegacyPerplexity()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """NLL of one micro-batch, nats per token of a full one; the paper's protocol counts padding as text."""
        exchange = self.exchange
        place = (self.seed * 1_000_003 + index) * exchange.processes + exchange.rank
        torch.manual_seed(place)  # dropout depends on seed and place alone: a resumed run has the same
        self.adaptation.write()
        nll, tokens = self.nll(self.hidden(batch, "train"), batch["input_ids" if self.paper_protocol else "labels"])
        self.nll_read, self.tokens_read = self.nll_read + nll.detach(), self.tokens_read + tokens
        return nll / self.full

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """After the last backward of a step: one vector-Jacobian product, and its mean over the tokens of all micro-batches and processes.

        Each token counts alike, wherever it was read: the gradient is that of all windows of the step in one batch.
        """
        self.adaptation.collect()
        gradients = [p.grad for p in self.adaptation.parameters() if p.grad is not None]
        nll, tokens = self.exchange.losses(self.nll_read, self.tokens_read)
        self.exchange.gradients(self.adaptation.parameters())
        torch._foreach_mul_(gradients, self.full * self.settings.accumulate_grad_batches / tokens)  # Lightning has divided by the latter
        self.log("train/loss", nll / tokens, prog_bar=True)
        self.nll_read, self.tokens_read = torch.zeros_like(nll), torch.zeros_like(tokens)
        self._refuse_infinite(nn.utils.get_total_norm(gradients))

    def _refuse_infinite(self, norm: Tensor) -> None:
        """Stop before the optimizer uses a gradient whose norm is not finite."""
        self.log("train/gradient_norm", norm)
        step = self.global_step + 1
        if self._checked(step) and not torch.isfinite(norm):
            since = f" (step {self.last_checked} was the last that was checked)" if step > self.last_checked + 1 else ""
            kept = getattr(self.trainer.checkpoint_callback, "newest", None) or "none yet"
            problem = f"loss or gradient is not finite at step {step}{since}; the last good checkpoint is {kept}"
            raise NonFiniteLossError(f"{problem}; lower optimizer.lr={self.schedule.lr}")
        self.last_checked = step if self._checked(step) else self.last_checked

    def _checked(self, step: int) -> bool:
        """Whether the program waits for the device at this step: it is logged, or a checkpoint follows, which must be a good one."""
        settings = self.settings
        return step == settings.max_steps or any(
            step % every == 0 for every in (settings.log_every_n_steps, settings.val_every, settings.checkpoint_every)
        )

    def on_validation_start(self) -> None:
        """Held-out text is read with the adapter as it is now."""
        self.adaptation.write()

    def validation_step(self, batch: Batch, _: int) -> None:
        """Count one batch of held-out windows."""
        with self.as_stock_peft():
            hidden = self.hidden(batch, "val")
            self.val_perplexity.update(*self.nll(hidden, batch["labels"]))
            if self.paper_protocol:
                self.legacy.update(*self.nll(hidden, batch["input_ids"]))

    def on_validation_epoch_end(self) -> None:
        """Log perplexity over all of them."""
        self.log("val/perplexity", self.val_perplexity.compute().float(), prog_bar=True)
        self.val_perplexity.reset()
        if self.paper_protocol:
            self.log("legacy/perplexity", self.legacy.compute().float())
            self.legacy.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The config's optimizer over the adaptation's parameters, its rate changed every step."""
        arguments = self.schedule.arguments() | {"_target_": self.schedule.target, "lr": self.schedule.lr}
        try:
            optimizer = instantiate(arguments, _partial_=True, _convert_="all")(self.adaptation.parameters())
        except (InstantiationException, TypeError, ValueError) as error:
            raise ConfigError("optimizer", self.schedule.target, f"refuses its arguments: {error}") from error
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Share of the full learning rate at an optimizer step, counted from 0: warm-up, then decay to zero."""
        warmup = max(1, round(self.schedule.warmup * self.settings.max_steps))
        if step < warmup:
            return (step + 1) / warmup
        left = max(0.0, (self.settings.max_steps - step) / max(1, self.settings.max_steps - warmup + 1))
        return left if self.schedule.decay == "linear" else 0.5 * (1 - math.cos(math.pi * left))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say whose it is."""
        checkpoint["lineage"] = self.lineage

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Only what is trained: checkpoints do not hold the frozen model."""
        return self.adaptation.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """The counterpart, strict about every key."""
        return self.adaptation.load_state_dict(state_dict, strict=True, assign=assign)
