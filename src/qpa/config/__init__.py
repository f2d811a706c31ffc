"""The config's types and ranges, a file a group. Defaults are in `conf/`; nothing heavy is imported here, so that errors answer fast."""

from qpa.config.circuit import CircuitConfig
from qpa.config.data import (
    BurgersConfig,
    DarcyConfig,
    DataConfig,
    EquationConfig,
    FilesDataConfig,
    HubDataConfig,
    ImageDataConfig,
    ImageFolderConfig,
    ImageHubConfig,
    PackagedImagesConfig,
    PackagedSeriesConfig,
    PydocDataConfig,
    RowsDataConfig,
    SeriesDataConfig,
    SeriesFileConfig,
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
    LSTMConfig,
    ModelConfig,
    NetworkConfig,
    OperatorConfig,
    PackageModelConfig,
    PretrainedModelConfig,
    SeriesModelConfig,
    SeriesTransformerConfig,
)
from qpa.config.optimizer import OptimizerConfig
from qpa.config.parsing import parse
from qpa.config.section import OpenSection, Section, checked
from qpa.config.settings import Settings
from qpa.config.task import TaskConfig
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
    "DarcyConfig",
    "DataConfig",
    "EfficientNetConfig",
    "EquationConfig",
    "FilesDataConfig",
    "GeneratorConfig",
    "HubDataConfig",
    "HubImageModelConfig",
    "ImageDataConfig",
    "ImageFolderConfig",
    "ImageHubConfig",
    "ImageModelConfig",
    "LSTMConfig",
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
    "PackagedSeriesConfig",
    "PaperMapperConfig",
    "PlanConfig",
    "PretrainedModelConfig",
    "PydocDataConfig",
    "QPAGeneratorConfig",
    "RowsDataConfig",
    "RowsMapperConfig",
    "Section",
    "SeriesDataConfig",
    "SeriesFileConfig",
    "SeriesModelConfig",
    "SeriesTransformerConfig",
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
