"""REINFORCE (Williams 1992): an action is made likelier by how much better than usual it went from there on."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import CatMetric, MeanMetric, SumMetric

from qpa.config import ControlConfig
from qpa.tasks.control import rollout
from qpa.tasks.control.rollout import Episode, Games
from qpa.tasks.task import Learner

Batch = Mapping[str, Tensor]
LEAST = 1e-8  # spread of returns below which all went as usual


class Deviation(CatMetric):
    """The standard deviation of what it is given."""

    def compute(self) -> Tensor:
        """A number."""
        return torch.as_tensor(super().compute()).float().std(correction=0)


class Reinforce(Learner):
    """Plays the episodes of a batch, which is nothing but their seeds, and learns from them.

    So no environment's state has to be saved: a run that goes on plays the same episodes.

    Args:
        model: the policy, with an adapter or without.
        games: the environments.
        settings: config group `task`.
        greedy: how actions of held-out episodes are chosen.
    """

    def __init__(self, model: nn.Module, games: Games, settings: ControlConfig, *, greedy: bool) -> None:
        self.model, self.games, self.settings, self.greedy = model, games, settings, greedy
        self.played = 0  # steps of the environment in training
        self.returns: list[float] = []  # of the episodes since the last optimizer step

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Over the steps of all episodes, summed; counted are the episodes.

        Returns to go are taken as how far they are from the micro-batch's mean, in its standard deviations.
        """
        episodes = self._played(batch, greedy=False)
        self.played += sum(map(len, episodes))
        self.returns += [sum(episode.rewards) for episode in episodes]
        observations = torch.from_numpy(np.concatenate([episode.observations for episode in episodes]))
        actions = torch.tensor([action for episode in episodes for action in episode.actions])
        gains = np.concatenate([rollout.returns_to_go(episode.rewards, self.settings.gamma) for episode in episodes])
        advantages = torch.from_numpy((gains - gains.mean()) / (gains.std() + LEAST))
        device = batch["seeds"].device
        loss = reinforce(self.model(observations.to(device)).float(), actions.to(device), advantages.to(device), self.settings.entropy)
        return loss, torch.tensor(len(episodes), device=device)

    def _played(self, batch: Batch, *, greedy: bool) -> list[Episode]:
        seeds = batch["seeds"].tolist()
        return rollout.play(self.model, self.games.few(len(seeds)), seeds, greedy=greedy, device=batch["seeds"].device)

    def scores(self) -> nn.ModuleDict:
        """Of episodes the mean return, its standard deviation over them, the mean length, and their number."""
        found = {"return": MeanMetric(), "return_deviation": Deviation(), "length": MeanMetric(), "episodes": SumMetric()}
        return nn.ModuleDict(found)

    def score(self, batch: Batch, split: str, scores: nn.ModuleDict) -> None:
        """Play the batch's episodes."""
        episodes = self._played(batch, greedy=self.greedy)
        returns = torch.tensor([sum(episode.rewards) for episode in episodes])
        given: dict[str, Sequence[float] | Tensor | int] = {
            "return": returns,
            "return_deviation": returns,
            "length": torch.tensor([float(len(episode)) for episode in episodes]),
            "episodes": len(episodes),
        }
        for name, score in scores.items():
            score.update(given[name])  # pyright: ignore[reportCallIssue]

    def outputs(self, batch: Batch) -> Tensor:
        """Logits of some observations."""
        return self.model(batch["observations"])

    def changes_from_step_to_step(self) -> str:
        """They are played on the CPU."""
        return "an episode is as long as it is"

    def state(self) -> dict[str, int]:
        """Steps of the environment so far."""
        return {"environment_steps": self.played}

    def load_state(self, state: Mapping[str, int]) -> None:
        """The counterpart."""
        self.played = state["environment_steps"]

    def told(self) -> dict[str, float]:
        """The mean return of the step's episodes, and steps of the environment so far."""
        mean = sum(self.returns) / len(self.returns)
        self.returns = []
        return {"return": mean, "environment_steps": self.played}


def reinforce(logits: Tensor, actions: Tensor, advantages: Tensor, entropy: float) -> Tensor:
    """`-sum_t A_t log pi(a_t | s_t) - entropy H(pi(. | s_t))`.

    Args:
        logits: of the steps, `[N, A]`.
        actions: that were taken, `[N]`.
        advantages: `A_t`, `[N]`.
        entropy: what a nat of entropy is worth.
    """
    logs = logits.log_softmax(1)
    taken = logs.gather(1, actions[:, None])[:, 0]
    return -(advantages * taken - entropy * (logs.exp() * logs).sum(1)).sum()
