"""A dataset from the Hugging Face hub, or from a local folder that `datasets` reads or saved, by split."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from qpa.config import HubDataConfig, ImageHubConfig
from qpa.errors import ConfigError
from qpa.files import files_of
from qpa.tasks.rows.files import is_saved, splits_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SPLITS = {"train": "train", "val": "validation", "test": "test"}  # ours as `datasets` names them
INSTEAD = {"hub": "data=files with data.train_files=[FILE]", "image_hub": "data=image_folder with data.folder=DIR"}  # by data.source
LONGEST = 160  # characters of a library's own words
SILENT = 60  # above every level of logging


def read(data: HubDataConfig | ImageHubConfig, wanted: Iterable[str]) -> "dict[str, tuple[str, Dataset]]":
    """Those of the splits `train`, `val` and `test` that are wanted and there, each with its name in the dataset; train always.

    Args:
        data: config group `data`.
        wanted: names of splits.

    Raises:
        ConfigError: the dataset cannot be had, or has no train split or none that `data.splits` names.
    """
    check(data)
    from datasets.data_files import SPLIT_KEYWORDS  # the names that a split goes by

    there = {str(name): split for name, split in _load(data).items()}
    known = {str(split): [str(name) for name in names] for split, names in SPLIT_KEYWORDS.items()}
    usual = {split: next((name for name in known[theirs] if name in there), None) for split, theirs in SPLITS.items()}
    found = {split: data.splits.get(split) or name for split, name in usual.items()}
    for split, name in found.items():
        if name is not None and name not in there:
            raise ConfigError(f"data.splits.{split}", name, f"the dataset has no such split; it has {', '.join(there)}")
    if found["train"] is None:
        way_out = "name one by data.splits.train=NAME, or give another dataset"
        raise ConfigError("data.hub", data.hub, f"has no train split, only {', '.join(there)}; {way_out}")
    return {split: (name, there[name]) for split, name in found.items() if name is not None and split in wanted}


def check(data: HubDataConfig | ImageHubConfig) -> None:
    """Refuse a dataset without a name and splits that are none, before anything is imported.

    Raises:
        ConfigError: what to give.
    """
    if not data.hub:
        raise ConfigError("data.hub", data.hub, "give OWNER/NAME of a dataset on the hub, or a local folder")
    if unknown := next((split for split in data.splits if split not in SPLITS), None):
        raise ConfigError("data.splits", unknown, f"is no split of a run; name {', '.join(SPLITS)}")


def _load(data: HubDataConfig | ImageHubConfig) -> "DatasetDict":
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
        if local and (splits_of(Path(data.hub)) or is_saved(Path(data.hub))):
            saved = datasets.load_from_disk(data.hub)
            return saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict({"train": saved})
        if not local:
            snapshot_download(data.hub, repo_type="dataset", allow_patterns=["README.md"])  # load_dataset would retry for long
        return datasets.load_dataset(data.hub, data.hub_config)
    except Exception as error:  # network, missing, gated, damaged: many kinds, one way out
        if names := re.search(r"vailable\D*(\[.*\])", str(error)):
            problem = f"the dataset has the configurations {names[1]}; give one of them"
            raise ConfigError("data.hub_config", data.hub_config, problem) from error
        failed = "cannot be read" if local else "cannot be fetched"
        raise ConfigError("data.hub", data.hub, f"{failed} ({_reason(error)}); use {INSTEAD[data.source]}") from error


def _reason(error: BaseException) -> str:
    """What a library says was the matter, in one line."""
    while error.__cause__:
        error = error.__cause__
    return shorten(str(error).strip() or type(error).__name__, LONGEST).rstrip(".")
