"""Runs that were recorded before a key existed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from qpa import record
from qpa.config import parse
from qpa.earlier import ADDED, completed
from qpa.errors import ConfigError

ROOT = Path(__file__).parents[1]


def without(plain: dict, path: str) -> dict:
    """A config that lacks one key."""
    group, _, key = path.rpartition(".")
    return {k: v for k, v in plain.items() if k != path} | ({group: {k: v for k, v in plain[group].items() if k != key}} if group else {})


@pytest.mark.parametrize("path", sorted(ADDED))
def test_config_without_a_later_key_is_that_of_todays_default(path: str, compose_config: Callable[..., DictConfig]) -> None:
    plain = OmegaConf.to_container(compose_config(), resolve=True)
    earlier = without(plain, path)
    assert parse(completed(earlier)) == parse(plain)
    with pytest.raises(ConfigError, match=path):
        parse(earlier)


def test_config_that_lacks_any_other_key_is_refused(compose_config: Callable[..., DictConfig]) -> None:
    plain = OmegaConf.to_container(compose_config(), resolve=True)
    with pytest.raises(ConfigError, match=r"trainer\.max_steps"):
        parse(completed(without(plain, "trainer.max_steps")))


def test_configs_of_all_committed_runs_can_be_read(tmp_path: Path) -> None:
    records = sorted((ROOT / "docs" / "results").rglob("result.json"))
    assert records
    for path in records:
        plain = record.read(path.parent)["run_info"]["train_config"]
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
        assert record.load_config(tmp_path).seed == plain["seed"]
