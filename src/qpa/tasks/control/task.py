"""The task `control` itself: a policy plays a gymnasium environment; the mean return of its episodes."""

import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from qpa import files
from qpa.config import Config, ControlConfig, EnvironmentDataConfig, PolicyConfig, expected
from qpa.config.context import Context
from qpa.errors import ConfigError, line
from qpa.tasks.control import environments
from qpa.tasks.control.environments import Rules
from qpa.tasks.task import Batch, Measured, Metric, Picture, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from qpa.tasks.control.reinforce import Reinforce
    from qpa.tasks.control.rollout import Episode, Games, Policy

ALL_LINEAR, LINEAR = "all-linear", r"linear\d+"  # what peft says, and what a policy's layers are called
RANDOM_EPISODES = 100
ENVIRONMENT_FILE = "environment.json"  # beside an exported policy
PROBED = 64  # observations by which a saved adapter is compared with the trained policy


class Control(Task):
    """A policy learns to have much reward."""

    metric: ClassVar[Metric] = Metric("return", "", better="higher")
    counted: ClassVar[str] = "episodes"
    over: ClassVar[str | None] = "environment_steps"
    picture: ClassVar[Picture] = Picture("gif", "An episode", "One held-out episode, each action the likeliest by the trained policy.")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.settings, self.model, self.data = _sections(config)

    def check(self) -> None:
        """Environment and method by their settings alone."""
        trainer, peft = self.config.trainer, self.config.peft
        if trainer.together:
            raise ConfigError("trainer.strategy", trainer.strategy, "episodes are played in one process; use trainer=default")
        if "num_virtual_tokens" in peft:
            problem = "its prompts stand before text, and a policy reads none; choose another, as peft=whole"
            raise ConfigError("peft", peft["_target_"], problem)
        if trainer.max_epochs is not None:
            raise ConfigError("trainer.max_epochs", trainer.max_epochs, "episodes have no end to count; give trainer.max_steps alone")
        _ = self.rules
        files.cache_folder(self.config.cache_dir)

    def resolved(self) -> Self:
        """In fp32; the PEFT method is none for text, and has the policy's own linear layers."""
        found = super().resolved()
        return found.of(found.config.model_copy(update={"peft": _for_policies(self.config.peft)}))

    def of(self, config: Config) -> Self:
        """Its own sections with it."""
        found = super().of(config)
        found.settings, found.model, found.data = _sections(config)
        return found

    @cached_property
    def rules(self) -> Rules:
        """Of the environment."""
        return environments.Game(self.data).rules

    @cached_property
    def games(self) -> "Games":
        """The environments that this process plays."""
        from qpa.tasks.control.rollout import Games

        return Games(self.data)

    @cached_property
    def chance(self) -> "list[Episode]":
        """Test episodes in which every action is as likely."""
        import torch

        return self._played(lambda seen: seen.new_zeros(len(seen), self.rules.actions), RANDOM_EPISODES, torch.device("cpu"))

    def _played(self, policy: "Policy", count: int, device: "torch.device", *, greedy: bool = False) -> "list[Episode]":
        """So many test episodes."""
        from qpa.tasks.control import rollout, seeds

        batches = [batch["seeds"].tolist() for batch in seeds.held_out(self.share, "test", count)]
        return [e for each in batches for e in rollout.play(policy, self.games.few(len(each)), each, greedy=greedy, device=device)]

    def title(self) -> str:
        """As `MLP 4-128-2 on CartPole-v1`."""
        sizes = [self.rules.observed, *self.model.hidden, self.rules.actions]
        return f"MLP {'-'.join(map(str, sizes))} on {self.data.environment.rpartition(':')[2]}"

    def protocol(self) -> dict[str, Any]:
        """The environment's rules, how held-out actions are chosen, and what chance reaches."""
        returns = [sum(episode.rewards) for episode in self.chance]
        return {
            "environment": self.data.environment,
            "limit": self.rules.limit,
            "threshold": self.rules.threshold,
            "actions": "the likeliest" if self.data.greedy else "drawn",
            "random": {"return": sum(returns) / len(returns), "episodes": len(returns)},
        }

    @classmethod
    def remarks(cls, ours: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Of the closing table: what chance reaches, and when the environment is solved."""
        said = ours["protocol"]
        found = [(f"random actions, {said['random']['episodes']} episodes", f"return {said['random']['return']:.3f}")]
        found += [] if said["threshold"] is None else [("solved, as the environment says", f"return {said['threshold']:g}")]
        return [*found, ("an episode is ended after", f"{said['limit']:,} steps")]

    def inputs(self) -> "dict[str, Tensor]":
        """Observations."""
        return dict(self.probe())

    def prepare(self) -> None:
        """A line of what is played."""
        if self.context.first:
            rules, name = self.rules, self.data.environment
            print(f"qpa: {name}: {rules.observed} numbers seen, {rules.actions} actions, at most {rules.limit} steps", file=sys.stderr)

    def train_loader(self, *, from_step: int) -> "DataLoader":
        """Seeds of the run's own episodes, one after the other."""
        from qpa.tasks.control import seeds

        return seeds.train_loader(self.share, seed=self.config.seed, from_step=from_step, steps=self.steps)

    def held_out(self) -> "dict[str, DataLoader]":
        """Seeds of the episodes that every run is measured by."""
        from qpa.tasks.control import seeds

        counts = {"val": self.data.val_episodes, "test": self.data.test_episodes}
        return {split: seeds.held_out(self.share, split, count) for split, count in counts.items()}

    def probe(self) -> Batch:
        """Observations of episodes that chance has played."""
        import numpy as np
        import torch

        seen = [observation for episode in self.chance for observation in episode.observations]
        return {"observations": torch.from_numpy(np.stack(seen[:: max(1, len(seen) // PROBED)][:PROBED]))}

    def skeleton(self) -> "nn.Module":
        """A policy."""
        import torch

        return self._policy(torch.device("meta"))

    def base(self, *, own: bool = False) -> "nn.Module":
        """A policy with the seed's weights."""
        from qpa.tasks.numerics import home

        return self._policy(home(self.config.trainer.accelerator))

    def _policy(self, device: "torch.device") -> "nn.Module":
        import torch

        from qpa.core.draws import drawn
        from qpa.tasks.control import networks

        made_on = device if device.type == "meta" else torch.device("cpu")  # drawn there: the same on every device
        with drawn(self.config.seed, "policy"), made_on:
            found = networks.policy(self.model, observed=self.rules.observed, actions=self.rules.actions)
        return found.to(device).requires_grad_(False).eval()

    def learner(self, model: "nn.Module", *, trained: bool = False) -> "Reinforce":
        """A policy that cannot be run is refused."""
        from qpa.tasks.control.reinforce import Reinforce

        return Reinforce(model, self.games, self.settings, greedy=self.data.greedy)

    def draw(self, measured: Measured, adapter: Path, file: Path) -> None:
        """A test episode; where an environment cannot be drawn here, a line says so."""
        from qpa.adapters import saved
        from qpa.tasks.control import drawing, seeds

        policy = saved.load_adapter(self.base(own=True), adapter).eval()
        (episode,) = self._played(policy, 1, next(policy.parameters()).device, greedy=True)
        try:
            drawing.draw(self.data, seeds.FIRST["test"], episode.actions, file)
        except Exception as error:  # whatever another's code raises; the run is worth more than its picture
            print(f"qpa: no picture of an episode: {line(error)}", file=sys.stderr)

    def save_beside(self, adapter: Path) -> None:
        """What it has learned to play."""
        files.write_json(adapter / ENVIRONMENT_FILE, self._plays)

    @property
    def _plays(self) -> dict[str, Any]:
        return {"environment": self.data.environment, "observed": self.rules.observed, "actions": self.rules.actions}

    def check_beside(self, adapter: Path) -> None:
        """Refuse a policy that sees or does something else than is seen and done here."""
        try:
            saved = files.read_json(adapter / ENVIRONMENT_FILE)
            alike = all(saved[key] == self._plays[key] for key in ("observed", "actions"))
        except (OSError, ValueError, KeyError, TypeError):
            return  # of another program, or moved alone
        if not alike:
            problem = f"the policy plays {saved['environment']}, with {saved['observed']} numbers seen and {saved['actions']} actions"
            raise ConfigError("data.environment", self.data.environment, f"{problem}; give one that it fits")


def _sections(config: Config) -> tuple[ControlConfig, PolicyConfig, EnvironmentDataConfig]:
    """The groups `task`, `model` and `data`, of kinds that are read here."""
    task, model = expected("task", config.task, ControlConfig), expected("model", config.model, PolicyConfig)
    return task, model, expected("data", config.data, EnvironmentDataConfig)


def _for_policies(peft: Mapping[str, Any]) -> dict[str, Any]:
    """A PEFT method's settings, which are for text as they stand in `conf/`."""
    found = dict(peft) | ({"task_type": None} if "task_type" in peft else {})
    return found | ({"target_modules": LINEAR} if found.get("target_modules") == ALL_LINEAR else {})


TASK = Control
