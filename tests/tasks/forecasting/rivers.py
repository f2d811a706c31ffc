"""What the tests of series share: a small river that a seed draws, as a file, and configs of tiny networks that forecast it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qpa.config import Config, parse
from qpa.config.composing import composed

LSTM = ["model=lstm", "model.hidden=4", "model.layers=2"]
MODELS = {"lstm": LSTM, "transformer": ["model=series_transformer", "model.width=8", "model.heads=2", "model.hidden=12"]}
DAYS = 240


def river(days: int = DAYS, start: str = "2001-01-01") -> pd.DataFrame:
    """Rain, and a flow that keeps most of itself from day to day."""
    draw = np.random.default_rng(0)
    rain = draw.gamma(0.3, 6, days)
    flow = np.zeros(days)
    for day in range(1, days):
        flow[day] = 0.8 * flow[day - 1] + rain[day - 1]
    return pd.DataFrame({"time": pd.date_range(start, periods=days).astype(str), "rain": rain, "flow": flow + 5})


def saved(table: pd.DataFrame, file: Path) -> Path:
    """As CSV, or as Parquet where the name says so."""
    if file.suffix == ".parquet":
        table.to_parquet(file)
    else:
        table.to_csv(file, index=False)
    return file


def arguments(folder: Path, *overrides: str, file: Path | None = None, model: str = "lstm") -> list[str]:
    """Of the command line: a tiny network whose every weight is generated, and a river."""
    file = file or saved(river(), folder / "river.csv")
    data = ["data=series", f"data.file={file}", "data.target=flow", "data.window=6", "data.batch_size=16"]
    small = ["mapper.hidden=[4,6]", "circuit.layers=2"] if not any("mapper=" in o or "peft=" in o for o in overrides) else []
    trainer = ["trainer=default", "trainer.max_steps=4", "trainer.val_every=2", "trainer.accelerator=cpu", "optimizer.lr=0.01"]
    places = [f"cache_dir={folder}/cache", f"run_dir={folder}/run", "logger=none", "name=tiny"]
    return ["task=forecasting", *data, *MODELS[model], *small, *trainer, *places, *overrides]


def config(folder: Path, *overrides: str, **given: Any) -> Config:
    """The same, composed and checked."""
    return parse(composed("train", arguments(folder, *overrides, **given)))
