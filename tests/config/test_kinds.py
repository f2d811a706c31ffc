"""Kinds of config groups that another installed package offers: here one in a folder, with the metadata that pip would have written."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import fingerprint

from qpa.config import IDENTITY, Config, DataConfig, MapperConfig, TextDataConfig, expected, parse, plugin
from qpa.config.composing import composed
from qpa.config.identity import Part
from qpa.errors import ConfigError

PACKAGE = """
from typing import Annotated
from pydantic import Field
from qpa.config import DataConfig, LatentsConfig, MapperConfig, Section
from qpa.config.part import Part

class FourierMapper:
    class Settings(MapperConfig):
        harmonics: int = Field(ge=1)

class Waves:
    class Settings(LatentsConfig):
        length: float

class Toy:
    class Settings(DataConfig):
        rows: int

class Bare: ...

class Stranger:
    class Settings(Section):
        kind: str
"""
OFFERED = """
[qpa.mapper]
fourier = plugins:FourierMapper
tied = plugins:FourierMapper
bare = plugins:Bare
stranger = plugins:Stranger
broken = plugins_broken:Mapper
nowhere = plugins:Nowhere
[qpa.latents]
waves = plugins:Waves
[qpa.data]
toy = plugins:Toy
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package, importable and with its entry points."""
    metadata = tmp_path / "plugins-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(OFFERED)
    (tmp_path / "plugins.py").write_text(PACKAGE)
    (tmp_path / "plugins_broken.py").write_text("raise RuntimeError('no such\\ndevice')")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("plugins", "plugins_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def with_section(group: str, **section: object) -> dict[str, Any]:
    """The default config with another section in the place of one."""
    return composed("train", ["logger=none"]) | {group: section}


@pytest.mark.usefixtures("installed")
def test_kind_of_an_installed_package_brings_its_own_keys() -> None:
    plain = with_section("mapper", kind="fourier", chunk_size=64, harmonics=3)
    config = parse(plain)
    assert isinstance(config.mapper, MapperConfig)
    assert type(config.mapper) is plugin("mapper", "fourier").Settings
    assert config.model_dump(by_alias=True) == plain | {"mapper": config.mapper.model_dump()}
    assert config.mapper.model_dump() == {"kind": "fourier", "chunk_size": 64, "harmonics": 3}
    assert parse(config.model_dump(by_alias=True)) == config


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("group", "section", "words"),
    [
        ("mapper", {"kind": "fourier", "chunk_size": None, "harmonics": 0}, r"mapper\.harmonics=0: should be greater than or equal to 1"),
        ("mapper", {"kind": "fourier", "chunk_size": None}, r"mapper\.harmonics=None: has to be given"),
        ("mapper", {"kind": "fourier", "chunk_size": 0, "harmonics": 1}, r"mapper\.chunk_size=0: "),
        ("mapper", {"kind": "fourier", "chunk_size": 1, "harmonics": 1, "width": 3}, r"mapper\.width=3: no key of the chosen group"),
        ("mapper", {"kind": "walsh"}, r"mapper\.kind=walsh: there is no such kind; there are .*codes, fourier, .*paper, .*tied$"),
        ("latents", {"kind": "fourier"}, r"latents\.kind=fourier: there is no such kind; there are .*table, waves, zeros$"),
        ("generator", {"kind": "fourier"}, r"generator\.kind=fourier: there is no such kind; there are none, qpa$"),
        ("mapper", {"kind": "bare"}, r"mapper\.kind=bare: plugins:Bare has no Settings, a subclass of qpa\.config\.MapperConfig"),
        ("mapper", {"kind": "stranger"}, r"mapper\.kind=stranger: plugins:Stranger has no Settings"),
        ("mapper", {"kind": "broken"}, r"mapper=broken: plugins_broken:Mapper cannot be imported \(RuntimeError: no such device\)"),
        ("mapper", {"kind": "nowhere"}, r"mapper=nowhere: plugins:Nowhere cannot be imported \(AttributeError"),
    ],
)
def test_mistake_in_such_a_kind_is_one_line_with_its_key(group: str, section: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse(with_section(group, **section))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("installed")
def test_our_kinds_are_ours_whatever_is_installed_under_their_names() -> None:
    assert parse(composed("train", [])).mapper.model_dump() == {"kind": "tied", "chunk_size": None, "width": 11}


@pytest.mark.parametrize("section", [5, None, [], {}, {"chunk_size": 3}, {"kind": None}, {"kind": ["tied"]}, {"kind": {"tied": 1}}])
def test_section_without_a_kind_is_one_line(section: object) -> None:
    with pytest.raises(ConfigError, match=r"^mapper(\.kind)?="):
        parse(composed("train", []) | {"mapper": section})


def part_of(config: Config, path: str) -> Part:
    assert path in IDENTITY.effective(config.model_dump(by_alias=True))
    return IDENTITY.part(path)


@pytest.mark.usefixtures("installed")
def test_keys_of_such_a_kind_tell_runs_apart_as_their_group_does() -> None:
    mapper, other = (parse(with_section("mapper", kind="fourier", chunk_size=None, harmonics=number)) for number in (1, 2))
    assert fingerprint(mapper) != fingerprint(other)
    assert part_of(mapper, "mapper.harmonics") is Part.METHOD
    data = parse(with_section("data", source="toy", batch_size=2, rows=9))
    assert (part_of(data, "data.rows"), part_of(data, "data.batch_size")) == (Part.TASK, Part.READ)


@pytest.mark.usefixtures("installed")
def test_latents_of_such_a_kind_may_be_as_large_as_a_circuits_budget() -> None:
    def kept(*overrides: str) -> set[str]:
        plain = composed("train", ["logger=none", *overrides]) | {"latents": {"kind": "waves", "length": 0.5}}
        return {f"{key}={value}" for key, value in IDENTITY.effective(parse(plain).model_dump(by_alias=True)).items()}

    assert kept() != kept("circuit.layers=3")
    assert kept() == kept("circuit.gate=CZ")
    assert "latents.length=0.5" in kept()


@pytest.mark.usefixtures("installed")
def test_task_refuses_data_that_it_cannot_read() -> None:
    data = parse(with_section("data", source="toy", batch_size=2, rows=9)).data
    assert expected("data", data, DataConfig) is data
    with pytest.raises(ConfigError, match=r"data\.source=toy: this task reads no such data"):
        expected("data", data, TextDataConfig)


def test_kind_that_nobody_offers_has_no_class() -> None:
    with pytest.raises(ConfigError, match="mapper=fourier: no installed package offers this kind"):
        plugin("mapper", "fourier")
