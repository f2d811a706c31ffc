"""What rows hold for a language model: running text, prompts with completions, or conversations; found by the columns' names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qpa.config import RowsDataConfig
from qpa.errors import ConfigError

TEXTS = ("text", "content", "document")
PROMPTS = ("prompt", "instruction", "question", "query")
COMPLETIONS = ("completion", "response", "output", "answer")
CONVERSATIONS = ("messages", "conversations", "conversation", "chat")
TOOLS = ("tools",)
INPUT = "input"  # beside an `instruction`, as in Alpaca's data: what it is about, often empty

USER, ASSISTANT, SYSTEM, TOOL = "user", "assistant", "system", "tool"
ROLES = {  # ShareGPT's names too
    **dict.fromkeys((USER, "human"), USER),
    **dict.fromkeys((ASSISTANT, "gpt", "model", "chatgpt", "bot"), ASSISTANT),
    **dict.fromkeys((SYSTEM, "developer"), SYSTEM),
    **dict.fromkeys((TOOL, "function", "observation", "ipython"), TOOL),
}
AFTER = {None: {USER}, SYSTEM: {USER}, USER: {ASSISTANT}, ASSISTANT: {USER, TOOL}, TOOL: {TOOL, ASSISTANT}}  # which role may follow

Message = dict[str, Any]


class UnusableError(Exception):
    """A row that nothing can be learned from; its text says why."""


@dataclass(frozen=True)
class Dialogue:
    """A conversation.

    Attributes:
        messages: with `role` and `content`, and whatever else a template may read.
        tools: that the assistant is told of.
        given: how many of the messages are a prompt, of which nothing is trained on.
    """

    messages: list[Message]
    tools: list[Any] | None = None
    given: int = 0


@dataclass(frozen=True)
class Pair:
    """A prompt and what it is to be completed by."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class RunningText:
    """Rows are lines of one text."""

    column: str
    name = "rows of text"

    def text(self, row: Mapping[str, Any]) -> str | None:
        """A row's lines, without the last one's end; None of a row that has none.

        Raises:
            UnusableError: it holds something else.
        """
        value = row.get(self.column)
        if value is not None and not isinstance(value, str):
            raise UnusableError(f"column {self.column} holds no text but {_shown(value)}")
        return None if value is None else value.removesuffix("\n")


@dataclass(frozen=True)
class Prompts:
    """Rows are prompts, whose parts stand in one or two columns, each with its completion; texts, or lists of messages."""

    prompt: tuple[str, ...]
    completion: str
    name = "prompts with completions"

    def example(self, row: Mapping[str, Any]) -> Pair | Dialogue:
        """Of a row.

        Raises:
            UnusableError: a part is missing or empty, or of another kind.
        """
        prompt, completion = row.get(self.prompt[0]), row.get(self.completion)
        if isinstance(prompt, list):
            return self._dialogue(prompt, completion)
        parts = [_text(row.get(column), column, empty=column == INPUT) for column in self.prompt]
        return Pair("\n\n".join(part for part in parts if part), _text(completion, self.completion))

    def _dialogue(self, prompt: list[Any], completion: Any) -> Dialogue:
        given = _messages(prompt)
        answer = [{"role": ASSISTANT, "content": completion}] if isinstance(completion, str) else completion
        messages = [*given, *_messages(answer)]
        _check_order(messages)
        return Dialogue(messages, given=len(given))


@dataclass(frozen=True)
class Conversations:
    """Rows are conversations, each with the tools that it may use."""

    messages: str
    tools: str | None
    name = "conversations"

    def example(self, row: Mapping[str, Any]) -> Dialogue:
        """Of a row.

        Raises:
            UnusableError: it is empty, its roles are unknown or out of order, or a message says nothing.
        """
        messages = _messages(row.get(self.messages))
        _check_order(messages)
        tools = _parsed(row.get(self.tools)) if self.tools else None
        if tools is not None and not isinstance(tools, list):
            raise UnusableError(f"column {self.tools} holds no list of tools but {_shown(tools)}")
        return Dialogue(messages, tools or None)


Form = RunningText | Prompts | Conversations


def recognised(data: RowsDataConfig, columns: Mapping[str, str], *, where: tuple[str, object]) -> Form:
    """What the columns of a data set hold, as the config names them or by their own names.

    Args:
        data: config group `data`.
        columns: with what each holds, `str` where that is text.
        where: the config key that the data come from, and its value.

    Raises:
        ConfigError: a column that is named is not there, or none has a name that we know.
    """
    conversation = _named(data, "messages_column", columns, CONVERSATIONS)
    completion = _named(data, "completion_column", columns, COMPLETIONS)
    prompt = _named(data, "prompt_column", columns, PROMPTS)
    text = _named(data, "text_column", columns, TEXTS)
    if conversation and not (data.prompt_column or data.completion_column or data.text_column):
        return Conversations(conversation, _named(data, "tools_column", columns, TOOLS))
    if prompt and completion and not data.text_column:
        beside = (INPUT,) if prompt == "instruction" and INPUT in columns and not data.prompt_column else ()
        return Prompts((prompt, *beside), completion)
    texts = [column for column, kind in columns.items() if kind == "str"]
    if text and columns[text] not in ("str", "nothing"):
        raise ConfigError("data.text_column", text, f"holds no text but {columns[text]}; there are {_listed(columns)}")
    if text or len(texts) == 1:
        return RunningText(text or texts[0])
    problem = f"what its columns hold cannot be told ({_listed(columns)})"
    raise ConfigError(*where, f"{problem}; name data.messages_column, data.prompt_column and data.completion_column, or data.text_column")


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{column}: {kind}" for column, kind in columns.items())


def _named(data: RowsDataConfig, key: str, columns: Mapping[str, str], known: Sequence[str]) -> str | None:
    """The column of one kind: the one that the config names, or the first of a known name."""
    given: str | None = getattr(data, key)
    if given is None:
        return next((name for name in known if name in columns), None)
    if given not in columns:
        raise ConfigError(f"data.{key}", given, f"there is no such column; there are {_listed(columns)}")
    return given


def _text(value: Any, column: str, *, empty: bool = False) -> str:
    if empty and value in (None, ""):
        return ""
    if not isinstance(value, str):
        raise UnusableError(f"column {column} holds no text but {_shown(value)}")
    if not value:
        raise UnusableError(f"column {column} is empty")
    return value


def _messages(value: Any) -> list[Message]:
    found = _parsed(value)
    if not isinstance(found, list):
        raise UnusableError(f"is no list of messages but {_shown(found)}")
    if not found:
        raise UnusableError("an empty conversation")
    return [_message(message, number) for number, message in enumerate(found, 1)]


def _message(message: Any, number: int) -> Message:
    """With `role` and `content`, however they are called."""
    if not isinstance(message, dict):
        raise UnusableError(f"message {number} is no object but {_shown(message)}")
    role = message.get("role", message.get("from"))
    if role not in ROLES:
        raise UnusableError(f"message {number} has the role {_shown(role)}; there are system, user, assistant and tool")
    content = message.get("content", message.get("value"))
    calls = message.get("tool_calls")
    if not isinstance(content, str | list) and not (content is None and calls):
        raise UnusableError(f"message {number} has no content but {_shown(content)}")
    if not content and not calls and role != SYSTEM:
        raise UnusableError(f"message {number} is empty")
    rest = {name: part for name, part in message.items() if name not in ("role", "from", "content", "value")}
    return {"role": ROLES[role], "content": content, **rest}


def _check_order(messages: Sequence[Message]) -> None:
    before: str | None = None
    for number, message in enumerate(messages, 1):
        role = message["role"]
        if role not in AFTER[before] and not (role == SYSTEM and before is None):
            raise UnusableError(f"roles out of order: message {number} is the {role}'s, after {f'the {before}' if before else 'nothing'}")
        before = role


def _parsed(value: Any) -> Any:
    """Tables hold lists as JSON."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
