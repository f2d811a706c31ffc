"""Text to token ids with the fast `tokenizers` library alone: no torch, no transformers, so that text is checked early."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers

from qpa.errors import ConfigError
from qpa.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BYTE_BOS = "<bos>"


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer, the one token that opens every window, and the one that ends a text.

    Attributes:
        tokenizer: as saved in a model's `tokenizer.json`.
        bos: id of the beginning-of-sequence token, None where the model has none.
        eos: id of the end-of-sequence token, that of BOS where the model has none; the paper's protocol pads with it.
    """

    tokenizer: Tokenizer
    bos: int | None
    eos: int

    def encode(self, texts: list[str], *, special_tokens: bool) -> list[list[int]]:
        """Token ids of each text alone, without any that would be put around it.

        Args:
            texts: each encoded by itself.
            special_tokens: whether one that is written in a text, as "<|im_start|>", is that token; else it is text.
        """
        return [encoding.ids for encoding in self.encodings(texts, special_tokens=special_tokens)]

    def encodings(self, texts: list[str], *, special_tokens: bool, around: bool = False) -> list[Encoding]:
        """The same, with the place in its text of each token.

        Args:
            texts: each encoded by itself.
            special_tokens: as for `encode`.
            around: with the tokens that stock transformers puts around a text, as a BOS, where the tokenizer does that.
        """
        self.tokenizer.encode_special_tokens = not special_tokens
        return self.tokenizer.encode_batch(texts, add_special_tokens=around)

    def whole(self) -> re.Pattern[str]:
        """What in a text must not be cut in two: all that is one token wherever it stands, with the white space that it takes in."""
        longest_first = sorted(self.tokenizer.get_added_tokens_decoder().values(), key=lambda token: -len(token.content))
        parts = [r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip for token in longest_first]
        return re.compile("|".join(parts) or "(?!)", re.IGNORECASE)  # some are found in lower-cased text

    def key(self) -> str:
        """What identifies it in a cache key."""
        return f"{self.tokenizer.to_str()}|{self.bos}"


def load(folder: Path | None) -> TextEncoder:
    """The tokenizer of a model's folder, or the byte tokenizer for random weights (`folder` None).

    Raises:
        ConfigError: the folder has no fast tokenizer.
    """
    if folder is None:
        return byte_encoder()
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises a bare Exception for a missing or damaged file
        raise ConfigError("model.path", folder, "no readable tokenizer.json there; save a fast tokenizer beside the model") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        bos, eos = (_special(name, folder, tokenizer) for name in ("bos", "eos"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            "model.path", folder, f"has a damaged tokenizer_config.json, special_tokens_map.json or config.json ({error})"
        ) from error
    return TextEncoder(tokenizer, bos, eos if eos is not None else bos or 0)


def _special(name: str, folder: Path, tokenizer: Tokenizer) -> int | None:
    """The id of BOS or EOS: as the tokenizer's settings say (null: none), or where they are silent (GPT-2), the model's."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = _json(folder / file)
        if f"{name}_token" in settings:
            token = settings[f"{name}_token"]
            text = token["content"] if isinstance(token, dict) else token
            return tokenizer.token_to_id(text) if text else None
    found = _json(folder / "config.json").get(f"{name}_token_id")
    return found[0] if isinstance(found, list) else found


def _json(path: Path) -> dict[str, Any]:
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is no object")
    return found


def byte_encoder() -> TextEncoder:
    """One token per byte (ids 0 to 255) and a BOS (256): for models with random weights."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BYTE_BOS])
    bos = len(alphabet)
    return TextEncoder(tokenizer, bos, bos)


def as_transformers(encoder: TextEncoder) -> "PreTrainedTokenizerFast":
    """As transformers has it, with the names of its special tokens."""
    from transformers import PreTrainedTokenizerFast

    token = encoder.tokenizer.id_to_token
    special = {"eos_token": token(encoder.eos), "pad_token": token(encoder.eos)}
    if encoder.bos is not None:
        special["bos_token"] = token(encoder.bos)
    return PreTrainedTokenizerFast(tokenizer_object=encoder.tokenizer, **special)
