"""Wrong or hostile input: every config either works or gives one line, nothing from elsewhere runs code, and no secret is written down."""

import copy
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import command_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qpa import baseline, checkpoints, cli, evaluate, export, plan, preflight, record, run, text, tokenizer
from qpa.config import Config, parse
from qpa.data import windows
from qpa.errors import ConfigError, UserError
from qpa.report import runs
from qpa.verbs import composed

ROOT = Path(__file__).parents[1]
MakeConfig = Callable[..., Config]
FREE = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
SECONDS = 2  # a case may take
BASES = [[], ["peft=dora"], ["generator=none"], ["mapper=paper"], ["latents=mps"], ["peft=prompt"], ["model=gpt2", "trainer=ddp"], ["peft=unilora"]]
CONFIGS: list[dict[str, Any]] = []


def configs() -> list[dict[str, Any]]:
    """The real configs of some choices, composed once."""
    if not CONFIGS:
        CONFIGS.extend(composed("train", [*choices, "logger=none"]) for choices in BASES)
    return CONFIGS


def keys(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of nested dicts."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield (*path, name)
            yield from keys(value, (*path, name))


NUMBERS = st.one_of(
    st.integers(-3, 70), st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, 1, 2, 3, 4, 8, 10, 64, 576, 10**6, 0.5, 1e-9, float("nan")])
)
WORDS = st.one_of(st.text(max_size=20), st.sampled_from(["", "all-linear", "lm_head", "(", "\0", "../..", "none", "os.system", "é" * 50, "a\nb", "${x}"]))
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS)
VALUES = st.one_of(NUMBERS, PLAIN, st.lists(PLAIN, max_size=3), st.dictionaries(WORDS, PLAIN, max_size=2))


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """A real config with up to four values replaced, added or taken away."""
    config = copy.deepcopy(draw(st.sampled_from(configs())))
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(sorted(keys(config))))
        place = config
        for name in path[:-1]:
            place = place[name]
        action = draw(st.sampled_from(["replace", "replace", "replace", "add", "remove"]))
        if action == "remove":
            del place[path[-1]]
        else:
            place[path[-1] if action == "replace" else draw(st.text(min_size=1, max_size=8))] = draw(VALUES)
    return config


def assert_planned_or_one_line(config: dict[str, Any], seen: dict[str, float]) -> None:
    started = time.monotonic()
    try:
        checked = parse(config)
        preflight.check(checked)
        tensors = preflight.known_tensors(checked)
        if tensors is not None:  # else peft itself counts, on the meta device
            plan.make_plan(checked, tensors, 0)
        seen["planned"] = seen.get("planned", 0) + 1
    except UserError as error:
        assert "\n" not in cli.describe(error)
        assert cli.describe(error).strip()
        seen["refused"] = seen.get("refused", 0) + 1
    taken = time.monotonic() - started
    seen["slowest"] = max(seen.get("slowest", 0.0), taken)
    assert taken < SECONDS


@pytest.mark.parametrize("cases", [200, pytest.param(2500, marks=pytest.mark.slow)])
def test_any_config_is_planned_or_refused_in_one_line(cases: int, capsys: pytest.CaptureFixture) -> None:
    warm = configs()[0]
    plan.make_plan(parse(warm), preflight.known_tensors(parse(warm)) or [], 0)  # the first imports torch.optim: seconds
    seen: dict[str, float] = {}

    @settings(FREE, max_examples=cases)
    @given(changed())
    def check(config: dict[str, Any]) -> None:
        assert_planned_or_one_line(config, seen)

    check()
    assert min(seen["planned"], seen["refused"]) > cases / 20  # neither is all there is
    with capsys.disabled():
        print(f"\n{cases} configs: {seen['planned']:.0f} planned, {seen['refused']:.0f} refused, 0 tracebacks, slowest {seen['slowest']:.2f} s")
