"""`python -m qpa.chat run=DIR [prompt=TEXT] [KEY=VALUE ...]`: talk to a run's base model and to the adapted one, side by side.

One prompt from the command line or from standard input is answered once; in a terminal each model keeps its own conversation until an
empty line or Ctrl-D. `/reset` forgets both, Ctrl-C breaks an answer off.
"""

import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qpa.commands import cli
from qpa.commands.composing import named_run
from qpa.config import ChatConfig, Config, checked
from qpa.errors import ConfigError, UsageError, UserError

if TYPE_CHECKING:
    from qpa.tasks.language.conversation import Conversation

OPTIONS = ("prompt", "template", "max_tokens", "temperature", "seed")
NUMBERS = ("max_tokens", "temperature", "seed")
USAGE = "usage: python -m qpa.chat run=DIR [prompt=TEXT] [template=FILE] [max_tokens=200] [temperature=0] [seed=0] [KEY=VALUE ...]"
WIDE = 100  # columns of a terminal in which two answers stand side by side
RESET = "/reset"


@dataclass
class Side:
    """One of the two models, and what has been said to it and by it."""

    name: str
    model: Any
    messages: list[dict[str, str]] = field(default_factory=list)


def main(arguments: list[str]) -> None:
    """Answer once, or as long as there is a prompt."""
    folder, config, options = named_run(arguments, usage=USAGE, options=OPTIONS)
    settings = checked(ChatConfig, options | {name: _plain(options[name]) for name in NUMBERS if name in options})
    if not (folder / "adapter").is_dir():
        raise ConfigError("run", folder, "has no adapter/; python -m qpa.export run=DIR makes it from the best checkpoint")
    prompt = settings.prompt
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
        if not prompt:
            raise UsageError(f"nothing on standard input; {USAGE}")
    conversation, sides = _load(config, folder, settings)
    if prompt is not None:
        _answer(prompt, conversation, sides, settings)
    else:
        _talk(conversation, sides, settings)


def _plain(value: str) -> object:
    """A number where it is one."""
    with suppress(yaml.YAMLError):
        return yaml.safe_load(value)
    return value


def _load(config: Config, folder: Path, settings: ChatConfig) -> "tuple[Conversation, list[Side]]":
    """Both models, on the same weights in memory, and how they read conversations."""
    import torch  # with all that follows: seconds

    from qpa.adapters import base_weights, saved
    from qpa.runs.restored import here
    from qpa.tasks.language.conversation import Conversation
    from qpa.tasks.language.task import Language
    from qpa.training.quiet import quiet

    quiet()
    task = here(config).task
    if not isinstance(task, Language):
        raise ConfigError("run", folder, f"is a run of task={config.task.kind}, whose models do not speak; choose one of task=language")
    torch.manual_seed(settings.seed)
    conversation = Conversation(task.encoder, task.folder, settings.template or getattr(config.data, "template", None))
    adapted = saved.load_adapter(task.base(own=base_weights.changes_base(config.peft)), folder / "adapter")
    return conversation, [Side("base model", task.base()), Side("adapted", adapted)]


def _talk(conversation: "Conversation", sides: list[Side], settings: ChatConfig) -> None:
    """Until there is no more prompt."""
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` then lets a line be edited
    print(f"An empty line ends, {RESET} forgets what was said, Ctrl-C breaks an answer off.")
    with suppress(EOFError):
        while prompt := input("> ").strip():
            if prompt == RESET:
                for side in sides:
                    side.messages.clear()
                continue
            try:
                _answer(prompt, conversation, sides, settings)
            except KeyboardInterrupt:
                print("\nqpa: broken off; that prompt is forgotten", file=sys.stderr)
            except UserError as error:
                print(f"qpa: {error}", file=sys.stderr)


def _answer(prompt: str, conversation: "Conversation", sides: list[Side], settings: ChatConfig) -> None:
    """Show what both say, and keep it once both have."""
    asked = [[*side.messages, {"role": "user", "content": prompt}] for side in sides]
    said = [_say(side, conversation, messages, settings) for side, messages in zip(sides, asked, strict=True)]
    for side, messages, text in zip(sides, asked, said, strict=True):
        side.messages = [*messages, {"role": "assistant", "content": text}]
    _show({side.name: text for side, text in zip(sides, said, strict=True)})


def _say(side: Side, conversation: "Conversation", messages: list[dict[str, str]], settings: ChatConfig) -> str:
    from qpa.tasks.language.generation import answers, fits

    ids = conversation.prompt(messages)
    if not fits(side.model, ids):
        raise UserError(f"the conversation has {len(ids):,} tokens, more than the model reads; ask for less, or forget it with {RESET}")
    how: dict[str, Any] = {"pad": conversation.encoder.eos, "stop": conversation.stop}
    (answer,) = answers(side.model, [ids], most=settings.max_tokens, batch_size=1, temperature=settings.temperature, **how)
    return conversation.text(answer)


def _show(said: dict[str, str]) -> None:
    """Side by side where there is room, else one under the other."""
    console = Console()
    if console.is_terminal and console.width >= WIDE:
        table = Table(*said, expand=True)
        table.add_row(*map(Text, said.values()))
        console.print(table)
        return
    for name, text in said.items():
        console.print(Text(f"{name}:", style="bold"))
        print(f"{text}\n")


script = cli.script(main)

if __name__ == "__main__":
    script()
