"""Episodes: what plain gymnasium and a plain loop have, whatever else is played beside them."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from playing import config, task_of
from torch import nn

from qpa.config import EnvironmentDataConfig
from qpa.config.composing import composed
from qpa.tasks.control import environments, seeds
from qpa.tasks.control.rollout import Episode, Games, play, returns_to_go
from qpa.tasks.loaders import Share

CPU = torch.device("cpu")


def data(*overrides: str) -> EnvironmentDataConfig:
    return EnvironmentDataConfig(**composed("train", ["task=control", *overrides])["data"])


def policy(observed: int, actions: int) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(observed, 16), nn.Tanh(), nn.Linear(16, actions))


def played(settings: EnvironmentDataConfig, given: list[int], *, greedy: bool = False) -> list[Episode]:
    games = Games(settings).few(len(given))
    return play(policy(games[0].rules.observed, games[0].rules.actions), games, given, greedy=greedy, device=CPU)


@pytest.mark.parametrize("environment", ["CartPole-v1", "Acrobot-v1", "Blackjack-v1", "FrozenLake-v1"])
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.few(8)
def test_episode_is_that_of_plain_gymnasium_with_the_same_seed_and_actions(environment: str, greedy: bool) -> None:
    settings = data(f"data.environment={environment}", "data.max_episode_steps=30")
    for seed, episode in zip((5, 9), played(settings, [5, 9], greedy=greedy), strict=True):
        plain = gymnasium.make(environment, max_episode_steps=30)
        seen, ended, place = plain.reset(seed=seed)[0], False, 0
        while not ended:
            expected = gymnasium.spaces.flatten(plain.observation_space, seen)
            np.testing.assert_array_equal(episode.observations[place], np.asarray(expected, np.float32))
            seen, reward, terminated, truncated, _ = plain.step(episode.actions[place])
            assert reward == episode.rewards[place]
            ended, place = terminated or truncated, place + 1
        assert place == len(episode)


def test_minigrid_is_its_image_in_147_numbers_and_the_first_actions() -> None:
    settings = data("data=minigrid")
    assert environments.Game(settings).rules == environments.Rules(147, 3, 100, None)
    (episode,) = played(settings, [7])
    plain = gymnasium.make("minigrid:MiniGrid-Empty-5x5-v0")
    seen = plain.reset(seed=7)[0]
    for place, action in enumerate(episode.actions):
        assert 0 <= action < 3
        np.testing.assert_array_equal(episode.observations[place], seen["image"].ravel())
        seen, reward, *_ = plain.step(action)
        assert reward == episode.rewards[place]


def test_actions_are_drawn_by_the_policys_probabilities() -> None:
    logits = torch.tensor([1.0, 0.0])
    episodes = play(lambda seen: logits.expand(len(seen), 2), Games(data()).few(30), range(30), greedy=False, device=CPU)
    actions = [action for episode in episodes for action in episode.actions]
    share = float(logits.softmax(0)[1])
    assert len(actions) > 300
    assert np.mean(actions) == pytest.approx(share, abs=4 * (share * (1 - share) / len(actions)) ** 0.5)


def test_episode_depends_on_its_seed_alone() -> None:
    """Not on what is played beside it or was played before."""
    settings, games = data(), Games(data())
    chooses = policy(4, 2).double()  # so that other sums of the same numbers change no action

    def wide(seen: torch.Tensor) -> torch.Tensor:
        return chooses(seen.double())

    together = play(wide, games.few(3), [11, 12, 13], greedy=False, device=CPU)
    again = play(wide, games.few(1), [12], greedy=False, device=CPU)
    alone = play(wide, Games(settings).few(1), [12], greedy=False, device=CPU)
    assert together[1].actions == again[0].actions == alone[0].actions
    np.testing.assert_array_equal(together[1].observations, alone[0].observations)
    assert together[0].actions != together[1].actions


@pytest.mark.parametrize("gamma", [1.0, 0.99, 0.5])
def test_returns_to_go_are_those_of_a_plain_double_loop(gamma: float) -> None:
    rewards = np.random.default_rng(1).normal(size=50).tolist()
    expected = [sum(gamma ** (later - now) * rewards[later] for later in range(now, 50)) for now in range(50)]
    np.testing.assert_allclose(returns_to_go(rewards, gamma), expected, rtol=1e-5, atol=1e-6)


def test_runs_train_on_the_same_seeds_wherever_they_begin_and_never_on_held_out_ones(tmp_path: Path) -> None:
    share = Share(batch_size=2, accumulate=3, rank=0, processes=1)

    def read(from_step: int, seed: int = 1) -> list[int]:
        loader = seeds.train_loader(share, seed=seed, from_step=from_step, steps=5)
        return [number for batch in loader for number in batch["seeds"].tolist()]

    assert len({*read(0)}) == 30
    assert read(2) == read(0)[12:]
    held_out = task_of(config(tmp_path)).held_out()
    found = {split: {n for batch in loader for n in batch["seeds"].tolist()} for split, loader in held_out.items()}
    assert {split: len(numbers) for split, numbers in found.items()} == {"val": 3, "test": 5}
    last = seeds.OF_A_RUN * 2**32  # the next after the last of the largest run's seed
    assert max(read(0, 2**32 - 1)) < last <= min(found["val"]) and not found["val"] & found["test"]
    assert not {*read(0, 1)} & {*read(0, 2)}
