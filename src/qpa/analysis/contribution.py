"""How much of a finished run is the circuits': their share of the generated weights, and its metric with other numbers in their place.

Swapped in are the same probabilities shuffled among a circuit's basis states, uniform ones, and those of random real states;
the mapper stays as it was trained. This says what the trained run leans on, not what training without circuits would have
reached: for that, `sweeps=latents`.
"""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any, cast

import torch
from plotly import graph_objects as go
from torch import Tensor

from qpa.config import AnalysisConfig, Config
from qpa.core.latents.fixed import Fixed
from qpa.runs.record import load_config
from qpa.runs.restored import Restored, restore


def analyse(settings: AnalysisConfig) -> tuple[dict[str, Any], go.Figure]:
    """The task's metric on the test split by what stands in the circuits' place, and the share of what is generated that is theirs."""
    folder = Path(settings.run or "")
    config = _here(load_config(folder))
    run = restore(config, folder)
    reader, name = Reader(run), run.parts.plan.task.metric.name
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
    values = {place: [reader.value(numbers) for numbers in draws] for place, draws in places.items()}
    found: dict[str, Any] = {"circuit_share": share, "mean_absolute_feature": float(trained.abs().mean())}
    found[name] = {place: {"mean": fmean(draws), "draws": draws} for place, draws in values.items()}
    return found, figure(values, name)


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
    """On the CPU, whatever the run was trained on."""
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"accelerator": "cpu"})})


class Reader:
    """Reads a run's test split with given numbers in the circuits' place."""

    def __init__(self, run: Restored) -> None:
        self.run, self.task = run, run.parts.plan.task
        self.task.read()
        self.task.prepare()
        self.learner = self.task.learner(run.parts.model, trained=True)  # where the head alone is adapted, with kept states

    def value(self, numbers: Tensor) -> float:
        """Of the task's metric, the model read as stock PEFT reads it."""
        generator, scores = self.run.generator, self.learner.scores()
        kept, generator.latents = generator.latents, Fixed(numbers)
        self.learner.model.eval()
        with torch.no_grad():
            self.run.parts.adaptation.write()
            for batch in self.task.held_out()["test"]:
                self.learner.score(batch, "test", scores)
        generator.latents = kept
        return cast(Any, scores[self.task.metric.name]).compute().item()


def figure(values: dict[str, list[float]], name: str) -> go.Figure:
    """A bar for each thing in the circuits' place, the standard deviation over draws as its error."""
    spread = [stdev(draws) if len(draws) > 1 else 0.0 for draws in values.values()]
    means = [fmean(draws) for draws in values.values()]
    bars = go.Bar(x=list(values), y=means, error_y={"array": spread}, text=[f"{mean:.3f}" for mean in means], marker_color="#0072b2")
    drawn = go.Figure(bars)
    drawn.update_yaxes(title=f"test {name}", range=[0.95 * min(means), 1.03 * max(m + s for m, s in zip(means, spread, strict=True))])
    drawn.update_xaxes(title="probabilities in the trained circuits' place")
    return drawn.update_layout(template="plotly_white", height=420)
