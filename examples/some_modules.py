"""Only some of the weights generated: LoRA is, the new head of a classifier is trained plainly, both by one optimizer."""

import argparse
import inspect
from pydoc_data.topics import topics

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForSequenceClassification

import qpa


def base_model() -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForSequenceClassification(LlamaConfig(vocab_size=256, initializer_range=0.1, pad_token_id=0, **sizes))


prose, code = (torch.tensor(list(text.encode())[:64_000]).view(-1, 64) for text in ("".join(topics.values()), inspect.getsource(argparse)))
windows, labels = torch.cat([prose, code]), torch.tensor([0] * len(prose) + [1] * len(code))

lora = LoraConfig(task_type="SEQ_CLS", r=8, target_modules="all-linear", modules_to_save=["score"])
model = get_peft_model(base_model(), lora)
parts = dict(model.named_parameters())
generated = qpa.generate(model, parameters=[p for name, p in parts.items() if "lora" in name], seed=1)
optimizer = generated.optimizer(torch.optim.AdamW, lr=1e-2)
optimizer.add_param_group({"params": [p for name, p in parts.items() if "score.modules_to_save" in name], "lr": 1e-3})
print(generated.counts)

losses = []
for chosen in torch.randperm(len(windows))[:1920].view(-1, 16):
    loss = model(input_ids=windows[chosen], labels=labels[chosen]).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
first, last = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))
print(f"loss {first:.2f} -> {last:.2f}")

model.save_pretrained("outputs/some_modules")  # a plain PEFT adapter, with its head
reloaded = PeftModel.from_pretrained(base_model(), "outputs/some_modules")
assert torch.equal(reloaded(windows[:8]).logits, model.eval()(windows[:8]).logits)
