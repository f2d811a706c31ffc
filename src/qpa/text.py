"""The text of a run: read from where the config says, and split into train, validation and test.

Pure reading, no heavy import, so that a missing or empty file answers at once.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from qpa.config import DataConfig
from qpa.errors import ConfigError


@dataclass(frozen=True)
class Texts:
    """The texts of a run, not overlapping; `forgetting` is another text, to see what adapting to the first costs there."""

    train: str
    val: str
    test: str
    forgetting: str | None = None

    def given(self) -> dict[str, str]:
        """By name, those that there are."""
        return {name: text for name, text in vars(self).items() if text is not None}


def read(data: DataConfig) -> Texts:
    """Read and split the text.

    Raises:
        ConfigError: a file is missing, or a text is empty or certainly shorter than one window.
    """
    if data.source != "files" and data.train_files:
        raise ConfigError("data.train_files", data.train_files, "is not read here; add data=text")
    if data.source == "hub" and data.val_files:
        raise ConfigError("data.val_files", data.val_files, "hub data bring their own; use data=text")
    if data.source == "hub":
        texts = _hub_texts(data)
        texts = replace(texts, test=_join("data.test_files", data.test_files)) if data.test_files else texts
    else:
        texts = _split(data, _pydoc() if data.source == "pydoc" else _join("data.train_files", data.train_files))
    if data.forgetting_files:
        texts = replace(texts, forgetting=_join("data.forgetting_files", data.forgetting_files))
    for name, text in texts.given().items():
        key = where(data, name)
        if not text.strip():
            raise ConfigError(*key, f"the {name} text is empty")
        packed = data.protocol == "packed"
        if packed and name == "train" and len(text.encode()) < data.context - 1:  # no token is shorter than a byte
            raise ConfigError(
                *key, f"the {name} text ({len(text.encode())} bytes) is shorter than one window; lower data.context={data.context}"
            )
    return texts


def where(data: DataConfig, name: str) -> tuple[str, object]:
    """The config key a split comes from, and its value."""
    files = getattr(data, f"{name}_files") or (data.val_files if name == "test" else [])
    if files:
        return f"data.{name}_files", files
    return ("data.source", data.source) if name == "train" or data.source == "hub" else ("data.val_fraction", data.val_fraction)


def _pydoc() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def _join(key: str, files: list[str]) -> str:
    if not files:
        raise ConfigError(key, files, "give at least one text file")
    try:
        return "\n".join(Path(f).read_text(encoding="utf-8", errors="replace") for f in files)
    except OSError as error:
        raise ConfigError(key, files, f"cannot read {error.filename} ({error.strerror})") from error


def _split(data: DataConfig, train: str) -> Texts:
    if data.val_files:
        val = _join("data.val_files", data.val_files)
    elif data.val_fraction:
        train, val = _cut(train, 1 - data.val_fraction)
    else:
        raise ConfigError("data.val_fraction", data.val_fraction, "give a share of the training text, or data.val_files")
    if data.test_files:
        return Texts(train, val, _join("data.test_files", data.test_files))
    return Texts(train, *_cut(val, 0.5))


def _cut(text: str, share: float) -> tuple[str, str]:
    """Cut a text in two at the line end nearest after `share` of it."""
    at = int(len(text) * share)
    line_end = text.find("\n", at) + 1
    at = line_end if 0 < line_end < len(text) else at
    return text[:at], text[at:]


def _hub_texts(data: DataConfig) -> Texts:
    from datasets import load_dataset
    from huggingface_hub import logging, snapshot_download

    logging.set_verbosity_error()
    try:
        snapshot_download(data.hub or "", repo_type="dataset", allow_patterns=["README.md"])  # load_dataset would retry for long
        splits = load_dataset(data.hub or "", data.hub_config)
    except Exception as error:  # network, missing, gated: many kinds, one way out
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ConfigError("data.hub", data.hub, f"cannot be fetched ({reason}); use data=text with data.train_files=[FILE]") from error
    return Texts(*("\n".join(row.removesuffix("\n") for row in splits[name]["text"]) for name in ("train", "validation", "test")))
