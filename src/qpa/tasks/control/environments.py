"""Environments of gymnasium as a policy sees them: numbers to look at, a few actions to choose from, an end to every episode."""

import difflib
import importlib.util
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qpa.config import EnvironmentDataConfig
from qpa.errors import ConfigError

if TYPE_CHECKING:
    from gymnasium import Env, Space

KEY = "data.environment"
WITHIN = {"MiniGrid": "minigrid", "BabyAI": "minigrid", "ALE": "ale_py", "MiniWorld": "miniworld"}  # packages that are known by their names
NEAR = 3  # names that are suggested


@dataclass(frozen=True)
class Rules:
    """What is known of an environment before it is played.

    Attributes:
        observed: numbers that a policy sees.
        actions: that it chooses from.
        limit: steps after which an episode is ended.
        threshold: the return at which the environment is called solved; None where it says none.
    """

    observed: int
    actions: int
    limit: int
    threshold: float | None


class Game:
    """One environment, played with numbers: an observation is flat, an action is one of the first so many.

    Args:
        data: config group `data`.
        render: whether its frames are wanted.

    Raises:
        ConfigError: there is no such environment, or no policy of ours can play it.
    """

    def __init__(self, data: EnvironmentDataConfig, *, render: bool = False) -> None:
        self.data = data
        self.environment = _made(data, "rgb_array" if render else None)
        self.space = _observed(data, self.environment.observation_space)
        self.first, self.actions = _actions(data, self.environment.action_space)

    @property
    def rules(self) -> Rules:
        """What is known of it.

        Raises:
            ConfigError: its episodes may never end.
        """
        from gymnasium.spaces import flatdim

        spec = self.environment.spec
        limit = (spec and spec.max_episode_steps) or getattr(self.environment.unwrapped, "max_steps", None)
        if not isinstance(limit, int):
            problem = f"{self.data.environment} has no limit of its own, and an episode has to end; give a number of steps"
            raise ConfigError("data.max_episode_steps", None, problem)
        return Rules(flatdim(self.space), self.actions, limit, spec.reward_threshold if spec else None)

    def reset(self, seed: int) -> np.ndarray:
        """Begin the episode of a seed; the first observation, `[observed]` in float32."""
        observation, _ = self.environment.reset(seed=seed)
        return self._flat(observation)

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        """Take an action, from 0; the next observation, the reward, and whether the episode has ended, by itself or by its limit."""
        observation, reward, terminated, truncated, _ = self.environment.step(self.first + action)
        return self._flat(observation), float(reward), terminated or truncated

    def _flat(self, observation: Any) -> np.ndarray:
        from gymnasium.spaces import flatten

        part = observation if self.data.observation is None else observation[self.data.observation]
        return np.asarray(flatten(self.space, part), dtype=np.float32)


def _made(data: EnvironmentDataConfig, render: str | None) -> "Env":
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise ConfigError(KEY, data.environment, "needs the package gymnasium; run make setup EXTRAS=control") from error
    given = {} if data.max_episode_steps is None else {"max_episode_steps": data.max_episode_steps}
    try:
        with warnings.catch_warnings(action="ignore"):  # of versions, which are said below
            made = gymnasium.make(data.environment, render_mode=render, disable_env_checker=True, **given)
    except gymnasium.error.UnregisteredEnv as error:
        raise ConfigError(KEY, data.environment, _unknown(data.environment, [*gymnasium.registry])) from error
    except Exception as error:  # whatever another's code raises, a package that it needs among them
        problem = _not_installed(data.environment) or f"cannot be made: {' '.join(str(error).split())}"
        raise ConfigError(KEY, data.environment, problem) from error
    module, colon, name = data.environment.rpartition(":")
    if made.spec and made.spec.id != name:
        raise ConfigError(
            KEY, data.environment, f"has no version, and another one is another task; give {KEY}={module}{colon}{made.spec.id}"
        )
    return made


def _unknown(name: str, there: list[str]) -> str:
    """Which environment was meant, perhaps."""
    module, _, rest = name.rpartition(":")
    package = WITHIN.get(rest.partition("-")[0].partition("/")[0])
    if package and not module:
        return f"is of the package {package}; give {KEY}={package}:{name}"
    near = difflib.get_close_matches(rest, there, NEAR)
    return f"there is no such environment; {'did you mean ' + ', '.join(near) + '?' if near else 'CartPole-v1 is one'}"


def _not_installed(name: str) -> str | None:
    """How to install the package that an environment's name begins with, where it is not there."""
    package = name.rpartition(":")[0].partition(".")[0]
    if not package or _importable(package):
        return None
    way = "make setup EXTRAS=control" if package == "minigrid" else f"pip install {package}"
    return f"the package {package} is not installed; run {way}"


def _importable(package: str) -> bool:
    return package.isidentifier() and importlib.util.find_spec(package) is not None


def _observed(data: EnvironmentDataConfig, space: "Space") -> "Space":
    """What of an observation is read."""
    from gymnasium.spaces import Dict

    if data.observation is not None:
        parts = [*space] if isinstance(space, Dict) else []
        if data.observation not in parts:
            there = f"there are {', '.join(parts)}" if parts else "observations have none; leave it out"
            raise ConfigError("data.observation", data.observation, f"there is no such part; {there}")
        space = space[data.observation]  # pyright: ignore[reportIndexIssue]
    if _numbers(space):
        return space
    problem = f"its observations ({type(space).__name__}) are no fixed count of numbers; choose another"
    if isinstance(space, Dict) and (parts := [name for name, part in space.items() if _numbers(part)]):
        problem = f"not all parts of an observation are numbers; data.observation= one of {', '.join(parts)} reads that alone"
    raise ConfigError(KEY, data.environment, problem)


def _numbers(space: "Space") -> bool:
    """Whether all that is in a space is as many numbers."""
    from gymnasium.spaces import flatdim

    try:
        return flatdim(space) > 0
    except (ValueError, NotImplementedError):  # a graph, a sequence; a space of another package's own
        return False


def _actions(data: EnvironmentDataConfig, space: "Space") -> tuple[int, int]:
    """The first action's number, and how many may be chosen."""
    from gymnasium.spaces import Discrete

    if not isinstance(space, Discrete):
        problem = f"its actions are {type(space).__name__}, and a policy here chooses one of several; choose another, as CartPole-v1"
        raise ConfigError(KEY, data.environment, problem)
    there = int(space.n)
    if data.actions is not None and data.actions > there:
        raise ConfigError("data.actions", data.actions, f"{data.environment} has {there}; give at most so many, or null for all")
    return int(space.start), data.actions or there
