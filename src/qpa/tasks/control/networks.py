"""Policies: small networks that see an observation and say how much they are for each action."""

from itertools import pairwise

from torch import nn

from qpa.config import PolicyConfig

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def policy(model: PolicyConfig, *, observed: int, actions: int) -> nn.Sequential:
    """Linear layers `linear1`, ... with an activation between: observations `[B, observed]` -> logits `[B, actions]`.

    Args:
        model: config group `model`.
        observed: numbers of an observation.
        actions: that are chosen from.
    """
    network, sizes = nn.Sequential(), [observed, *model.hidden, actions]
    for number, (before, after) in enumerate(pairwise(sizes), 1):
        if number > 1:
            network.add_module(f"{model.activation}{number - 1}", ACTIVATIONS[model.activation]())
        network.add_module(f"linear{number}", nn.Linear(before, after))
    return network
