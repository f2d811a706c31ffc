"""A conversation as a model reads it: in a chat template, or, where there is none, as one text that goes on."""

from collections.abc import Sequence
from pathlib import Path

from qpa.errors import ConfigError
from qpa.tasks.language import template as templates
from qpa.tasks.language.answers import stops
from qpa.tasks.language.forms import Message, UnusableError
from qpa.tasks.pretrained.tokenizer import TextEncoder


class Conversation:
    """Turns messages into tokens and answers into text.

    Args:
        encoder: the model's tokenizer.
        folder: where its files are; None for the byte tokenizer of random weights.
        template: file of a chat template in place of the tokenizer's own.

    Attributes:
        stop: tokens that end an answer.

    Raises:
        ConfigError: the template cannot be read.
    """

    def __init__(self, encoder: TextEncoder, folder: Path | None, template: str | None) -> None:
        self.encoder = encoder
        self.template = templates.load(template, folder, encoder, key="template")
        self.stop = stops(folder, encoder, self.template)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens up to where the next answer begins.

        Raises:
            ConfigError: the template refuses the messages.
        """
        if self.template is None:
            bos = [] if self.encoder.bos is None else [self.encoder.bos]
            text = "\n".join(message["content"] for message in messages)
            return bos + self.encoder.encode([text], special_tokens=False)[0]
        try:
            return self.encoder.encode([self.template.prompt(messages, None)], special_tokens=True)[0]
        except UnusableError as error:
            raise ConfigError(*self.template.where, f"{error}; give another one: template=FILE") from error

    def text(self, answer: list[int]) -> str:
        """What was said."""
        return self.encoder.tokenizer.decode(answer, skip_special_tokens=True).strip()
