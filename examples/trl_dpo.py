"""TRL's DPOTrainer: text is preferred to the same text read backwards."""

from pydoc_data.topics import topics

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

import qpa


def base_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=257, initializer_range=0.2, **sizes))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={"<eos>": 256} | {c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


texts = [line[:32] for topic in topics.values() for line in topic.split("\n") if len(line) > 32]
pairs = {"prompt": [t[:8] for t in texts], "chosen": [t[8:] for t in texts], "rejected": [t[:7:-1] for t in texts]}

model = get_peft_model(base_model(), LoraConfig(r=8, target_modules="all-linear"))
generated = qpa.generate(model, seed=1)
optimizer = generated.optimizer(torch.optim.AdamW, lr=1e-2)
print(generated.counts)

settings = DPOConfig("outputs/trl_dpo", max_steps=60, per_device_train_batch_size=8, logging_steps=10, bf16=False)
data = Dataset.from_dict(pairs).select(range(480))
trainer = DPOTrainer(model, args=settings, train_dataset=data, processing_class=byte_tokenizer(), optimizers=(optimizer, None))
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")

model.save_pretrained("outputs/trl_dpo", selected_adapters=["default"])  # not TRL's frozen copy of its start, "ref"
reloaded = PeftModel.from_pretrained(base_model(), "outputs/trl_dpo")
sample = torch.arange(64)[None]
assert torch.equal(reloaded(sample).logits, model.eval()(sample).logits)
