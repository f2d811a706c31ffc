"""Accelerate: prepare model and optimizer as ever; `accelerate launch` runs it on many devices."""

from pydoc_data.topics import topics

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

import qpa


def base_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, initializer_range=0.2, **sizes))


text = torch.tensor(list("".join(topics.values()).encode()))  # a token is a byte
windows = text[: 1280 * 64].view(1280, 64)

accelerator = Accelerator(gradient_accumulation_steps=2)
model = get_peft_model(base_model(), LoraConfig(r=8, target_modules="all-linear"))
generated = qpa.generate(model, seed=1)
optimizer = generated.optimizer(torch.optim.AdamW, lr=1e-2)
accelerator.print(generated.counts)
model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(windows, batch_size=8, shuffle=True))

losses = []
for batch in loader:
    with accelerator.accumulate(model):
        loss = model(input_ids=batch, labels=batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    losses.append(loss.item())
accelerator.print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")

trained = accelerator.unwrap_model(model)
trained.save_pretrained("outputs/accelerate_loop", is_main_process=accelerator.is_main_process)  # a plain PEFT adapter
accelerator.wait_for_everyone()
reloaded = PeftModel.from_pretrained(base_model(), "outputs/accelerate_loop").to(accelerator.device)
assert torch.equal(reloaded(batch).logits, trained.eval()(batch).logits)
