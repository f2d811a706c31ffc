"""Answers: a prompt's most likely continuation by an adapted model, many prompts at once, each as it would be alone."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qpa.adapters.methods import AdaptedModel, prompt_arguments
from qpa.tasks.language.language_model import base_of


@torch.no_grad()
def answers(
    model: AdaptedModel | PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    pad: int,
    stop: set[int],
    most: int,
    batch_size: int,
    temperature: float = 0.0,
) -> list[list[int]]:
    """What a model says after each prompt, without the token that ends it. An answer ends early where the model reads no further.

    Not by `generate`: of soft prompts peft counts padding as positions, so that an answer would depend on what it is batched with.

    Args:
        model: with an adapter or without.
        prompts: token ids, one at least in each.
        pad: token that fills shorter prompts up, on the left; none is read.
        stop: tokens that end an answer.
        most: tokens of an answer.
        batch_size: prompts that are read together.
        temperature: 0 takes the most likely token; above, one is drawn from torch's random state.
    """
    base, training = base_of(model), model.training
    found: list[list[int]] = [[] for _ in prompts]
    model.eval()
    try:
        for places in _batches(prompts, batch_size, alike=_counts_padding(model)):
            rows = [list(prompts[place]) for place in places]
            for place, answer in zip(places, _together(model, base, rows, pad, stop, most, temperature), strict=True):
                found[place] = answer
    finally:
        model.train(training)
    return found


def fits(model: AdaptedModel | PreTrainedModel, prompt: Sequence[int]) -> bool:
    """Whether the model can read all of a prompt."""
    return _virtual(model) + len(prompt) <= _positions(base_of(model))


def _batches(prompts: Sequence[Sequence[int]], size: int, *, alike: bool) -> Iterator[list[int]]:
    """Places of prompts of about one length, or of exactly one."""
    batch: list[int] = []
    for place in sorted(range(len(prompts)), key=lambda place: len(prompts[place])):
        if batch and (len(batch) == size or (alike and len(prompts[batch[0]]) != len(prompts[place]))):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _counts_padding(model: AdaptedModel | PreTrainedModel) -> bool:
    """Whether padding would push soft prompts, which stand before it, out of a sliding window."""
    return _virtual(model) > 0 and getattr(base_of(model).config.get_text_config(), "sliding_window", None) is not None


def _virtual(model: AdaptedModel | PreTrainedModel) -> int:
    """Soft prompts that stand before the tokens."""
    config = getattr(model, "active_peft_config", None)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0


def _together(
    model: AdaptedModel | PreTrainedModel,
    base: PreTrainedModel,
    rows: list[list[int]],
    pad: int,
    stop: set[int],
    most: int,
    temperature: float,
) -> list[list[int]]:
    """Answers to some prompts that are read as one batch."""
    device, longest = base.device, max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    real = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    mask = torch.cat([real.new_ones(len(rows), _virtual(model)), real], dim=1)
    last = torch.tensor(sorted(stop), device=device)
    room = _positions(base) - mask.sum(1)  # tokens that the model can still read
    arguments, done, said = prompt_arguments(model, ids), torch.zeros(len(rows), dtype=torch.bool, device=device), []
    cache: Any = arguments.pop("past_key_values", None)
    for _ in range(most):
        done = done | (room < 0)
        if done.all():
            break
        logits, cache = _next(base, arguments, mask, cache, limit=_positions(base))
        token = _chosen(logits, temperature)
        done = done | torch.isin(token, last)
        said.append(token.masked_fill(done, -1))
        arguments = {"input_ids": token[:, None]}
        mask, room = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1), room - 1
    whole = torch.stack(said, dim=1).tolist() if said else [[] for _ in rows]
    return [answer[: answer.index(-1)] if -1 in answer else answer for answer in whole]


def _next(base: PreTrainedModel, arguments: dict[str, Any], mask: Tensor, cache: Any, *, limit: int) -> tuple[Tensor, Any]:
    """Logits of the next token of each row, and the cache with what has been read now."""
    takes = inspect.signature(base.forward).parameters
    read = next(iter(arguments.values())).shape[1]
    positions = (mask.cumsum(1) - 1).clamp(0, limit - 1)[:, -read:]
    told = {"position_ids": positions, "logits_to_keep": 1}
    output: Any = base(
        **arguments,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        **{name: value for name, value in told.items() if name in takes},
    )
    return output.logits[:, -1].float(), output.past_key_values


def _positions(base: PreTrainedModel) -> int:
    """Tokens that the model reads at most."""
    text: Any = base.config.get_text_config()
    return getattr(text, "max_position_embeddings", None) or 1 << 30


def _chosen(logits: Tensor, temperature: float) -> Tensor:
    """One token of each row."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]
