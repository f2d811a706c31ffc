"""The config's types and ranges, a file a group. Defaults are in `conf/`; nothing heavy is imported here, so that errors answer fast."""

from qpa.config.circuit import CircuitConfig
from qpa.config.data import (
    BurgersConfig,
    DarcyConfig,
    DataConfig,
    EnvironmentDataConfig,
    EquationConfig,
    FilesDataConfig,
    HubDataConfig,
    ImageDataConfig,
    ImageFolderConfig,
    ImageHubConfig,
    PackagedImagesConfig,
    PydocDataConfig,
    RowsDataConfig,
    TextDataConfig,
)
from qpa.config.generator import (
    GeneratorConfig,
    LatentsConfig,
    MapperConfig,
    MLPLatentsConfig,
    MPSLatentsConfig,
    PaperMapperConfig,
    QPAGeneratorConfig,
    RowsMapperConfig,
)
from qpa.config.kinds import expected, plugin
from qpa.config.logger import LoggerConfig, WandbLoggerConfig
from qpa.config.model import (
    EfficientNetConfig,
    HubImageModelConfig,
    ImageModelConfig,
    LanguageModelConfig,
    ModelConfig,
    NetworkConfig,
    OperatorConfig,
    PackageModelConfig,
    PolicyConfig,
    PretrainedModelConfig,
)
from qpa.config.optimizer import OptimizerConfig
from qpa.config.parsing import parse
from qpa.config.section import OpenSection, Section, checked
from qpa.config.settings import Settings
from qpa.config.task import ControlConfig, TaskConfig
from qpa.config.trainer import STOPS, TrainerConfig
from qpa.config.verbs import AnalysisConfig, ChatConfig, PlanConfig, TuneConfig
from qpa.config.whole import IDENTITY, Config

__all__ = [
    "IDENTITY",
    "STOPS",
    "AnalysisConfig",
    "BurgersConfig",
    "ChatConfig",
    "CircuitConfig",
    "Config",
    "ControlConfig",
    "DarcyConfig",
    "DataConfig",
    "EfficientNetConfig",
    "EnvironmentDataConfig",
    "EquationConfig",
    "FilesDataConfig",
    "GeneratorConfig",
    "HubDataConfig",
    "HubImageModelConfig",
    "ImageDataConfig",
    "ImageFolderConfig",
    "ImageHubConfig",
    "ImageModelConfig",
    "LanguageModelConfig",
    "LatentsConfig",
    "LoggerConfig",
    "MLPLatentsConfig",
    "MPSLatentsConfig",
    "MapperConfig",
    "ModelConfig",
    "NetworkConfig",
    "OpenSection",
    "OperatorConfig",
    "OptimizerConfig",
    "PackageModelConfig",
    "PackagedImagesConfig",
    "PaperMapperConfig",
    "PlanConfig",
    "PolicyConfig",
    "PretrainedModelConfig",
    "PydocDataConfig",
    "QPAGeneratorConfig",
    "RowsDataConfig",
    "RowsMapperConfig",
    "Section",
    "Settings",
    "TaskConfig",
    "TextDataConfig",
    "TrainerConfig",
    "TuneConfig",
    "WandbLoggerConfig",
    "checked",
    "expected",
    "parse",
    "plugin",
]
