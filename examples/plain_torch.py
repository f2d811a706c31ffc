"""A loop in plain torch: LoRA on a language model, all of its weights generated; two micro-batches a step."""

from pydoc_data.topics import topics

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import qpa


def base_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, initializer_range=0.2, **sizes))


text = torch.tensor(list("".join(topics.values()).encode()))  # a token is a byte
batches = text[: 160 * 512].view(160, 8, 64)

model = get_peft_model(base_model(), LoraConfig(r=8, target_modules="all-linear"))
generated = qpa.generate(model, seed=1)
optimizer = generated.optimizer(torch.optim.AdamW, lr=1e-2)
print(generated.counts)

losses = []
for i, batch in enumerate(batches, start=1):
    loss = model(input_ids=batch, labels=batch).loss
    (loss / 2).backward()
    if i % 2 == 0:
        optimizer.step()
        optimizer.zero_grad()
    losses.append(loss.item())
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")

model.save_pretrained("outputs/plain_torch")  # a plain PEFT adapter
reloaded = PeftModel.from_pretrained(base_model(), "outputs/plain_torch")
assert torch.equal(reloaded(batches[0]).logits, model.eval()(batches[0]).logits)

generated.save("outputs/plain_torch_compact")  # in the adapter's place what makes it, for `qpa.load`
expanded = qpa.load(base_model(), "outputs/plain_torch_compact")
torch.testing.assert_close(expanded(batches[0]).logits, reloaded(batches[0]).logits, rtol=0, atol=1e-3)
