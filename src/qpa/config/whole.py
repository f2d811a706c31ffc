"""The config of a whole run, and what its keys say of it."""

from typing import Annotated, Any

from pydantic import SerializeAsAny

from qpa.config.circuit import CircuitConfig
from qpa.config.data import (
    BurgersConfig,
    DarcyConfig,
    DataConfig,
    EnvironmentDataConfig,
    FilesDataConfig,
    HubDataConfig,
    ImageFolderConfig,
    ImageHubConfig,
    PackagedImagesConfig,
    PackagedSeriesConfig,
    PydocDataConfig,
    SeriesFileConfig,
)
from qpa.config.generator import GeneratorConfig, QPAGeneratorConfig
from qpa.config.identity import Identity
from qpa.config.kinds import Kinds, expected
from qpa.config.logger import LoggerConfig, WandbLoggerConfig
from qpa.config.model import (
    EfficientNetConfig,
    HubImageModelConfig,
    LanguageModelConfig,
    LSTMConfig,
    ModelConfig,
    NetworkConfig,
    OperatorConfig,
    PackageModelConfig,
    PolicyConfig,
    SeriesTransformerConfig,
)
from qpa.config.optimizer import OptimizerConfig
from qpa.config.part import Part
from qpa.config.section import Section
from qpa.config.settings import GENERATORS, Latents, Mapper, Seed, Settings
from qpa.config.task import ControlConfig, TaskConfig
from qpa.config.trainer import TrainerConfig

TASKS = {"language": TaskConfig, "classification": TaskConfig, "vision": TaskConfig}
TASKS |= {"control": ControlConfig, "forecasting": TaskConfig, "operators": TaskConfig}
MODELS = {"package": PackageModelConfig, "hub": LanguageModelConfig}
MODELS |= {"cnn": NetworkConfig, "image_package": EfficientNetConfig, "image_hub": HubImageModelConfig}
MODELS |= {"lstm": LSTMConfig, "series_transformer": SeriesTransformerConfig, "fno": OperatorConfig, "policy": PolicyConfig}
DATA = {"pydoc": PydocDataConfig, "files": FilesDataConfig, "hub": HubDataConfig}
DATA |= {"image_package": PackagedImagesConfig, "image_folder": ImageFolderConfig, "image_hub": ImageHubConfig}
DATA |= {"series_package": PackagedSeriesConfig, "series": SeriesFileConfig}
DATA |= {"environment": EnvironmentDataConfig, "burgers": BurgersConfig, "darcy": DarcyConfig}
LOGGERS = {"wandb": WandbLoggerConfig, "none": LoggerConfig}


class Config(Section):
    """A whole run."""

    task: Annotated[SerializeAsAny[TaskConfig], Kinds("task", TASKS)]
    model: Annotated[SerializeAsAny[ModelConfig], Kinds("model", MODELS)]
    peft: Annotated[dict[str, Any], Part.METHOD]
    generator: Annotated[SerializeAsAny[GeneratorConfig], Kinds("generator", GENERATORS, offered=False)]
    latents: Latents
    circuit: CircuitConfig
    mapper: Mapper
    optimizer: OptimizerConfig
    data: Annotated[SerializeAsAny[DataConfig], Kinds("data", DATA)]
    trainer: TrainerConfig
    logger: Annotated[SerializeAsAny[LoggerConfig], Kinds("logger", LOGGERS, offered=False)]
    name: Annotated[str, Part.SHOWN]
    study: Annotated[str | None, Part.SHOWN]
    run_dir: Annotated[str | None, Part.SHOWN]
    seed: Seed
    ckpt: Annotated[str | None, Part.SHOWN]
    force: Annotated[bool, Part.SHOWN]
    fail_fast: Annotated[bool, Part.SHOWN]
    cache_dir: Annotated[str | None, Part.SHOWN]
    baseline: Annotated[str | None, Part.SHOWN]

    @property
    def settings(self) -> Settings:
        """Of the generator.

        Raises:
            ConfigError: nothing is generated.
        """
        generator = expected("generator", self.generator, QPAGeneratorConfig)
        return Settings(generator=generator, latents=self.latents, circuit=self.circuit, mapper=self.mapper, seed=self.seed)


IDENTITY = Identity(Config)
