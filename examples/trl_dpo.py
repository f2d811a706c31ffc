"""TRL's DPOTrainer on lines of {"prompt": "...", "chosen": "...", "rejected": "..."}: `python trl_dpo.py [PAIRS.jsonl [MODEL]]`.

MODEL is a folder or a name on the hub. Without one: a tiny random model; without pairs: text is preferred to itself read backwards.
"""

import sys
from pydoc_data.topics import topics

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

import qpa

file, name, *_ = *sys.argv[1:], None, None


def base_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    tiny = LlamaConfig(initializer_range=0.2, **sizes)
    return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32) if name else LlamaForCausalLM(tiny)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    characters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<eos>"]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(characters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


texts = [line[:32] for topic in topics.values() for line in topic.split("\n") if len(line) > 32][:480]
pairs = [{"prompt": t[:8], "chosen": t[8:], "rejected": t[:7:-1]} for t in texts]
data = Dataset.from_json(file) if file else Dataset.from_list(pairs)
generated = qpa.generate(model := get_peft_model(base_model(), LoraConfig(r=8, target_modules="all-linear")), seed=1)
print(generated.counts)
optimizers = (generated.optimizer(torch.optim.AdamW, lr=1e-2), None)
settings = DPOConfig("outputs/trl_dpo", max_steps=60, per_device_train_batch_size=8, logging_steps=10, bf16=False)
tokenizer = AutoTokenizer.from_pretrained(name) if name else byte_tokenizer()
(trainer := DPOTrainer(model, args=settings, train_dataset=data, processing_class=tokenizer, optimizers=optimizers)).train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
model.save_pretrained("outputs/trl_dpo", selected_adapters=["default"])  # not TRL's frozen copy of its start, "ref"
reloaded = PeftModel.from_pretrained(base_model(), "outputs/trl_dpo")
assert torch.equal(reloaded(torch.arange(64)[None]).logits, model.eval()(torch.arange(64)[None]).logits)
