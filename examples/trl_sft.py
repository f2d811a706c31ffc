"""TRL's SFTTrainer: a model that is already a PeftModel, and its generator's optimizer."""

from pydoc_data.topics import topics

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

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


paragraphs = [paragraph for topic in topics.values() for paragraph in topic.split("\n\n")]

model = get_peft_model(base_model(), LoraConfig(r=8, target_modules="all-linear"))
generated = qpa.generate(model, seed=1)
optimizer = generated.optimizer(torch.optim.AdamW, lr=1e-2)
print(generated.counts)

settings = SFTConfig("outputs/trl_sft", max_steps=80, per_device_train_batch_size=8, max_length=64, logging_steps=10, bf16=False)
data = Dataset.from_dict({"text": paragraphs[:640]})
trainer = SFTTrainer(model, settings, train_dataset=data, processing_class=byte_tokenizer(), optimizers=(optimizer, None))
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")

trainer.save_model()  # a plain PEFT adapter
reloaded = PeftModel.from_pretrained(base_model(), "outputs/trl_sft")
sample = torch.arange(64)[None]
assert torch.equal(reloaded(sample).logits, model.eval()(sample).logits)
