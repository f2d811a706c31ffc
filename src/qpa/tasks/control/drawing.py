"""An episode as a moving picture."""

import os
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from PIL import Image

from qpa.config import EnvironmentDataConfig
from qpa.tasks.control.environments import Game

MOST_FRAMES = 200
SIDE = 300  # pixels of a frame at most
COLOURS = 32
LEAST_MS = 20  # browsers show shorter frames as long ones
FPS = 30  # where the environment does not say
HEADLESS = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1", "XDG_RUNTIME_DIR": "/tmp"}


def draw(data: EnvironmentDataConfig, seed: int, actions: Sequence[int], file: Path) -> None:
    """Play an episode again and write its frames as a GIF, of a long one every so many-th.

    Args:
        data: config group `data`.
        seed: of the episode.
        actions: that were taken in it.
        file: where to.

    Raises:
        Exception: whatever the environment raises, where it cannot be drawn here.
    """
    every = -(-len(actions) // MOST_FRAMES)
    with mock.patch.dict(os.environ, HEADLESS):
        game = Game(data, render=True)
        game.reset(seed)
        frames = [_frame(game)]
        for number, action in enumerate(actions, 1):
            game.step(action)
            if number % every == 0 or number == len(actions):
                frames.append(_frame(game))
        game.environment.close()
    duration = max(LEAST_MS, round(1000 * every / game.environment.metadata.get("render_fps", FPS)))
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=duration, loop=0)


def _frame(game: Game) -> Image.Image:
    image = Image.fromarray(game.environment.render())  # pyright: ignore[reportArgumentType]
    image.thumbnail((SIDE, SIDE))
    return image.quantize(COLOURS, dither=Image.Dither.NONE)
