"""transformers' Trainer: give it the optimizer, and everything else stays as it is."""

from pydoc_data.topics import topics

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import qpa


def base_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, initializer_range=0.2, **sizes))


text = torch.tensor(list("".join(topics.values()).encode()))  # a token is a byte
windows = [{"input_ids": window, "labels": window} for window in text[: 1280 * 64].view(1280, 64)]

model = get_peft_model(base_model(), LoraConfig(r=8, target_modules="all-linear"))
generated = qpa.generate(model, seed=1)
optimizer = generated.optimizer(torch.optim.AdamW, lr=1e-2)
print(generated.counts)

arguments = TrainingArguments(
    "outputs/transformers_trainer",
    num_train_epochs=1,
    per_device_train_batch_size=8,
    gradient_accumulation_steps=2,
    logging_steps=10,
    lr_scheduler_type="cosine",  # of the optimizer's own rate
)
trainer = Trainer(model, arguments, train_dataset=windows, optimizers=(optimizer, None))
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")

trainer.save_model()  # a plain PEFT adapter
reloaded = PeftModel.from_pretrained(base_model(), "outputs/transformers_trainer")
sample = windows[0]["input_ids"][None]
assert torch.equal(reloaded(sample).logits, model.eval()(sample).logits)
