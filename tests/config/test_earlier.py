"""Runs of earlier programs: recorded before a key existed, or while it had another name or place.

`earlier.json` has configs and lineages of checkpoints as the program of 26 November 2026 wrote them, texts left out.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import committed_records, folder_of, train_run
from conftest import lineage as lineage_of
from omegaconf import DictConfig

from qpa.commands import evaluate
from qpa.config import parse
from qpa.config.composing import composed
from qpa.config.earlier import ADDED, ADDED_TO, completed, lineage, of_record
from qpa.errors import ConfigError
from qpa.runs import record

EARLIER: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("earlier.json").read_text())
LACKING = ADDED | {key: value for added in ADDED_TO.values() for key, value in added.items()}
RECORDS = list(committed_records())


def without(plain: dict, path: str) -> dict:
    """A config that lacks one key."""
    group, _, key = path.rpartition(".")
    return {k: v for k, v in plain.items() if k != path} | ({group: {k: v for k, v in plain[group].items() if k != key}} if group else {})


@pytest.fixture
def today() -> dict[str, Any]:
    """A config that has all keys that earlier ones may lack, but for those of files alone."""
    return composed("train", ["data=hub", "logger=wandb"])


@pytest.mark.parametrize("path", sorted(LACKING))
def test_key_that_a_config_lacks_is_as_it_was_before_there_was_one(path: str, today: dict[str, Any]) -> None:
    today = composed("train", ["data=files"]) if path == "data.encoding" else today
    whole = parse(completed(without(today, path))).model_dump(by_alias=True)
    group, _, key = path.rpartition(".")
    assert (whole[group] if group else whole)[key] == LACKING[path]
    with pytest.raises(ConfigError, match=path):
        parse(without(today, path))


def test_config_that_lacks_any_other_key_is_refused(today: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.max_steps"):
        parse(completed(without(today, "trainer.max_steps")))


def test_sections_of_other_packages_are_left_as_they_are(today: dict[str, Any]) -> None:
    theirs = {"model": {"source": "theirs", "file": "a"}, "data": {"source": "theirs", "hub": "a", "train_files": []}}
    assert completed(today | theirs) == today | theirs


def test_committed_runs_can_all_be_read() -> None:
    assert len(RECORDS) > 100
    for found in RECORDS:
        parse(completed(found["run_info"]["train_config"]))


def test_what_an_older_run_was_computed_in_is_read_from_its_record() -> None:
    found = RECORDS[0]
    assert found["run_info"]["train_config"]["trainer"]["precision"] == "auto"
    for used, dtype in (("bf16-mixed", "bfloat16"), ("32-true", "float32")):
        other = copy.deepcopy(found)
        other["qpa"]["precision"] = used
        config = of_record(other)
        assert (config["trainer"]["precision"], config["model"]["dtype"]) == (used, dtype)


@pytest.mark.parametrize("run_of", EARLIER)
def test_earlier_config_reads_as_the_same_run(run_of: str) -> None:
    earlier = EARLIER[run_of]["config"]
    config = parse(completed(earlier))
    assert config.optimizer.lr == earlier["generator"]["lr"]
    assert config.mapper.kind == earlier["mapper"]["kind"].replace("mlp", "paper")
    assert config.latents.model_dump() == earlier["latents"] | {"start": None}
    today = config.model_dump(by_alias=True)
    for group, section in earlier.items():
        kept = section.keys() & today[group].keys() if isinstance(section, dict) else ()
        assert all(today[group][key] == section[key] for key in kept if (group, key) not in (("mapper", "kind"), ("peft", "_target_")))
    assert parse(completed(today)) == config


@pytest.mark.parametrize("run_of", EARLIER)
def test_earlier_checkpoint_belongs_to_the_same_run(run_of: str) -> None:
    today = lineage_of(parse(completed(EARLIER[run_of]["config"])))
    del today["texts"]
    assert lineage(EARLIER[run_of]["lineage"]) == today
    assert lineage(today) == today


def test_earlier_checkpoints_of_different_runs_stay_different() -> None:
    found = [lineage(recorded["lineage"]) for recorded in EARLIER.values()]
    assert all(one != other for at, one in enumerate(found) for other in found[:at] if one["model.hub"] == other["model.hub"])


@pytest.mark.parametrize("key", ["generator.width", "data.files", "logger.team", "model.name", "later"])
def test_unknown_key_of_an_earlier_config_is_refused(key: str) -> None:
    group, _, name = key.rpartition(".")
    config = copy.deepcopy(EARLIER["none"]["config"])
    (config[group] if group else config)[name] = None
    with pytest.raises(ConfigError, match=key):
        parse(completed(config))


def test_run_of_before_can_be_evaluated(compose_config: Callable[..., DictConfig], capsys: pytest.CaptureFixture) -> None:
    config = parse(compose_config("trainer.max_steps=2"))
    train_run(config)
    file = folder_of(config) / record.CONFIG
    plain = yaml.safe_load(file.read_text())
    for path in LACKING.keys() - {"data.text_column", "logger.entity"}:  # of other choices
        plain = without(plain, path)
    plain["generator"]["lr"] = plain["optimizer"]["lr"]
    plain["data"] |= {"hub": None, "hub_config": None}
    file.write_text(yaml.safe_dump(plain))
    evaluate.main([f"run={folder_of(config)}"])
    assert "perplexity" in capsys.readouterr().out


def test_run_goes_on_only_where_it_reads_the_text_as_its_checkpoint_did() -> None:
    changes = (["data.special_tokens=false"], [], ["data.special_tokens=false", "data.text_column=body"])
    assert len({str(lineage_of(parse(composed("train", ["data=hub", *change])))) for change in changes}) == 3
