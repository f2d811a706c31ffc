"""Group `data`: what is read, and how it is split."""

from typing import Annotated, Literal

from pydantic import Field

from qpa.config.part import Part
from qpa.config.section import Section


class DataConfig(Section):
    """What data of every task have."""

    part = Part.TASK

    source: str
    batch_size: Annotated[int, Part.READ] = Field(ge=1)


class TextDataConfig(DataConfig):
    """Text, and the windows it is cut into."""

    protocol: Literal["packed", "paper"]
    special_tokens: bool
    test_files: Annotated[list[str], Part.SHOWN]
    forgetting_files: Annotated[list[str], Part.SHOWN]
    val_fraction: float | None = Field(gt=0, lt=1)
    max_held_out_windows: Annotated[int | None, Part.MEASURE] = Field(ge=1)
    context: int = Field(ge=2)
    cache_hidden: Annotated[bool | None, Part.SHOWN]
    cache_hidden_gib: Annotated[float, Part.SHOWN] = Field(gt=0)


class PydocDataConfig(TextDataConfig):
    """Source `pydoc`: Python's language reference."""

    val_files: Annotated[list[str], Part.SHOWN]


class FilesDataConfig(TextDataConfig):
    """Source `files`: local text files."""

    train_files: Annotated[list[str], Part.SHOWN]
    val_files: Annotated[list[str], Part.SHOWN]


class HubDataConfig(TextDataConfig):
    """Source `hub`: a dataset of the Hugging Face hub, or a local folder in its place."""

    hub: str | None
    hub_config: str | None
    text_column: str
