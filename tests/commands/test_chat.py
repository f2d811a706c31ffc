"""`qpa.chat`: what both models say is what stock transformers and peft say, once or in a conversation."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import folder_of, train_run
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from qpa.commands import chat
from qpa.config import Config
from qpa.errors import ConfigError, UsageError
from qpa.tasks.language.conversation import Conversation
from qpa.tasks.pretrained.tokenizer import BYTE_BOS, byte_encoder, load

MakeConfig = Callable[..., Config]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRONG = ["optimizer.lr=0.5", "trainer.max_steps=6", "trainer.val_every=6", "model.dtype=float32"]


@pytest.fixture
def base(saved_base: Callable[..., Path]) -> Path:
    """A model's folder, whose tokenizer has a chat template and the tokens that it uses."""
    folder = saved_base("smollm2")
    tokenizer = byte_encoder().tokenizer
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": BYTE_BOS, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def trained_on(make_config: MakeConfig, base: Path, *overrides: str) -> Path:
    config = make_config("model.weights=published", f"model.path={base}", "model.num_layers=null", *STRONG, *overrides)
    train_run(config)
    return folder_of(config)


@torch.no_grad()
def stock(base: Path, run: Path, ids: list[int], *, most: int) -> list[str]:
    """What both say greedily, by stock transformers and peft; a soft prompt's prompt alone, without padding."""
    said = []
    tokenizer = AutoTokenizer.from_pretrained(base)
    for adapter in (None, run / "adapter"):
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, str(adapter)).eval() if adapter else model.eval()
        answer: list[int] = []
        while len(answer) < most:
            token = int(model(input_ids=torch.tensor([ids + answer])).logits[0, -1].argmax())
            if token in (256, 258):  # BOS, which ends a text, and <|im_end|>
                break
            answer.append(token)
        said.append(tokenizer.decode(answer, skip_special_tokens=True).strip())
    return said


def shown(capsys: pytest.CaptureFixture) -> list[str]:
    """The two answers of each prompt, from what is printed when it is no terminal."""
    text = capsys.readouterr().out
    assert text.startswith("base model:\n")
    return [part.removesuffix("\n\n").strip() for turn in text.split("base model:\n")[1:] for part in turn.split("adapted:\n")]


@pytest.mark.parametrize("method", [[], ["peft=prefix", "generator=none"]])
def test_both_answer_as_stock_transformers_and_peft_do_with_the_models_own_template(
    make_config: MakeConfig, base: Path, capsys: pytest.CaptureFixture, method: list[str]
) -> None:
    run = trained_on(make_config, base, *method)
    capsys.readouterr()
    chat.main([f"run={run}", "prompt=What is a list?", "max_tokens=12"])
    messages = [{"role": "user", "content": "What is a list?"}]
    ids = AutoTokenizer.from_pretrained(base).apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert shown(capsys) == stock(base, run, ids, most=12)


def test_bottleneck_adapters_and_soft_prompts_answer_too(make_config: MakeConfig, capsys: pytest.CaptureFixture) -> None:
    for method in ("adapter", "prompt"):
        config = make_config(f"peft={method}", "generator=none", "force=true", *STRONG)
        train_run(config)
        capsys.readouterr()
        chat.main([f"run={folder_of(config)}", "prompt=if", "max_tokens=8"])
        assert len(shown(capsys)) == 2


def test_prompt_comes_from_standard_input(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run(make_config(*STRONG))
    found = []
    for arguments, typed in ((["prompt=The word"], "ignored"), ([], "The word\n")):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        chat.main([f"run={tmp_path}/run", "max_tokens=8", *arguments])
        found.append(shown(capsys))
    assert found[0] == found[1]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(UsageError, match=r"nothing on standard input; usage:"):
        chat.main([f"run={tmp_path}/run"])


class Typed(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_each_model_has_its_own_conversation_until_it_is_forgotten(
    make_config: MakeConfig, base: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained_on(make_config, base)
    monkeypatch.setattr("sys.stdin", Typed("Hello\nWhy?\n/reset\nHello\n\n"))
    asked: list[list[list[dict[str, str]]]] = []
    original = Conversation.prompt

    def heard(self: Conversation, messages: Any) -> list[int]:
        asked.append(list(messages))
        return original(self, messages)

    monkeypatch.setattr(Conversation, "prompt", heard)
    chat.main([f"run={run}", "max_tokens=6"])
    printed = capsys.readouterr().out
    first, adapted_first, second, adapted_second, again, _ = asked
    assert first == adapted_first == again == [{"role": "user", "content": "Hello"}]
    for messages in (second, adapted_second):
        assert [message["role"] for message in messages] == ["user", "assistant", "user"]
        assert messages[1]["content"] in printed
        assert messages[2]["content"] == "Why?"
    assert second[1] != adapted_second[1], "the adapter says what the base says"


def test_answer_that_is_broken_off_leaves_the_session_as_it_was(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run(make_config(*STRONG))
    monkeypatch.setattr("sys.stdin", Typed("broken\nnext\n"))
    original, asked = Conversation.prompt, []

    def interrupted(self: Conversation, messages: Any) -> list[int]:
        asked.append([message["content"] for message in messages])
        if len(asked) == 2:  # the base model has answered
            raise KeyboardInterrupt
        return original(self, messages)

    monkeypatch.setattr(Conversation, "prompt", interrupted)
    chat.main([f"run={tmp_path}/run", "max_tokens=3"])
    assert "broken off" in capsys.readouterr().err
    assert asked == [["broken"], ["broken"], ["next"], ["next"]]


def test_template_of_ones_own_and_its_end_of_answers(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(CHATML.replace("assistant\n", "assistant: "))
    encoder, messages = load(base), [{"role": "user", "content": "Hi"}]
    conversation = Conversation(encoder, base, str(file))
    assert conversation.prompt(messages) == encoder.tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant: ").ids
    assert encoder.tokenizer.token_to_id("<|im_end|>") in conversation.stop
    plain = Conversation(byte_encoder(), None, None)
    assert plain.prompt(messages) == [256, *byte_encoder().tokenizer.encode("Hi").ids]


def test_temperature_draws_by_the_seed(make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train_run(make_config(*STRONG))
    found = []
    for seed in (1, 1, 2):
        capsys.readouterr()
        chat.main([f"run={tmp_path}/run", "prompt=The", "max_tokens=20", "temperature=2", f"seed={seed}"])
        found.append(shown(capsys))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["max_tokens=many"], r"max_tokens=many: should be a valid integer"),
        (["temperature=-1"], r"temperature=-1: should be greater"),
        (["prompt="], r"prompt=: .*at least 1"),
        (["prompt=x", "template=no/such.jinja"], r"template=no/such\.jinja: cannot be read"),
        (["prompt=x", "template=BAD"], r"template=.*bad\.jinja: the chat template refuses it \(.*\); give another one: template=FILE"),
        (["prompt=" + "long " * 3000], r"the conversation has 15,0\d\d tokens, more than the model reads"),
    ],
)
def test_what_cannot_be_answered_is_one_line(make_config: MakeConfig, tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "bad.jinja").write_text("{{ raise_exception('no users here') }}")
    train_run(make_config("trainer.max_steps=1", "model.architecture.max_position_embeddings=2048"))
    given = [argument.replace("BAD", f"{tmp_path}/bad.jinja") for argument in arguments]
    with pytest.raises(Exception, match=words):
        chat.main([f"run={tmp_path}/run", *given])


def test_run_without_an_adapter_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    (tmp_path / "run").mkdir()
    from qpa.runs import record

    record.save_config(tmp_path / "run", config)
    with pytest.raises(ConfigError, match=r"run=.*has no adapter/; python -m qpa\.export"):
        chat.main([f"run={tmp_path}/run", "prompt=x"])
