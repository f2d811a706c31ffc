"""Group `data`: what is read, and how it is split."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from qpa.config.part import Part
from qpa.config.section import Section


def _leaves_some(test: float, info: ValidationInfo) -> float:
    if test + info.data.get("val_fraction", 0) >= 1:
        raise ValueError(f"and data.val_fraction={info.data['val_fraction']:g} leave nothing to train on; give smaller ones")
    return test


TestShare = Annotated[float, Field(gt=0, lt=1), AfterValidator(_leaves_some)]
Year = BeforeValidator(lambda given: str(given) if type(given) is int else given)  # 1986 means all of it


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
    train_bytes: int | None = Field(ge=1)
    max_held_out_windows: Annotated[int | None, Part.MEASURE] = Field(ge=1)
    context: int = Field(ge=2)
    cache_hidden: Annotated[bool | None, Part.SHOWN]
    cache_hidden_gib: Annotated[float, Part.SHOWN] = Field(gt=0)


class PydocDataConfig(TextDataConfig):
    """Source `pydoc`: Python's language reference."""

    val_files: Annotated[list[str], Part.SHOWN]


class RowsDataConfig(TextDataConfig):
    """Rows of files or data sets, whatever they hold: running text, prompts with answers, conversations, labelled texts."""

    skip_bad: bool
    text_column: str | None
    prompt_column: str | None
    completion_column: str | None
    messages_column: str | None
    tools_column: str | None
    pair_column: str | None
    label_column: str | None
    template: Annotated[str | None, Part.SHOWN]  # what is in it counts
    train_on: Literal["all", "completions", "last"]
    too_long: Literal["cut", "drop", "split"]
    packing: bool | None
    generate: Annotated[int, Part.MEASURE] = Field(ge=0)
    answer_tokens: Annotated[int, Part.MEASURE] = Field(ge=1)
    answer_metrics: Annotated[dict[str, dict[str, Any]], Part.MEASURE]


class FilesDataConfig(RowsDataConfig):
    """Source `files`: local files of text or rows."""

    train_files: Annotated[list[str], Part.SHOWN]
    val_files: Annotated[list[str], Part.SHOWN]
    encoding: str | None


class HubDataConfig(RowsDataConfig):
    """Source `hub`: a dataset of the Hugging Face hub, or a local folder in its place."""

    hub: str | None
    hub_config: str | None
    splits: dict[str, str | None]


class ImageDataConfig(DataConfig):
    """Images, each of one class."""

    size: int | None = Field(ge=1)
    channels: Literal[1, 3, "model"] | None
    val_fraction: float = Field(gt=0, lt=1)
    test_fraction: TestShare
    max_held_out: Annotated[int | None, Part.MEASURE] = Field(ge=1)


class PackagedImagesConfig(ImageDataConfig):
    """Source `image_package`: images that a Python package carries."""

    images: Literal["mnist5000", "digits", "lfw_subset"]


class ImageFolderConfig(ImageDataConfig):
    """Source `image_folder`: folders of image files, one for each class."""

    folder: Annotated[str | None, Part.SHOWN]  # what is in it counts
    val_folder: Annotated[str | None, Part.SHOWN]
    test_folder: Annotated[str | None, Part.SHOWN]


class ImageHubConfig(ImageDataConfig):
    """Source `image_hub`: a dataset of the Hugging Face hub, or a local folder in its place."""

    hub: str | None
    hub_config: str | None
    splits: dict[str, str | None]
    image_column: str | None
    label_column: str | None


class EnvironmentDataConfig(DataConfig):
    """Source `environment`: episodes of a gymnasium environment."""

    environment: str
    observation: str | None
    actions: int | None = Field(ge=1)
    max_episode_steps: int | None = Field(ge=1)
    val_episodes: Annotated[int, Part.MEASURE] = Field(ge=1)
    test_episodes: Annotated[int, Part.MEASURE] = Field(ge=1)
    greedy: Annotated[bool, Part.MEASURE]


class EquationConfig(DataConfig):
    """Functions drawn at random, and solutions of a differential equation."""

    grid: int = Field(ge=8)
    train: int = Field(ge=1)
    val: int = Field(ge=1)
    test: int = Field(ge=1)
    drawn_from: int = Field(ge=0)


class BurgersConfig(EquationConfig):
    """Source `burgers`."""

    viscosity: float = Field(gt=0)
    time: float = Field(gt=0)


class DarcyConfig(EquationConfig):
    """Source `darcy`."""

    low: float = Field(gt=0)
    high: float = Field(gt=0)


class SeriesDataConfig(DataConfig):
    """A series of measurements, its splits, and the windows it is cut into."""

    time_column: str
    time_format: Annotated[str | None, Part.SHOWN]
    target: str | None
    inputs: list[str] | None = Field(min_length=1)
    unit: Annotated[str | None, Part.SHOWN]
    train_until: Annotated[str | None, Year]
    val_until: Annotated[str | None, Year]
    val_fraction: float = Field(gt=0, lt=1)
    test_fraction: TestShare
    window: int = Field(ge=1, le=1_000_000)
    horizon: int = Field(ge=1, le=1_000_000)


class PackagedSeriesConfig(SeriesDataConfig):
    """Source `series_package`: a series that a Python package carries; `sha256` is of its file."""

    package: str
    file: str
    sha256: str
    install: Annotated[str, Part.SHOWN]


class SeriesFileConfig(SeriesDataConfig):
    """Source `series`: a file of rows, one for each time."""

    file: Annotated[str | None, Part.SHOWN]  # what is in it counts
