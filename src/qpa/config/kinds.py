"""Config groups whose keys depend on the kind that is chosen: one of ours, or one that an installed package offers.

A package offers a kind under an entry point `qpa.GROUP` (docs/extending.md), e.g. in its pyproject.toml

    [project.entry-points."qpa.mapper"]
    fourier = "my_package:FourierMapper"

where `FourierMapper.Settings`, a subclass of the group's own section, has the kind's keys.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import GetCoreSchemaHandler, PlainValidator

from qpa.config.section import S, Section
from qpa.errors import ConfigError, line


class Kinds:
    """Marks a field of a config that holds one of several sections; its type has the keys of all, the first of which names the kind.

    Args:
        group: the field's name.
        ours: the sections of this package by kind.
        offered: whether other packages may offer more.
    """

    def __init__(self, group: str, ours: Mapping[str, type[Section]], *, offered: bool = True) -> None:
        self.group, self.ours, self.offered = group, ours, offered

    def __get_pydantic_core_schema__(self, base: type[Section], handler: GetCoreSchemaHandler) -> Any:
        return PlainValidator(partial(self._section, base)).__get_pydantic_core_schema__(base, handler)

    def _section(self, base: type[Section], value: Any) -> Section:
        """The value as a section of its kind; where it is none or names no kind, pydantic says so of the base."""
        if isinstance(value, base):
            return value
        key = next(iter(base.model_fields))
        if not isinstance(value, dict) or not isinstance(kind := value.get(key), str):
            return base.model_validate(value)
        return (self.ours.get(kind) or self._theirs(base, key, kind)).model_validate(value)

    def _theirs(self, base: type[Section], key: str, kind: str) -> type[Section]:
        theirs = {entry.name: entry for entry in offered(self.group)} if self.offered else {}
        if kind not in theirs:
            raise ConfigError(f"{self.group}.{key}", kind, f"there is no such kind; there are {', '.join(sorted({*self.ours, *theirs}))}")
        settings = getattr(plugin(self.group, kind), "Settings", None)
        if not (isinstance(settings, type) and issubclass(settings, base)):
            problem = f"{theirs[kind].value} has no Settings, a subclass of qpa.config.{base.__name__}"
            raise ConfigError(f"{self.group}.{key}", kind, problem)
        return settings


def expected(group: str, section: Section, wanted: type[S]) -> S:
    """A config's section as what a task can read.

    Raises:
        ConfigError: it is of another task.
    """
    if isinstance(section, wanted):
        return section
    key = next(iter(type(section).model_fields))
    raise ConfigError(f"{group}.{key}", getattr(section, key), f"this task reads no such {group}; choose another, or another task")


def offered(group: str) -> Iterator[EntryPoint]:
    """What installed packages offer for a config group; nothing is imported."""
    return iter(entry_points(group=f"qpa.{group}"))


def plugin(group: str, kind: str) -> type[Any]:
    """The class that an installed package offers for a kind of a config group.

    Raises:
        ConfigError: none does, or it cannot be imported.
    """
    entry = next((entry for entry in offered(group) if entry.name == kind), None)
    if entry is None:
        raise ConfigError(group, kind, "no installed package offers this kind")
    try:
        return entry.load()
    except Exception as error:  # whatever another's code raises
        raise ConfigError(group, kind, f"{entry.value} cannot be imported ({line(error)})") from error
