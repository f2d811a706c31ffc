"""Episodes played with a policy, several side by side. An episode depends on the policy and on its own seed alone.

`N` steps of an episode, `O` numbers of an observation, `A` actions, `B` episodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from qpa.config import EnvironmentDataConfig
from qpa.tasks.control.environments import Game

Policy = Callable[[Tensor], Tensor]  # observations [B, O] -> logits [B, A]
DRAWING = 1  # of an episode's seed, the stream that its actions are drawn from; the environment has another


@dataclass
class Episode:
    """What has been seen, done and had, step by step.

    Attributes:
        observations: `[O]` each, before the action.
        actions: each from 0.
        rewards: each after the action.
    """

    observations: list[np.ndarray] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.actions)


class Games:
    """Environments of one kind, made when they are first needed and played again and again.

    Args:
        data: config group `data`.
    """

    def __init__(self, data: EnvironmentDataConfig) -> None:
        self.data = data
        self.made: list[Game] = []

    def few(self, count: int) -> list[Game]:
        """So many of them."""
        self.made += [Game(self.data) for _ in range(count - len(self.made))]
        return self.made[:count]


@torch.no_grad()
def play(policy: Policy, games: Sequence[Game], seeds: Sequence[int], *, greedy: bool, device: torch.device) -> list[Episode]:
    """Play one episode for each seed, to its end.

    Args:
        policy: what chooses.
        games: as many environments as seeds.
        seeds: of the episodes.
        greedy: take the likeliest action; else one is drawn by the policy's probabilities.
        device: of the policy.
    """
    draws = [np.random.default_rng([seed, DRAWING]) for seed in seeds]
    episodes = [Episode() for _ in seeds]
    seen = [game.reset(seed) for game, seed in zip(games, seeds, strict=True)]
    running = [*range(len(seeds))]
    while running:
        logits = policy(torch.from_numpy(np.stack([seen[n] for n in running])).to(device)).float()
        chosen = logits.argmax(1).tolist() if greedy else _drawn(logits, [draws[n] for n in running])
        for n, action in zip(tuple(running), chosen, strict=True):
            episode, before = episodes[n], seen[n]
            seen[n], reward, ended = games[n].step(action)
            episode.observations.append(before)
            episode.actions.append(action)
            episode.rewards.append(reward)
            if ended:
                running.remove(n)
    return episodes


def _drawn(logits: Tensor, draws: Sequence[np.random.Generator]) -> list[int]:
    """One action of each row: the first whose summed probability is above a uniform number of the episode's own."""
    summed = logits.double().softmax(1).cumsum(1)[:, :-1].cpu().numpy()
    return (np.array([draw.random() for draw in draws])[:, None] >= summed).sum(1).tolist()


def returns_to_go(rewards: Sequence[float], gamma: float) -> np.ndarray:
    """Of each step, what is had from there on, discounted: `G_t = r_t + gamma G_{t+1}`, `[N]`."""
    found, after = np.empty(len(rewards), dtype=np.float32), 0.0
    for place in range(len(rewards) - 1, -1, -1):
        after = rewards[place] + gamma * after
        found[place] = after
    return found
