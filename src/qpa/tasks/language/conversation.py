"""Conversations as a model reads them: in its tokenizer's chat template, or, where there is none, as one text that goes on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from qpa.errors import ConfigError
from qpa.tasks.pretrained.tokenizer import BYTE_BOS, TextEncoder

ANSWER = "Yes"  # of the conversation that shows what ends an answer

Messages = Sequence[dict[str, str]]


class Conversation:
    """Turns messages into tokens and answers into text.

    Args:
        encoder: the model's tokenizer.
        folder: where its files are; None for the byte tokenizer of random weights.
        template: file of a chat template in place of the tokenizer's own.

    Raises:
        ConfigError: transformers cannot read the tokenizer, or the template does not take a prompt and its answer.
    """

    def __init__(self, encoder: TextEncoder, folder: Path | None, template: Path | None) -> None:
        self.encoder = encoder
        self.tokenizer = _stock(encoder, folder)
        self.source = ("template", template) if template else ("model.path", folder)
        self.template: str | None = _read(template) if template else self.tokenizer.chat_template
        self.ends = self._ends_of_answers()

    def prompt(self, messages: Messages) -> list[int]:
        """Tokens up to where the next answer begins.

        Raises:
            ConfigError: the template refuses the messages.
        """
        if self.template is not None:
            return self.encoded(self._rendered(messages, prompting=True))
        text = "\n".join(message["content"] for message in messages)
        bos = [] if self.encoder.bos is None else [self.encoder.bos]
        return bos + self.encoder.encode([text], special_tokens=False)[0]

    def encoded(self, text: str) -> list[int]:
        """As `apply_chat_template` encodes what it has rendered."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def text(self, answer: list[int]) -> str:
        """What was said."""
        return self.encoder.tokenizer.decode(answer, skip_special_tokens=True).strip()

    def stop(self, model: PreTrainedModel) -> set[int]:
        """Tokens that end an answer: of the template, the tokenizer and the model."""
        settings: Any = model.generation_config
        given = settings.eos_token_id if settings else None
        ends = given if isinstance(given, list) else [given]
        return {token for token in (*ends, self.tokenizer.eos_token_id, self.encoder.eos, *self.ends) if token is not None}

    def _rendered(self, messages: Messages, *, prompting: bool) -> str:
        try:
            found = self.tokenizer.apply_chat_template(
                list(messages), chat_template=self.template, tokenize=False, add_generation_prompt=prompting
            )
        except (TemplateError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(*self.source, f"its chat template fails ({reason}); give another: template=FILE") from error
        assert isinstance(found, str)
        return found

    def _ends_of_answers(self) -> list[int]:
        """The token that follows an answer in the template, where it is a special one."""
        if self.template is None:
            return []
        asked = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
        after = self.encoded(self._rendered(asked, prompting=False).rpartition(ANSWER)[2].lstrip())
        return after[:1] if after and after[0] in self.tokenizer.added_tokens_decoder else []


def _stock(encoder: TextEncoder, folder: Path | None) -> Any:
    """The tokenizer as transformers has it."""
    if folder is None:
        return PreTrainedTokenizerFast(tokenizer_object=encoder.tokenizer, bos_token=BYTE_BOS, eos_token=BYTE_BOS)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ConfigError("model.path", folder, f"transformers cannot read its tokenizer ({' '.join(str(error).split())})") from error


def _read(template: Path) -> str:
    try:
        return template.read_text()
    except (OSError, ValueError) as error:
        raise ConfigError("template", template, "cannot be read; give a file with a chat template in Jinja") from error
