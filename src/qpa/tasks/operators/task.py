"""The task `operators` itself: a differential equation, a network from one function to another, relative L2 error."""

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from qpa import files
from qpa.config import BurgersConfig, Config, EquationConfig, OperatorConfig, expected
from qpa.config.context import Context
from qpa.errors import ConfigError, line
from qpa.tasks.operators import earlier, samples
from qpa.tasks.operators.samples import Samples
from qpa.tasks.task import Batch, Measured, Metric, Picture, Task

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import DataLoader

    from qpa.tasks.operators.operator import Operator, Scale

ALL_LINEAR = "all-linear"
PROBED = 4  # samples by which a saved network is compared with the trained one
DRAWN = 3  # that are drawn
SHOWN = "Test samples: what is given, the solution beside what the networks say, and how far they are from it."


class Operators(Task):
    """A network learns to map a function to the solution of a differential equation that it stands in."""

    metric: ClassVar[Metric] = Metric("relative_l2", "", better="lower")
    counted: ClassVar[str] = "samples"
    picture: ClassVar[Picture] = Picture("png", "Solutions", SHOWN)

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.model, self.data = _sections(config)

    def check(self) -> None:
        """Data, model and method by their settings alone."""
        samples.check(self.data)
        if importlib.util.find_spec("neuralop") is None:
            raise ConfigError("task", "operators", "needs the package neuraloperator; make setup EXTRAS=operators")
        if self.model.modes > self.data.grid // 2:
            problem = f"a grid of {self.data.grid} points has {self.data.grid // 2}; at most so many"
            raise ConfigError("model.modes", self.model.modes, problem)
        if "num_virtual_tokens" in self.config.peft:
            method = self.config.peft["_target_"]
            raise ConfigError("peft", method, "its prompts stand before text, and these are functions; choose another, as peft=lora")
        if self.config.trainer.shards:
            raise ConfigError("trainer.strategy", "fsdp", "this model has no layers to share out; use trainer=ddp")
        earlier.check(self.model, self.dimensions)
        files.cache_folder(self.config.cache_dir)

    def resolved(self) -> Self:
        """The PEFT method is none for text, and has the modules that the model names."""
        found, peft = super().resolved(), dict(self.config.peft)
        peft |= {"task_type": None} if "task_type" in peft else {}
        peft |= {"target_modules": self.model.adapted} if peft.get("target_modules") == ALL_LINEAR else {}
        return found.of(found.config.model_copy(update={"peft": peft}))

    def of(self, config: Config) -> Self:
        """Its model and data with it."""
        found = super().of(config)
        found.model, found.data = _sections(config)
        return found

    @property
    def dimensions(self) -> int:
        """Of what the functions are of."""
        return 1 if isinstance(self.data, BurgersConfig) else 2

    @cached_property
    def samples(self) -> dict[str, Samples]:
        """By split."""
        cache = files.cache_folder(self.config.cache_dir)
        return {split: samples.of(self.data, split, cache) for split in samples.SPLITS}

    @cached_property
    def scale(self) -> "Scale":
        """That of the base model where it was trained, else of the training samples."""
        from qpa.tasks.operators.operator import Scale

        folder = earlier.folder(self.model)
        return Scale(**earlier.read(folder)["scale"]) if folder else Scale.of(self.samples["train"])

    def content(self) -> dict[str, Any]:
        """What samples depend on, and the base model's file and scale."""
        folder = earlier.folder(self.model)
        weights = [files.digest(folder / name) for name in (earlier.WEIGHTS, earlier.OPERATOR_FILE)] if folder else []
        return {"texts": {split: samples.digest(self.data, split) for split in samples.SPLITS}, "weights": weights}

    def title(self) -> str:
        """As `FNO 16 modes, 16 wide, 4 layers on Burgers, viscosity 0.1`."""
        sizes = f"FNO {self.model.modes} modes, {self.model.hidden} wide, {self.model.layers} layers"
        return f"{sizes}{', trained' if self.model.path else ''} on {_equation(self.data)}, {self.data.grid} points"

    def protocol(self) -> dict[str, Any]:
        """How the base model stands."""
        return {"base": "trained on other data" if self.model.path else "its weights are random, and not trained"}

    @classmethod
    def remarks(cls, ours: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Of the closing table: what the base model is."""
        return [("base model", ours["protocol"]["base"])]

    def examples(self) -> int:
        """Functions."""
        return self.data.train

    def fetch(self) -> None:
        """Solve what is not in the cache."""
        _ = self.samples

    def prepare(self) -> None:
        """Solved already."""
        _ = self.samples

    def train_loader(self, *, from_step: int) -> "DataLoader":
        """Samples in a seeded order."""
        from qpa.tasks.loaders import train_loader
        from qpa.tasks.operators.operator import Pairs

        return train_loader(Pairs(self.samples["train"]), self.share, seed=self.config.seed, from_step=from_step, steps=self.steps)

    def held_out(self) -> "dict[str, DataLoader]":
        """Samples in their own order."""
        from qpa.tasks.loaders import held_out_loader
        from qpa.tasks.operators.operator import Pairs

        return {split: held_out_loader(Pairs(self.samples[split]), self.share, split=split) for split in ("val", "test")}

    def probe(self) -> Batch:
        """The first of the validation split."""
        from torch.utils.data import default_collate

        from qpa.tasks.operators.operator import Pairs

        pairs = Pairs(self.samples["val"])
        return default_collate([pairs[place] for place in range(min(PROBED, len(pairs)))])

    def skeleton(self) -> "nn.Module":
        """By its sizes."""
        import torch

        from qpa.tasks.operators import networks

        return networks.fno(self.model, self.dimensions, None, seed=self.config.seed, device=torch.device("meta"))

    def base(self, *, own: bool = False) -> "nn.Module":
        """Small enough to be made anew, whoever owns it."""
        from qpa.tasks.numerics import home
        from qpa.tasks.operators import networks

        device, folder = home(self.config.trainer.accelerator), earlier.folder(self.model)
        return networks.fno(self.model, self.dimensions, folder, seed=self.config.seed, device=device)

    def learner(self, model: "nn.Module", *, trained: bool = False) -> "Operator":
        """Scaled as the base model is; one that cannot be run is refused."""
        from qpa.tasks.operators.operator import Operator

        learner = Operator(model, self.scale)
        if trained:
            self._check_runs(learner)
        return learner

    def _check_runs(self, learner: "Operator") -> None:
        import torch

        device = next(learner.model.parameters()).device
        try:
            with torch.no_grad():
                learner.outputs({name: tensor.to(device) for name, tensor in self.probe().items()})
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise ConfigError("peft", self.config.peft["_target_"], f"the adapted model does not run: {line(error)}") from error

    def draw(self, measured: Measured, adapter: Path, file: Path) -> None:
        """Some test samples: solution, what the base and the trained network say, errors."""
        import torch

        from qpa.adapters import saved
        from qpa.tasks.operators import drawing

        test = self.samples["test"]
        inputs = torch.from_numpy(test.inputs[:DRAWN])
        networks = {"base": self.base(), "adapted": saved.load_adapter(self.base(own=True), adapter)}
        with torch.no_grad():
            said = {name: self.learner(network.cpu().eval()).solutions(inputs)[:, 0].numpy() for name, network in networks.items()}
        said = said if self.model.path else {"adapted": said["adapted"]}  # random weights say nothing worth a picture
        drawing.draw(test.inputs[:DRAWN, 0], test.outputs[:DRAWN, 0], said, file)

    def save_beside(self, adapter: Path) -> None:
        """Equation, sizes and scale: what another run needs to go on from it."""
        sizes = {key: getattr(self.model, key) for key in earlier.SIZES}
        earlier.write(adapter, {"equation": _equation(self.data), "dimensions": self.dimensions} | sizes | {"scale": asdict(self.scale)})

    def check_beside(self, adapter: Path) -> None:
        """Read and say functions in the scale that the network was trained in, whatever the training samples are here."""
        from qpa.tasks.operators.operator import Scale

        if (adapter / earlier.OPERATOR_FILE).is_file():
            self.scale = Scale(**earlier.read(adapter)["scale"])


def _sections(config: Config) -> tuple[OperatorConfig, EquationConfig]:
    """The groups `model` and `data`, of kinds that are read here."""
    return expected("model", config.model, OperatorConfig), expected("data", config.data, EquationConfig)


def _equation(data: EquationConfig) -> str:
    if isinstance(data, BurgersConfig):
        return f"Burgers, viscosity {data.viscosity:g}"
    return "Darcy flow"


TASK = Operators
