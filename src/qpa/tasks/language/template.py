"""Conversations as a tokenizer's chat template writes them, and where in the text the assistant speaks.

Text and tokens are those of transformers' `apply_chat_template`. What the assistant says is what the template itself marks with
`{% generation %}`; of a template without such marks, what it adds to the messages before a turn, the generation prompt included, when
the turn is added: the turn's text and whatever ends it.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from qpa.errors import ConfigError, line
from qpa.tasks.language.forms import ASSISTANT, USER, Dialogue, Message, UnusableError
from qpa.tasks.pretrained.tokenizer import TextEncoder, as_transformers

OWN = "own"
Span = tuple[int, int]  # of characters
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Template:
    """A chat template.

    Attributes:
        text: in Jinja.
        tokens: names of special tokens that it may write, as `bos_token`.
        where: the config key that it comes from and its value.
    """

    text: str
    tokens: dict[str, Any]
    where: tuple[str, object]

    @property
    def key(self) -> str:
        """What its output depends on beside the messages: some write today's date."""
        return f"{self.text}|{self.tokens}|{date.today() if 'strftime_now' in self.text else ''}"

    def prompt(self, messages: Sequence[Message], tools: list[Any] | None) -> str:
        """Messages, and what opens the assistant's answer.

        Raises:
            UnusableError: the template refuses them.
        """
        return self._render(messages, tools, answering=True)

    def spoken(self, dialogue: Dialogue, *, last: bool) -> tuple[str, list[Span]]:
        """A conversation's text, and where in it the assistant speaks.

        Args:
            dialogue: the conversation.
            last: only the last of its turns.

        Raises:
            UnusableError: the template refuses it, or does not show where.
        """
        turns = [at for at, message in enumerate(dialogue.messages) if message["role"] == ASSISTANT]
        wanted = [place for place, at in enumerate(turns) if at >= dialogue.given]
        wanted = wanted[-1:] if last else wanted
        if MARKED.search(self.text):
            text, spans = self._marked(dialogue)
            if len(wanted) == len(turns):
                return text, spans
            if len(spans) != len(turns):
                raise UnusableError(
                    "the chat template marks turns in several parts, so that one of them cannot be told; give data.train_on=all"
                )
            return text, [spans[place] for place in wanted]
        text = self.whole(dialogue)
        return text, [self._span(dialogue, text, turns[place]) for place in wanted]

    def whole(self, dialogue: Dialogue) -> str:
        """A conversation's text.

        Raises:
            UnusableError: the template refuses it.
        """
        return self._render(dialogue.messages, dialogue.tools)

    def _marked(self, dialogue: Dialogue) -> tuple[str, list[Span]]:
        text, spans = self._rendered(dialogue.messages, dialogue.tools, return_assistant_tokens_mask=True)
        return text[0], spans[0]

    def _span(self, dialogue: Dialogue, text: str, at: int) -> Span:
        before = self.prompt(dialogue.messages[:at], dialogue.tools)
        after = text if at + 1 == len(dialogue.messages) else self._render(dialogue.messages[: at + 1], dialogue.tools)
        if not (after.startswith(before) and text.startswith(after)):
            problem = "the chat template writes a turn otherwise once others follow, so that what to train on cannot be told"
            raise UnusableError(f"{problem} (mark it with {{% generation %}} in data.template, or give data.train_on=last or all)")
        return len(before), len(after)

    def _render(self, messages: Sequence[Message], tools: list[Any] | None, *, answering: bool = False) -> str:
        return self._rendered(messages, tools, add_generation_prompt=answering)[0][0]

    def _rendered(self, messages: Sequence[Message], tools: list[Any] | None, **how: bool) -> tuple[list[str], list[list[Span]]]:
        from jinja2 import TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        render: Any = render_jinja_template  # annotated as a text alone
        try:
            return render([list(messages)], tools=tools, chat_template=self.text, **how, **self.tokens)
        except TemplateSyntaxError as error:
            raise ConfigError(*self.where, f"is no chat template ({line(error)}); mend it, or give another file") from error
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise UnusableError(f"the chat template refuses it ({line(error)})") from error


def load(file: str | None, folder: Path | None, encoder: TextEncoder, *, key: str = "data.template") -> Template | None:
    """The template in a file, or the tokenizer's own; None where there is neither.

    Args:
        file: `data.template`, `own` for the tokenizer's.
        folder: of the model, None for random weights.
        encoder: its tokenizer.
        key: that names the file.

    Raises:
        ConfigError: it cannot be read, or is no Jinja.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = as_transformers(encoder) if folder is None else AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template and file == OWN:
        raise ConfigError(key, OWN, "this model's tokenizer has none; give a file with a Jinja chat template")
    if not tokenizer.chat_template and file is None:
        return None
    where = (key, file) if file else ("model", str(folder))
    text = tokenizer.get_chat_template() if file in (None, OWN) else _file(key, file)
    found = Template(text, dict(tokenizer.special_tokens_map), where)
    with suppress(UnusableError):  # it may want other roles; that it is none at all is said before any row
        found.prompt([{"role": USER, "content": "?"}], None)
    return found


def _file(key: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(key, file, f"cannot be read ({line(error)}); give a file with a Jinja chat template") from error
