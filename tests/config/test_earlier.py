"""Runs that were recorded before a key existed."""

import copy
import json
from collections.abc import Callable

import pytest
import yaml
from conftest import ROOT
from omegaconf import DictConfig, OmegaConf

from qpa.commands import evaluate
from qpa.commands.composing import composed
from qpa.config import parse
from qpa.config.earlier import ADDED, completed, of_record
from qpa.errors import ConfigError
from qpa.runs import record, run

RECORDS = sorted((ROOT / "docs" / "results").rglob("result.json"))


def without(plain: dict, path: str) -> dict:
    """A config that lacks one key."""
    group, _, key = path.rpartition(".")
    return {k: v for k, v in plain.items() if k != path} | ({group: {k: v for k, v in plain[group].items() if k != key}} if group else {})


@pytest.mark.parametrize("path", sorted(ADDED))
def test_key_that_a_config_lacks_is_as_it_was_before_there_was_one(path: str, compose_config: Callable[..., DictConfig]) -> None:
    plain = OmegaConf.to_container(compose_config(), resolve=True)
    whole = parse(completed(without(plain, path))).model_dump(by_alias=True)
    group, _, key = path.rpartition(".")
    assert (whole[group] if group else whole)[key] == ADDED[path]
    with pytest.raises(ConfigError, match=path):
        parse(without(plain, path))


def test_config_that_lacks_any_other_key_is_refused(compose_config: Callable[..., DictConfig]) -> None:
    plain = OmegaConf.to_container(compose_config(), resolve=True)
    with pytest.raises(ConfigError, match=r"trainer\.max_steps"):
        parse(completed(without(plain, "trainer.max_steps")))


def test_committed_runs_can_all_be_read() -> None:
    assert len(RECORDS) > 100
    for path in RECORDS:
        parse(completed(json.loads(path.read_text())["run_info"]["train_config"]))


def test_what_an_older_run_was_computed_in_is_read_from_its_record() -> None:
    found = json.loads(RECORDS[0].read_text())
    assert found["run_info"]["train_config"]["trainer"]["precision"] == "auto"
    for used, dtype in (("bf16-mixed", "bfloat16"), ("32-true", "float32")):
        other = copy.deepcopy(found)
        other["qpa"]["precision"] = used
        config = of_record(other)
        assert (config["trainer"]["precision"], config["model"]["dtype"]) == (used, dtype)


def test_run_of_before_can_be_evaluated(compose_config: Callable[..., DictConfig], capsys: pytest.CaptureFixture) -> None:
    config = parse(compose_config("trainer.max_steps=2"))
    run.train(config)
    file = config.folder / record.CONFIG
    plain = yaml.safe_load(file.read_text())
    for path in ADDED:
        plain = without(plain, path)
    file.write_text(yaml.safe_dump(plain))
    evaluate.main([f"run={config.folder}"])
    assert "perplexity" in capsys.readouterr().out


def test_run_goes_on_only_where_it_reads_the_text_as_its_checkpoint_did() -> None:
    changes = (["data.special_tokens=false"], [], ["data.special_tokens=false", "data.text_column=body"])
    assert len({str(parse(composed("train", change)).lineage()) for change in changes}) == 3
