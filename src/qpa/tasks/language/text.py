"""The text of a run: read from where the config says, and split into train, validation and test.

Pure reading, no heavy import, so that a missing or empty file answers at once.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from qpa.config import FilesDataConfig, HubDataConfig, TextDataConfig
from qpa.errors import ConfigError
from qpa.files import digest, files_of
from qpa.tasks.language import formats, hub_data


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


def title(data: TextDataConfig) -> str:
    """What the text is, in a few words."""
    files = data.train_files if isinstance(data, FilesDataConfig) else []
    hub = data.hub if isinstance(data, HubDataConfig) else None
    return ", ".join("/".join(Path(file).parts[-2:]) for file in files) or hub or data.source


def read(data: TextDataConfig, *, speaks: bool = True) -> Texts:
    """Read and split the text.

    Args:
        data: config group `data`.
        speaks: whether to say what is left out.

    Raises:
        ConfigError: a file is missing, or a text is empty or certainly shorter than one window.
    """
    texts = _hub_texts(data, speaks=speaks) if isinstance(data, HubDataConfig) else _files_texts(data)
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


def digests(data: TextDataConfig) -> dict[str, list[str | None]]:
    """SHA-256 of every text file by split, None of one that is not there; `hub`: of a local folder in the hub's place."""
    files = {split: getattr(data, f"{split}_files", []) for split in ("train", "val", "test", "forgetting")}
    found = {split: [digest(Path(file)) for file in given] for split, given in files.items()}
    hub = data.hub if isinstance(data, HubDataConfig) else None
    return found | ({"hub": _folder_digests(Path(hub))} if hub and os.path.isdir(hub) else {})


def _folder_digests(folder: Path) -> list[str | None]:
    """Of all its files, each with its name, which tells the split."""
    return [f"{file.relative_to(folder)} {digest(file)}" for file in files_of(folder, key="data.hub")]


def where(data: TextDataConfig, name: str) -> tuple[str, object]:
    """The config key a split comes from, and its value."""
    val_files = getattr(data, "val_files", [])
    files = getattr(data, f"{name}_files", []) or (val_files if name == "test" else [])
    if files:
        return f"data.{name}_files", files
    if isinstance(data, HubDataConfig):
        return "data.hub", data.hub
    return ("data.source", data.source) if name == "train" else ("data.val_fraction", data.val_fraction)


def _pydoc() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def _join(key: str, files: list[str]) -> str:
    if not files:
        raise ConfigError(key, files, "give at least one text file")
    return "\n".join(_file_text(key, file) for file in files)


def _file_text(key: str, file: str) -> str:
    """A file's text, without the mark that some editors begin UTF-8 with."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
        if formats.is_text(text):
            if not text or text.isspace():
                raise ConfigError(key, file, "is empty; leave it out")
            return text
        content = Path(file).read_bytes()
        at = max(0, content.find(b"\0"))
    except OSError as error:
        raise ConfigError(key, file, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        content, at = error.object, error.start
    raise ConfigError(key, file, f"is no UTF-8 text; it {formats.describe(content, file, at)}")


def _files_texts(data: TextDataConfig) -> Texts:
    train = _join("data.train_files", data.train_files) if isinstance(data, FilesDataConfig) else _pydoc()
    val_files = getattr(data, "val_files", [])
    return _split(data, train, val=_join("data.val_files", val_files) if val_files else None, test=_given_test(data))


def _given_test(data: TextDataConfig) -> str | None:
    return _join("data.test_files", data.test_files) if data.test_files else None


def _split(data: TextDataConfig, train: str, *, val: str | None, test: str | None) -> Texts:
    """Cut validation text from the end of the training text, and test text from that, where there is none."""
    if val is None:
        if data.val_fraction is None:
            other = "data with a validation split" if data.source == "hub" else "data.val_files"
            raise ConfigError("data.val_fraction", None, f"give a share of the training text, as 0.1, or {other}")
        train, val = _cut(train, 1 - data.val_fraction)
    return Texts(train, *(_cut(val, 0.5) if test is None else (val, test)))


def _cut(text: str, share: float) -> tuple[str, str]:
    """Cut a text in two at the line end nearest after `share` of it."""
    at = int(len(text) * share)
    line_end = text.find("\n", at) + 1
    at = line_end if 0 < line_end < len(text) else at
    return text[:at], text[at:]


def _hub_texts(data: HubDataConfig, *, speaks: bool) -> Texts:
    given = _given_test(data)
    found = hub_data.read(data, wanted=("train", "validation", *(() if given else ("test",))), speaks=speaks)
    return _split(data, found["train"], val=found.get("validation"), test=given or found.get("test"))
