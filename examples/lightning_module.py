"""A LightningModule of one's own: `configure_optimizers` returns the generator's optimizer, checkpoints hold it."""

from pydoc_data.topics import topics

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

import qpa


def base_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, initializer_range=0.2, **sizes))


class FineTuning(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = get_peft_model(base_model(), LoraConfig(r=8, target_modules="all-linear"))
        self.generated = qpa.generate(self.model, seed=1)
        self.losses: list[float] = []

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        loss = self.model(input_ids=batch, labels=batch).loss
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # max_norm, not Trainer(gradient_clip_val=...): that clips before the generator has its gradient
        return self.generated.optimizer(torch.optim.AdamW, lr=1e-2, max_norm=1.0)


text = torch.tensor(list("".join(topics.values()).encode()))  # a token is a byte
windows = DataLoader(text[: 1280 * 64].view(1280, 64), batch_size=8, shuffle=True)

tuning = FineTuning()
print(tuning.generated.counts)
Trainer(max_epochs=1, accumulate_grad_batches=2, default_root_dir="outputs/lightning_module", logger=False).fit(tuning, windows)
print(f"loss {tuning.losses[0]:.2f} -> {tuning.losses[-1]:.2f}")

tuning.model.save_pretrained("outputs/lightning_module")  # a plain PEFT adapter
reloaded = PeftModel.from_pretrained(base_model(), "outputs/lightning_module")
sample = next(iter(windows))
assert torch.equal(reloaded(sample).logits, tuning.model.eval()(sample).logits)
