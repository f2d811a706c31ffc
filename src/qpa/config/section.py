"""What all config groups are: typed sections, checked by pydantic, whose mistakes are named by their dotted key."""

from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qpa.config.earlier import MOVED
from qpa.config.part import Part
from qpa.errors import ConfigError

PYDANTIC_WORDS = {
    "Input should": "should",
    "Field required": "has to be given",
    "Extra inputs are not permitted": "no key of the chosen group; leave it out, or choose another",
}


class Section(BaseModel):
    """A config group: types are not coerced, unknown keys are refused. Of its keys, those not marked themselves say `part` of a run."""

    part: ClassVar[Part] = Part.SHOWN

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


class OpenSection(Section):
    """A config group whose further keys are arguments of the class it names in `_target_`."""

    model_config = ConfigDict(extra="allow")

    target: str = Field(alias="_target_")

    def arguments(self) -> dict[str, Any]:
        """Every further key, to hand to the class."""
        return dict(self.model_extra or {})


def checked(section: type[S], plain: object, *, within: str | None = None) -> S:
    """A section of the config from plain values, its keys named `within` a group in errors.

    Raises:
        ConfigError: the first value that has the wrong type or range, with what would be right.
    """
    try:
        return section.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, (within, *first["loc"]) if within else first["loc"]))
        value = None if first["type"] == "missing" else first["input"]
        problem = first["msg"].removeprefix("Value error, ")
        for theirs, clearer in PYDANTIC_WORDS.items():
            problem = problem.replace(theirs, clearer)
        problem = f"is {MOVED[key]} now" if key in MOVED else problem
        raise ConfigError(key, value if not isinstance(value, dict) else "...", problem) from error
