"""The text of a dataset, from the Hugging Face hub or from a local folder that `datasets` reads: a row after the other."""

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from qpa.config import HubDataConfig
from qpa.errors import ConfigError
from qpa.files import files_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

TEXT = ("string", "large_string", "string_view", "null")  # types of a column of text as `datasets` names them, or of nothing
LONGEST = 160  # characters of a library's own words
SILENT = 60  # above every level of logging


def read(data: HubDataConfig, wanted: Iterable[str], *, speaks: bool) -> dict[str, str]:
    """Those of the splits `train`, `validation` and `test` that are wanted and there; train always.

    Args:
        data: config group `data`.
        wanted: names of splits.
        speaks: whether to say how many rows are left out.

    Raises:
        ConfigError: the dataset cannot be had, has no train split, or no text in `data.text_column`.
    """
    check(data)
    from datasets.data_files import SPLIT_KEYWORDS  # the names that a split goes by

    splits = _load(data)
    found = {str(split): next((splits[name] for name in names if name in splits), None) for split, names in SPLIT_KEYWORDS.items()}
    if found["train"] is None:
        raise ConfigError("data.hub", data.hub, f"has no train split, only {', '.join(map(str, splits))}; give another dataset")
    return {split: _text(data, split, rows, speaks=speaks) for split, rows in found.items() if rows is not None and split in wanted}


def check(data: HubDataConfig) -> None:
    """Refuse a dataset without a name, before anything is imported.

    Raises:
        ConfigError: what to give.
    """
    if not data.hub:
        raise ConfigError("data.hub", data.hub, "give OWNER/NAME of a dataset on the hub, or a local folder")


def _load(data: HubDataConfig) -> "DatasetDict":
    import datasets
    from huggingface_hub import logging, snapshot_download

    assert data.hub, "check() has found it"
    logging.set_verbosity_error()
    datasets.logging.set_verbosity(SILENT)  # what it says is in the error too
    datasets.disable_progress_bars()
    local = os.path.isdir(data.hub)
    if local:
        files_of(Path(data.hub), key="data.hub")  # `datasets` would look through all of a large folder
    try:
        if not local:
            snapshot_download(data.hub, repo_type="dataset", allow_patterns=["README.md"])  # load_dataset would retry for long
        return datasets.load_dataset(data.hub, data.hub_config)
    except Exception as error:  # network, missing, gated, damaged: many kinds, one way out
        if names := re.search(r"vailable\D*(\[.*\])", str(error)):
            problem = f"the dataset has the configurations {names[1]}; give one of them"
            raise ConfigError("data.hub_config", data.hub_config, problem) from error
        failed = "cannot be read" if local else "cannot be fetched"
        raise ConfigError("data.hub", data.hub, f"{failed} ({_reason(error)}); use data=text with data.train_files=[FILE]") from error


def _reason(error: BaseException) -> str:
    """What a library says was the matter, in one line."""
    while error.__cause__:
        error = error.__cause__
    return shorten(str(error).strip() or type(error).__name__, LONGEST).rstrip(".")


def _text(data: HubDataConfig, split: str, rows: "Dataset", *, speaks: bool) -> str:
    """Rows as lines; empty ones are empty lines, as in WikiText, and null ones are left out."""
    column = data.text_column
    if column not in rows.column_names:
        raise ConfigError("data.text_column", column, f"the {split} split has no such column; it has {', '.join(rows.column_names)}")
    kind = rows.features[column]
    if getattr(kind, "dtype", None) not in TEXT or "ClassLabel" in str(kind):
        problem = f"of the {split} split is no text but {shorten(str(kind), LONGEST)}; the columns are {', '.join(rows.column_names)}"
        raise ConfigError("data.text_column", column, problem)
    try:
        lines = rows.data.column(column).to_pylist()  # this column alone: images beside it are not decoded
    except UnicodeDecodeError as error:
        raise ConfigError("data.text_column", column, f"of the {split} split is no UTF-8 text ({error}); use other data") from error
    given = [line.removesuffix("\n") for line in lines if line is not None]
    if len(given) < len(lines) and speaks:
        print(f"qpa: {len(lines) - len(given):,} of {len(lines):,} rows of the {split} split are null and left out", file=sys.stderr)
    return "\n".join(given)
