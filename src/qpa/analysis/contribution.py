"""How much of a finished run is the circuits': their share of the generated weights, and perplexity with other numbers in their place.

Swapped in are the same probabilities shuffled among a circuit's basis states, uniform ones, and those of random real states;
the mapper stays as it was trained. This says what the trained run leans on, not what training without circuits would have
reached: for that, `sweeps=latents`.
"""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from plotly import graph_objects as go
from torch import Tensor

from qpa.config import AnalysisConfig, Config
from qpa.core.latents import Fixed
from qpa.runs import numerics
from qpa.runs.job import open_stores
from qpa.runs.record import load_config
from qpa.runs.restored import Restored, restore
from qpa.tasks.language import source, text, tokenizer
from qpa.tasks.language.perplexity import Perplexity
from qpa.training.module import FineTuning


def analyse(settings: AnalysisConfig) -> tuple[dict[str, Any], go.Figure]:
    """Test perplexity by what stands in the circuits' place, and the share of what is generated that is theirs."""
    folder = Path(settings.run or "")
    config = _here(load_config(folder))
    run = restore(config, folder)
    reader = Reader(config, run)
    with torch.no_grad():
        trained = run.generator.latents()
    random = torch.Generator().manual_seed(settings.seed)
    places = {
        "trained": [trained],
        "uniform": [torch.zeros_like(trained)],
        "shuffled": [shuffled(trained, run, random) for _ in range(settings.draws)],
        "random": [torch.randn(trained.shape, generator=random).square() - 1 for _ in range(settings.draws)],
    }
    share = circuit_share(run, trained)
    perplexity = {place: [reader.perplexity(numbers) for numbers in draws] for place, draws in places.items()}
    found: dict[str, Any] = {"circuit_share": share, "mean_absolute_feature": float(trained.abs().mean())}
    found["perplexity"] = {place: {"mean": fmean(values), "draws": values} for place, values in perplexity.items()}
    return found, figure(perplexity)


def shuffled(features: Tensor, run: Restored, random: torch.Generator) -> Tensor:
    """Every circuit's numbers in a random order, `[N]`."""
    circuit = run.circuits.places >> run.circuits.angles.shape[-1]
    mixed = features.clone()
    for number in circuit.unique():
        places = (circuit == number).nonzero().flatten()
        mixed[places] = features[places[torch.randperm(len(places), generator=random)]]
    return mixed


def circuit_share(run: Restored, trained: Tensor) -> float:
    """`|D|^2 / (|D|^2 + |W(0)|^2)`, with `D = W(f) - W(0)`: how much of what is generated is there by the circuits alone."""
    mapper = run.generator.mapper
    with torch.no_grad():
        uniform = mapper(torch.zeros_like(trained))
        by_circuits = (mapper(trained) - uniform).square().sum()
    whole = by_circuits + uniform.square().sum()
    return float(by_circuits / whole) if whole else 0.0


def _here(config: Config) -> Config:
    """One process on the CPU, whatever the run was trained on."""
    alone = {"strategy": "single", "devices": 1, "num_nodes": 1, "accelerator": "cpu"}
    return numerics.resolved(config.model_copy(update={"trainer": config.trainer.model_copy(update=alone)}))


class Reader:
    """Reads a run's test text with given numbers in the circuits' place."""

    def __init__(self, config: Config, run: Restored) -> None:
        from qpa.tasks.language import windows as data

        base_folder = source.folder(config)
        windows = data.windows(config, text.read(config.data), tokenizer.load(base_folder), source.cache_folder(config))
        self.config, self.run, self.windows = config, run, windows["test"]
        self.module = FineTuning(config, run.assembly.model, run.assembly.adaptation)
        self.module.stores = open_stores(config, self.module, windows, base_folder=base_folder)  # where the head alone is adapted

    def perplexity(self, numbers: Tensor) -> float:
        """Of the test windows, read as stock PEFT reads them."""
        from qpa.tasks.loaders import held_out_loader

        generator = self.run.generator
        kept, generator.latents = generator.latents, Fixed(numbers)
        metric = Perplexity()
        self.module.eval()
        with torch.no_grad():
            self.run.assembly.adaptation.write()
            for batch in held_out_loader(self.config, self.windows):
                metric.update(*self.module.nll(self.module.hidden(batch, "test"), batch["labels"]))
        generator.latents = kept
        return float(metric.compute())


def figure(perplexity: dict[str, list[float]]) -> go.Figure:
    """A bar for each thing in the circuits' place, the standard deviation over draws as its error."""
    spread = [stdev(values) if len(values) > 1 else 0.0 for values in perplexity.values()]
    means = [fmean(values) for values in perplexity.values()]
    bars = go.Bar(x=list(perplexity), y=means, error_y={"array": spread}, text=[f"{mean:.3f}" for mean in means], marker_color="#0072b2")
    drawn = go.Figure(bars)
    drawn.update_yaxes(title="test perplexity", range=[0.95 * min(means), 1.03 * max(m + s for m, s in zip(means, spread, strict=True))])
    drawn.update_xaxes(title="probabilities in the trained circuits' place")
    return drawn.update_layout(template="plotly_white", height=420)
