"""Federated training: 20 clients, each with a part of the text, train in turns and send back numbers, which are averaged (FedAvg).

Of LoRA, VeRA and Uni-LoRA a client sends the adapter, of QPA the generator. `python federated.py [MODEL [TEXT]]`; MODEL is a folder or a
name on the hub. Without: a tiny random model, and Python's manual.
"""

import copy
import sys
from pathlib import Path
from pydoc_data.topics import topics

import torch
from peft import LoraConfig, UniLoraConfig, VeraConfig, get_peft_model
from safetensors.torch import save
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import qpa

CLIENTS, ROUNDS, STEPS, WINDOW = 20, 3, 2, 64
name, file, *_ = *sys.argv[1:], None, None


def base_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4}
    tiny = LlamaForCausalLM(LlamaConfig(initializer_range=0.2, **sizes)) if name is None else None
    return tiny or AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)


text = Path(file).read_text() if file else "\n".join(topics.values())
tokens = AutoTokenizer.from_pretrained(name)(text)["input_ids"] if name else list(text.encode())
windows = torch.tensor(tokens[: len(tokens) // WINDOW * WINDOW]).view(-1, WINDOW)
if len(windows) < (CLIENTS + 1) * 4 * STEPS * ROUNDS:
    sys.exit(f"{file}: has {len(windows)} windows of {WINDOW} tokens, and {CLIENTS} clients need {(CLIENTS + 1) * 4 * STEPS * ROUNDS}")
held_out, *parts = windows.tensor_split(CLIENTS + 1)
parts = [part[: 4 * STEPS * ROUNDS].view(ROUNDS, STEPS, -1, WINDOW) for part in parts]

on = {"target_modules": "all-linear"}
METHODS = {  # the adapter, the generator's mapper, and the rate
    "LoRA r=8": (LoraConfig(r=8, lora_alpha=16, **on), None, 5e-3),
    "VeRA": (VeraConfig(**on), None, 3e-2),
    "Uni-LoRA": (UniLoraConfig(r=8, theta_d_length=4096, **on), None, 3e-2),
    "QPA": (LoraConfig(r=8, lora_alpha=16, **on), {"width": 2}, 1e-2),
}


@torch.no_grad()
def perplexity(model: torch.nn.Module) -> float:
    losses = [model(input_ids=batch, labels=batch).loss for batch in held_out[:32].split(8)]
    return torch.stack(losses).mean().exp().item()


def federated(config, mapper, rate: float) -> None:
    model = get_peft_model(base_model(), config)
    generated = qpa.generate(model, seed=1, mapper=mapper) if mapper else None
    trained = {key: number for key, number in (generated or model).named_parameters() if number.requires_grad}
    adam = torch.optim.AdamW

    @torch.no_grad()
    def load(numbers: dict[str, torch.Tensor]) -> None:
        for key, parameter in trained.items():
            parameter.copy_(numbers[key])
        if generated:
            generated.write()

    found = [perplexity(model)]
    common = {key: parameter.detach().clone() for key, parameter in trained.items()}
    for number in range(ROUNDS):
        total = {key: torch.zeros_like(value) for key, value in common.items()}
        for part in parts:
            load(common)
            optimizer = generated.optimizer(adam, lr=rate) if generated else adam(trained.values(), lr=rate)
            for batch in part[number]:
                model(input_ids=batch, labels=batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            for key, parameter in trained.items():
                total[key] += parameter.detach() / CLIENTS
        common = total
        load(common)
        found.append(perplexity(model))
    sent = len(save({key: value.contiguous() for key, value in common.items()}))
    print(f"| {sent:,} | {' -> '.join(f'{value:.2f}' for value in found)} |")


print("| method | bytes a client sends each round | held-out perplexity after each round |\n|---|---|---|")
for method, settings in METHODS.items():
    print(f"| {method} ", end="")
    federated(*copy.deepcopy(settings))
