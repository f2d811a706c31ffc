"""The task `forecasting` itself: a series, the value some steps ahead; a small network; Nash-Sutcliffe efficiency."""

import copy
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from qpa import files
from qpa.config import Config, LSTMConfig, SeriesDataConfig, SeriesModelConfig, SeriesTransformerConfig, expected
from qpa.config.context import Context
from qpa.errors import ConfigError
from qpa.tasks.forecasting import series
from qpa.tasks.task import Batch, Measured, Metric, Picture, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from qpa.tasks.forecasting.forecaster import Examples, Forecaster
    from qpa.tasks.forecasting.windows import Windows

SERIES_FILE = "series.json"  # beside an exported adapter
PROBED = 4  # windows by which a saved adapter is compared with the trained model
HYDROGRAPH = "The test split: what was observed, what was forecast, and for each time the last value that was known. Below, the errors."
HELD_OUT = ("val", "test")
BASELINES = {
    "persistence": "the last value stays",
    "climatology": "the usual value of the season",
    "linear": "a linear model of the window",
}


class Forecasting(Task):
    """A network learns to forecast a series."""

    metric: ClassVar[Metric] = Metric("nse", "", better="higher")
    counted: ClassVar[str] = "forecasts"
    picture: ClassVar[Picture] = Picture("png", "Hydrograph", HYDROGRAPH)

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.model, self.data = _sections(config)

    def check(self) -> None:
        """Data, model and method by their settings alone."""
        series.check(self.data)
        if isinstance(self.model, SeriesTransformerConfig) and self.model.width % self.model.heads:
            raise ConfigError("model.heads", self.model.heads, f"has to divide model.width={self.model.width}")
        if "num_virtual_tokens" in self.config.peft:
            method = self.config.peft["_target_"]
            raise ConfigError("peft", method, "its prompts stand before text, and this is a series; choose another, as peft=lora")
        if self.config.trainer.shards:
            raise ConfigError("trainer.strategy", "fsdp", "this model has no layers to share out; use trainer=ddp")
        files.cache_folder(self.config.cache_dir)

    def resolved(self) -> Self:
        """In fp32; the PEFT method is none for text."""
        found = super().resolved()
        peft = dict(self.config.peft) | ({"task_type": None} if "task_type" in self.config.peft else {})
        return found.of(found.config.model_copy(update={"peft": peft}))

    def of(self, config: Config) -> Self:
        """Its model and data with it."""
        found = super().of(config)
        found.model, found.data = _sections(config)
        return found

    @cached_property
    def windows(self) -> "Windows":
        """The series, read and cut."""
        from qpa.tasks.forecasting import windows

        return windows.cut(series.read(self.data), self.data)

    @cached_property
    def examples_of(self) -> "dict[str, Examples]":
        """By split, as tensors."""
        return self._examples()

    def _examples(self) -> "dict[str, Examples]":
        from qpa.tasks.forecasting.forecaster import Examples

        return {split: Examples(self.windows, split) for split in self.windows.places}

    @cached_property
    def baselines(self) -> "dict[str, dict[str, np.ndarray]]":
        """By baseline and split, its forecasts."""
        from qpa.tasks.forecasting import baselines

        return baselines.forecasts(self.windows)

    @property
    def ratios(self) -> bool:
        """Whether what is observed is above zero where it counts, so that errors can be ratios to it."""
        import numpy as np

        from qpa.tasks.forecasting.efficiency import HIGHEST

        held_out = [self.windows.observed(split) for split in HELD_OUT]
        return all(observed.mean() > 0 and np.quantile(observed, 1 - 2 * HIGHEST) > 0 for observed in held_out)

    def content(self) -> dict[str, Any]:
        """Of the series; its splits are the config's."""
        return {"texts": dict.fromkeys(self.windows.places, self.windows.series.digest)}

    def title(self) -> str:
        """As `LSTM 5-50-50-1 on fulda, Q 1 day ahead`."""
        given, file = self.windows.series, series.place(self.data)[1]
        return f"{_in_words(self.model, len(given.columns))} on {file.stem}, {given.target} {self._ahead} ahead"

    @property
    def _ahead(self) -> str:
        step, horizon = self.windows.series.step, self.windows.horizon
        return step if horizon == 1 else f"{horizon} times {step}"

    def protocol(self) -> dict[str, Any]:
        """What is forecast from what, and what needs no network reaches there."""
        found = self.windows
        spans = {split: [str(found.times(split)[place]) for place in (0, -1)] for split in found.places}
        return self._reads | {"unit": self.data.unit, "forecast": spans, "reference": self._reached()}

    def _reached(self) -> dict[str, Any]:
        """By baseline and split, each measure."""
        import torch

        from qpa.tasks.forecasting.efficiency import measured_by

        def measured(split: str, said: "np.ndarray") -> dict[str, float]:
            pair = torch.from_numpy(said).double(), torch.from_numpy(self.windows.observed(split)).double()
            return {name: measure(*pair).item() for name, measure in measured_by(ratios=self.ratios).items()}

        return {name: {split: measured(split, said) for split, said in found.items()} for name, found in self.baselines.items()}

    @classmethod
    def remarks(cls, ours: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Of the closing table: what needs no network reaches of the same splits."""
        reference = ours["protocol"]["reference"]
        return [
            (f"{name}: {BASELINES[name]}", f"nse {found['test']['nse']:.3f} (validation {found['val']['nse']:.3f})")
            for name, found in reference.items()
        ]

    def inputs(self) -> "dict[str, Tensor]":
        """Windows of the validation split, as the model reads them."""
        return {"inputs": self.probe()["inputs"]}

    def examples(self) -> int:
        """Windows."""
        return len(self.windows.places["train"])

    def read(self) -> None:
        """All of it."""
        _ = self.windows

    def prepare(self) -> None:
        """As tensors, and a line of what was found."""
        _ = self.examples_of
        if self.context.first:
            found, given = self.windows, self.windows.series
            sizes = ", ".join(f"{len(places):,} {split}" for split, places in found.places.items())
            read = f"{', '.join(given.columns)} of {found.window} times, each {given.step} after the other"
            print(f"qpa: {given.target} {self._ahead} ahead, from {read}; forecasts: {sizes}", file=sys.stderr)

    def train_loader(self, *, from_step: int) -> "DataLoader":
        """Windows in a seeded order."""
        from qpa.tasks.loaders import train_loader

        return train_loader(self.examples_of["train"], self.share, seed=self.config.seed, from_step=from_step, steps=self.steps)

    def held_out(self) -> "dict[str, DataLoader]":
        """Windows in the order of time."""
        from qpa.tasks.loaders import held_out_loader

        return {split: held_out_loader(self.examples_of[split], self.share, split=split) for split in HELD_OUT}

    def probe(self) -> Batch:
        """Some windows of the validation split, spread over it."""
        from torch.utils.data import default_collate

        examples = self.examples_of["val"]
        count = min(PROBED, len(examples))
        return default_collate([examples[place * len(examples) // count] for place in range(count)])

    def skeleton(self) -> "nn.Module":
        """Its shapes follow from the columns and the config."""
        return self._network("meta")

    def base(self, *, own: bool = False) -> "nn.Module":
        """Its weights stay, for the next run of a sweep too."""
        from qpa.tasks.numerics import home
        from qpa.tasks.pretrained import base_model

        kept, config, device = self.context.kept, self.config, home(self.config.trainer.accelerator)
        shape = (len(self.windows.series.columns), self.windows.window)
        key = ("series", self.model.model_dump_json(), *shape, config.seed, device)
        if key not in kept:
            kept.clear()
            kept[key] = self._network(device)
        shared = base_model.sharing_weights(kept[key])
        return copy.deepcopy(shared) if own else shared

    def _network(self, device: Any) -> "nn.Module":
        import torch

        from qpa.tasks.forecasting import networks

        columns, window = len(self.windows.series.columns), self.windows.window
        return networks.make(self.model, columns=columns, window=window, seed=self.config.seed, device=torch.device(device))

    def learner(self, model: "nn.Module", *, trained: bool = False) -> "Forecaster":
        """The model's own forecasts."""
        from qpa.tasks.forecasting.forecaster import Forecaster

        return Forecaster(model, self.windows.target_scale, ratios=self.ratios)

    def draw(self, measured: Measured, adapter: Path, file: Path) -> None:
        """The hydrograph of the test split."""
        from qpa.adapters import saved
        from qpa.tasks.forecasting import drawing

        forecast = self.forecasts(saved.load_adapter(self.base(own=True), adapter), "test")
        lines = {"observed": self.windows.observed("test"), "forecast": forecast, "persistence": self.baselines["persistence"]["test"]}
        unit, target = f" ({self.data.unit})" if self.data.unit else "", self.windows.series.target
        drawing.draw(self.windows.times("test"), lines, (f"{target}{unit}", f"error{unit}"), f"{target} {self._ahead} ahead", file)

    def forecasts(self, model: "nn.Module", split: str) -> "np.ndarray":
        """What a model says of all windows of a split, in the order of time and in the target's unit, `[n]`."""
        import torch
        from torch.utils.data import DataLoader

        learner, device = self.learner(model.eval()), next(model.parameters()).device
        loader = DataLoader(self.examples_of[split], batch_size=self.data.batch_size)
        with torch.no_grad():
            return torch.cat([learner.forecasts(learner.to_device(batch, device)) for batch in loader]).cpu().numpy()

    def save_beside(self, adapter: Path) -> None:
        """What is read and forecast, and the scale of both."""
        mean, deviation = self.windows.scale
        scale = {"mean": mean.tolist(), "deviation": deviation.tolist(), "target": list(self.windows.target_scale)}
        files.write_json(adapter / SERIES_FILE, self._reads | {"scale": scale, "until": str(self.windows.times("train")[-1])})

    @property
    def _reads(self) -> dict[str, Any]:
        """What is forecast from what."""
        found, given = self.windows, self.windows.series
        return {"target": given.target, "inputs": list(given.columns), "window": found.window, "horizon": found.horizon, "step": given.step}

    def check_beside(self, adapter: Path) -> None:
        """Refuse an adapter that reads or forecasts something else."""
        try:
            saved = json.loads((adapter / SERIES_FILE).read_text())
            other = [(name, saved[name], here) for name, here in self._reads.items() if saved[name] != here]
        except (OSError, ValueError, KeyError, TypeError):
            return  # of another program, or moved alone
        if other:
            name, there, here = other[0]
            key = "data" if name == "step" else f"data.{name}"
            raise ConfigError(key, here, f"the adapter was trained with {there}; give the run's own")
        self._go_on_from(saved)

    def _go_on_from(self, saved: Mapping[str, Any]) -> None:
        """Read and forecast in the scale that the network was trained in; say where it has been trained on what is forecast here."""
        scale, until = saved.get("scale", {}), saved.get("until")
        if {"mean", "deviation", "target"} <= scale.keys():
            mean, target = np.array(scale["mean"]), scale["target"]
            self.windows = replace(self.windows, given=(mean, np.array(scale["deviation"]), (target[0], target[1])))
            self.examples_of = self._examples()
        if until and self.windows.times("test")[0] <= np.datetime64(until):
            print(f"qpa: the network was trained on times until {until}, and the test split here begins before that", file=sys.stderr)


def _sections(config: Config) -> tuple[SeriesModelConfig, SeriesDataConfig]:
    """The groups `model` and `data`, of kinds that are read here."""
    return expected("model", config.model, SeriesModelConfig), expected("data", config.data, SeriesDataConfig)


def _in_words(model: SeriesModelConfig, columns: int) -> str:
    """As `LSTM 5-50-50-1`: columns, the width of each layer, and the one number that is said."""
    if isinstance(model, LSTMConfig):
        kind, wide = "LSTM", model.hidden
    else:
        kind, wide = "Transformer", expected("model", model, SeriesTransformerConfig).width
    return f"{kind} {'-'.join(map(str, [columns, *[wide] * model.layers, 1]))}"


TASK = Forecasting
