"""The loss against REINFORCE written by hand on the same episodes, and what the learner counts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from playing import config, task_of
from torch import Tensor

from qpa.tasks.control import rollout
from qpa.tasks.control.reinforce import Reinforce

SEEDS = torch.tensor([3, 4, 5])


def learner_of(folder: Path, *overrides: str) -> Reinforce:
    task = task_of(config(folder, *overrides))
    return task.learner(task.base().requires_grad_(True), trained=True)


def by_hand(learner: Reinforce, gamma: float, entropy: float) -> Tensor:
    """Step by step, each log probability by itself."""
    episodes = rollout.play(learner.model, learner.games.few(3), SEEDS.tolist(), greedy=False, device=torch.device("cpu"))
    gains = []
    for episode in episodes:
        after, own = 0.0, []
        for reward in reversed(episode.rewards):
            after = reward + gamma * after
            own.insert(0, after)
        gains += own
    mean, std = np.mean(gains), np.std(gains)
    steps = [pair for episode in episodes for pair in zip(episode.observations, episode.actions, strict=True)]
    total = torch.zeros(())
    for (seen, action), gain in zip(steps, gains, strict=True):
        chosen = torch.distributions.Categorical(logits=learner.model(torch.from_numpy(seen)))
        total = total - (gain - mean) / std * chosen.log_prob(torch.tensor(action)) - entropy * chosen.entropy()
    return total


@pytest.mark.parametrize(("gamma", "entropy"), [(0.99, 0.0), (0.9, 0.05)])
def test_loss_and_gradient_are_reinforce_by_hand(tmp_path: Path, gamma: float, entropy: float) -> None:
    learner = learner_of(tmp_path, f"task.gamma={gamma}", f"task.entropy={entropy}")
    loss, count = learner.loss({"seeds": SEEDS})
    expected, weights = by_hand(learner, gamma, entropy), [*learner.model.parameters()]
    assert int(count) == 3
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), rtol=1e-3, atol=1e-4)


def test_an_episode_of_one_step_and_rewards_that_are_all_alike_teach_nothing(tmp_path: Path) -> None:
    for overrides in (["data.max_episode_steps=1"], ["data=minigrid", "data.max_episode_steps=4"]):
        learner = learner_of(tmp_path, *overrides)
        loss, _ = learner.loss({"seeds": SEEDS[:1]})
        assert float(loss) == 0


def test_steps_and_returns_of_training_are_counted_and_those_of_measuring_are_not(tmp_path: Path) -> None:
    learner = learner_of(tmp_path)
    scores = learner.scores()
    learner.score({"seeds": SEEDS}, "val", scores)
    assert learner.state() == {"environment_steps": 0}
    lengths = [len(e) for e in rollout.play(learner.model, learner.games.few(3), SEEDS.tolist(), greedy=False, device=torch.device("cpu"))]
    learner.loss({"seeds": SEEDS[:2]})
    learner.loss({"seeds": SEEDS[2:]})
    assert learner.told() == {"return": np.mean(lengths), "environment_steps": sum(lengths)}
    other = learner_of(tmp_path)
    other.load_state(learner.state())
    other.loss({"seeds": SEEDS[:1]})
    assert other.told() == {"return": lengths[0], "environment_steps": sum(lengths) + lengths[0]}
