"""What the tests of training loops share: a tiny model with LoRA, real text for it, and the steps written out by hand."""

from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from conftest import LLAMA
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import AdamW, Optimizer
from transformers import LlamaConfig, LlamaForCausalLM

from qpa import Generated
from qpa.core.generator import view

TEXT = torch.tensor(list("".join(topics.values()).encode()))  # a token is a byte
Loss = Callable[[], Tensor]


def base() -> LlamaForCausalLM:
    """The same at every call, its weights large enough for small changes to count."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**LLAMA, num_hidden_layers=2, initializer_range=0.2))


def adapted(seed: int = 0, *, dropout: float = 0.0) -> PeftModel:
    """Its linear layers with LoRA, drawn from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(base(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout))


def windows(count: int) -> Tensor:
    """Text, `[count, 32]`."""
    return TEXT[: count * 32].view(count, 32)


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Of a batch of windows."""
    return model(input_ids=batch, labels=batch).loss


def logits(model: nn.Module) -> Tensor:
    """What the model says of some text that no test trains on."""
    with torch.no_grad():
        return model.eval()(input_ids=TEXT[-128:].view(4, 32)).logits


def reloaded(folder: Path) -> PeftModel:
    """A saved adapter as stock peft has it."""
    return PeftModel.from_pretrained(base(), str(folder))


def weights(generated: Generated) -> list[Tensor]:
    """The module's generated weights as they are now, copied."""
    return [parameter.detach().clone() for parameter in generated.leaves.parameters]


def moved(generated: Generated) -> Generated:
    """Away from the start, where the shared rows are zero and the gradient of all else with them."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in generated.parameters():
            nn.init.normal_(parameter, std=0.1)
    generated.write()
    return generated


class ByHand:
    """The steps written out: the generator's output put into the module's forward pass, autograd through both, a stock optimizer.

    Args:
        generated: whose generator is trained; its module stays as it is.
        kind, settings: of the stock optimizer, over the generator's parameters.
    """

    def __init__(self, generated: Generated, kind: type[Optimizer] = AdamW, **settings: Any) -> None:
        self.generated = generated
        self.optimizer = kind(generated.generator.parameters(), **settings)

    def loss(self, *batches: Tensor) -> Tensor:
        """Mean loss of the batches under weights that are generated now, differentiable in the generator's parameters."""
        losses = [functional_call(self.generated.module, self.tensors(), kwargs={"input_ids": b, "labels": b}).loss for b in batches]
        return torch.stack(losses).mean()

    def tensors(self) -> dict[str, Tensor]:
        """By name, the weights as they are generated now."""
        flat = self.generated.generator()
        return {slot.tensor.name: view(flat, slot) for slot in self.generated.leaves.slots}

    def weights(self) -> list[Tensor]:
        """The same, in the order of `weights`."""
        return [tensor.detach() for tensor in self.tensors().values()]
