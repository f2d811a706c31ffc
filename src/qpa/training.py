"""One training step, and what is measured before and after: the LightningModule around a PEFT model and its adaptation."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from qpa.adaptation import Adaptation
from qpa.config import Config
from qpa.errors import ConfigError, NonFiniteLossError
from qpa.exchange import Exchange
from qpa.hidden_store import HiddenStore
from qpa.language_model import LanguageModel
from qpa.loss import next_token_nll
from qpa.peft_model import AdaptedModel
from qpa.perplexity import LegacyPerplexity, Perplexity

Batch = Mapping[str, Tensor]
Measured = dict[str, dict[str, float | int]]
HELD_OUT = ("val", "test", "forgetting")  # the order of the dataloaders that `trainer.test` is given; the last only where there is one


class FineTuning(LightningModule):
    """Trains an adaptation of a frozen language model.

    Its parameters, optimizer and checkpoints are those of the adaptation alone; the frozen model is only carried along.

    Args:
        config: of the run; read are its steps, seed, optimizer, and the protocol of its data.
        model: the language model with the adapter.
        adaptation: what is trained and how it reaches the model's adapter.
    """

    def __init__(self, config: Config, model: AdaptedModel, adaptation: Adaptation) -> None:
        super().__init__()
        self.model: AdaptedModel = model
        self.language = LanguageModel(model)
        self.adaptation = adaptation
        self.exchange = Exchange()
        self.stores: dict[str, HiddenStore] = {}
        self.schedule = config.optimizer
        self.settings = config.trainer
        self.seed = config.seed
        self.lineage = config.lineage()
        self.last_checked = 0
        self.paper_protocol = config.data.protocol == "paper"
        self.val_perplexity = Perplexity()
        self.held_out = nn.ModuleDict({f"{split}_{kind}": Perplexity() for split in HELD_OUT for kind in ("base", "adapted")})
        self.legacy = nn.ModuleDict({kind: LegacyPerplexity() for kind in ("val", "base", "adapted")})

    def nll(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Summed NLL in nats of windows whose hidden states are given, and the number of tokens it is summed over."""
        language = self.language
        return next_token_nll(language.head, hidden, labels, vocabulary=language.vocabulary, parameters=language.head_parameters())

    def hidden(self, batch: Batch, split: str) -> Tensor:
        """What the head reads of every token, `[B, T, hidden]`: from the store where there is one, else from the body."""
        store = self.stores.get(split)
        if store is None:
            return self.language.body(batch["input_ids"])
        indices = batch["index"].tolist()
        kept = store.read(indices)
        if kept is None:
            kept = self.language.frozen_body(batch["input_ids"]).to(store.dtype)  # as it is read later
            store.write(indices, kept)
        return kept.to(self.device, non_blocking=True)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """All but the windows' numbers, which only the store on disk reads."""
        return {name: t if name == "index" else t.to(device, non_blocking=True) for name, t in batch.items()}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Mean NLL of one micro-batch, nats per token; the paper's protocol counts padding as text."""
        exchange = self.exchange
        place = (self.seed * 1_000_003 + index) * exchange.processes + exchange.rank
        torch.manual_seed(place)  # dropout depends on seed and place alone: a resumed run has the same
        self.adaptation.write()
        nll, tokens = self.nll(self.hidden(batch, "train"), batch["input_ids" if self.paper_protocol else "labels"])
        nll_of_all, tokens_of_all = exchange.losses(nll, tokens)
        self.log("train/loss", nll_of_all / tokens_of_all, prog_bar=True)
        return nll / tokens_of_all  # summed over the processes, the gradient is that of all their windows in one batch

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """After the last backward of a step: one vector-Jacobian product, its sum over all processes, then the finiteness check."""
        self.adaptation.collect()
        self.exchange.gradients(self.adaptation.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in self.adaptation.parameters() if p.grad is not None])
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
        with self._as_stock_peft():
            self._count(batch, self.hidden(batch, "val"), self.val_perplexity, "val")

    def on_validation_epoch_end(self) -> None:
        """Log perplexity over all of them."""
        self.log("val/perplexity", self.val_perplexity.compute().float(), prog_bar=True)
        self.val_perplexity.reset()
        if self.paper_protocol:
            self.log("legacy/perplexity", self._legacy("val").compute().float())
            self._legacy("val").reset()

    def on_test_start(self) -> None:
        """As for validation."""
        self.adaptation.write()

    def test_step(self, batch: Batch, _: int, dataloader_idx: int) -> None:
        """Read the same windows with the adapter and without it."""
        split = HELD_OUT[dataloader_idx]
        with self._as_stock_peft():
            self._count(batch, self.hidden(batch, split), self._held_out(split, "adapted"), "adapted" if split == "test" else None)
            with self.language.unadapted():
                self._count(batch, self.hidden(batch, split), self._held_out(split, "base"), "base" if split == "test" else None)

    @contextmanager
    def _as_stock_peft(self) -> Iterator[None]:
        """Held-out text is read as stock PEFT reads it with the exported adapter: no autocast, nothing compiled."""
        with torch.autocast(self.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
            yield

    def _count(self, batch: Batch, hidden: Tensor, metric: Perplexity, legacy: str | None) -> None:
        """Add a batch to a metric, and in the paper's protocol to the legacy metric of a name."""
        metric.update(*self.nll(hidden, batch["labels"]))
        if self.paper_protocol and legacy:
            self._legacy(legacy).update(*self.nll(hidden, batch["input_ids"]))

    def _legacy(self, kind: str) -> LegacyPerplexity:
        return cast(LegacyPerplexity, self.legacy[kind])

    def _held_out(self, split: str, kind: str) -> Perplexity:
        return cast(Perplexity, self.held_out[f"{split}_{kind}"])

    def measured(self) -> Measured:
        """What the last `trainer.test` found: by split, `perplexity`, `base_perplexity` and `tokens`; `legacy` beside them."""
        found: Measured = {}
        for split in HELD_OUT:
            adapted, base = self._held_out(split, "adapted"), self._held_out(split, "base")
            if not adapted.tokens:
                continue
            found[split] = {"perplexity": float(adapted.compute()), "base_perplexity": float(base.compute()), "tokens": adapted.count()}
        if self.paper_protocol:
            adapted, base = self._legacy("adapted"), self._legacy("base")
            found["legacy"] = {"perplexity": float(adapted.compute()), "base_perplexity": float(base.compute())}
        return found

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
