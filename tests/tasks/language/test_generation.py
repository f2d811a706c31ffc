"""Answers of a batch are those of each prompt alone, with the cache and without, for every kind of adapter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import build

from qpa.config import Config
from qpa.tasks.language.generation import answers

MakeConfig = Callable[..., Config]
PROMPTS = [[256, *b"The first of them"], [256, *b"if"], [256, *b"Statements, of which there are several, and expressions"], [256]]
LIVELY = ("++model.architecture.initializer_range=0.3", "++model.architecture.tie_word_embeddings=false")  # else they repeat the last token
SIZES = {"pad": 0, "stop": {256}, "most": 12}


def adapted(config: Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    """In fp32, its adapter far from where it starts."""
    monkeypatch.setattr("qpa.tasks.numerics.fast_in_bf16", lambda _: False)
    built = build(config)
    torch.manual_seed(1)
    for parameter in built.adaptation.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    built.adaptation.write()
    return built.model


@torch.no_grad()
def one_by_one(model: Any, prompt: list[int], stop: set[int], most: int) -> list[int]:
    """The whole text read anew for each token, by the model's own forward pass, which peft's is for an adapted one."""
    model.eval()
    said: list[int] = []
    while len(said) < most:
        token = model(input_ids=torch.tensor([prompt + said])).logits[0, -1].argmax().item()
        if token in stop:
            break
        said.append(token)
    return said


@pytest.mark.parametrize("model", ["smollm2", "gpt2", "gemma2", "gemma3_270m"])
@pytest.mark.parametrize("method", ["lora", "prefix", "prompt", "adapter"])
def test_answers_are_those_of_each_prompt_alone_without_a_cache(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, model: str, method: str
) -> None:
    tuned = adapted(make_config(f"peft={method}", "generator=none", *LIVELY, model=model), monkeypatch)
    expected = [one_by_one(tuned, prompt, {256}, 12) for prompt in PROMPTS]
    for batch_size in (1, 3, 8):
        assert answers(tuned, PROMPTS, batch_size=batch_size, **SIZES) == expected
    base = tuned.get_base_model()
    with tuned.disable_adapter():
        plain = [one_by_one(base, prompt, {256}, 12) for prompt in PROMPTS]
        assert answers(base, PROMPTS, batch_size=3, **SIZES) == plain
    assert plain != expected, "the adapter changes nothing"


def test_sliding_window_leaves_soft_prompts_where_they_are(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = adapted(
        make_config("peft=prefix", "generator=none", *LIVELY, "++model.architecture.sliding_window=30", model="gemma2"), monkeypatch
    )
    expected = [one_by_one(tuned, prompt, {256}, 12) for prompt in PROMPTS]
    assert answers(tuned, PROMPTS, batch_size=4, **SIZES) == expected


def test_answers_are_those_of_stock_generate(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = adapted(make_config("peft=lora", *LIVELY), monkeypatch)
    stock = tuned.generate(input_ids=torch.tensor(PROMPTS[:1]), max_new_tokens=12, do_sample=False, eos_token_id=300, pad_token_id=0)
    assert answers(tuned, PROMPTS[:1], pad=0, stop=set(), most=12, batch_size=1) == [stock[0, len(PROMPTS[0]) :].tolist()]


def test_answer_ends_before_a_stop_token(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = adapted(make_config("peft=lora", *LIVELY), monkeypatch)
    whole = answers(tuned, PROMPTS, pad=0, stop=set(), most=12, batch_size=4)
    stop = {whole[0][3], whole[2][7]}
    cut = [next((answer[:place] for place, token in enumerate(answer) if token in stop), answer) for answer in whole]
    assert answers(tuned, PROMPTS, pad=0, stop=stop, most=12, batch_size=4) == cut


def test_answer_ends_where_the_model_reads_no_further(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = adapted(make_config("peft=lora", *LIVELY, "++model.architecture.n_positions=40", model="gpt2"), monkeypatch)
    lengths = [len(a) for a in answers(tuned, PROMPTS, pad=0, stop=set(), most=30, batch_size=4)]
    assert lengths == [40 - 18 + 1, 30, 0, 30]


def test_drawn_answers_are_those_of_the_seed_and_greedy_ones_draw_nothing(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = adapted(make_config("peft=lora", *LIVELY), monkeypatch)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(answers(tuned, PROMPTS, batch_size=4, temperature=1.0, **SIZES))
    assert drawn[0] == drawn[1] != drawn[2]
    before = torch.get_rng_state()
    answers(tuned.train(), PROMPTS, batch_size=4, **SIZES)
    assert torch.equal(before, torch.get_rng_state())
    assert tuned.training
