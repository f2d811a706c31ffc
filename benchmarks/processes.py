"""`python -m benchmarks.processes [--quick]`: seconds and bytes of a step on 1 and 2 processes, and the cost model drawn to 1,024 GPUs.

Runs `train.py` itself with the same windows per step on both. What 2 processes take longer per window than 1 is what sharing this
machine's memory and sending cost; the model below has no other term for it.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from plotly import graph_objects as go

from benchmarks.timing import cell, each, finish, ratio
from qpa.report.images import write_figure

SHAPE = ["model.weights=random", "model.num_layers=4", "model.architecture.vocab_size=2048", "logger=none"]
CPU = ["trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.val_every=1000", "data.context=128"]
WINDOWS = 4  # of a step, however many processes read them
FIGURE = Path("docs/scaling.png")


@dataclass(frozen=True)
class Cluster:
    """What the cost model assumes of a machine; none of it was measured here.

    Attributes:
        flops: of one GPU in bf16, as reached in training, 1/s.
        bandwidth: of a ring over all GPUs, bytes/s.
        latency: of one hop of the ring, seconds.
    """

    flops: float = 4e14
    bandwidth: float = 2.5e10
    latency: float = 1e-5


def seconds_per_step(parameters: float, trained: float, tokens: float, gpus: int, cluster: Cluster) -> float:
    """Compute of one GPU's tokens (forward 2, backward 2 per parameter: the base's weights need no gradient), then a ring all-reduce."""
    compute = 4 * parameters * tokens / cluster.flops
    exchange = 0.0 if gpus == 1 else 2 * (gpus - 1) / gpus * 4 * trained / cluster.bandwidth + 2 * (gpus - 1) * cluster.latency
    return compute + exchange


def measured(processes: int, steps: int) -> dict[str, float]:
    """One real run's median seconds per step, bytes per step, trained numbers, peak memory of the first process."""
    with tempfile.TemporaryDirectory() as place:
        several = ["trainer=ddp", f"trainer.devices={processes}"] if processes > 1 else []
        command = [sys.executable, "train.py", *several, *SHAPE, *CPU, f"data.batch_size={WINDOWS // processes}", f"run_dir={place}/run"]
        threads = {"OMP_NUM_THREADS": "1"}  # one core for each process, so that both have as much
        done = subprocess.run(
            [*command, f"trainer.max_steps={steps}", f"cache_dir={place}"], env=os.environ | threads, capture_output=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.decode()[-200:])
        ours = json.loads(Path(place, "run", "result.json").read_text())["qpa"]
    return {
        "seconds": ours["seconds_per_step"],
        "bytes": ours["bytes_per_step"],
        "trained": ours["params"]["trainable"],
        "plain_peft": ours["params"]["plain_peft"],
        "peak_bytes": ours["peak_memory_bytes"],
    }


def draw(cluster: Cluster) -> None:
    """Share of linear scaling against the number of GPUs, for three models, with the generator's and with plain LoRA's gradient."""
    figure = go.Figure()
    gpus = [2**n for n in range(11)]
    for name, parameters, trained in (("135 M", 1.35e8, 2.44e6), ("2.6 B", 2.6e9, 1.04e7), ("70 B", 7e10, 1.0e8)):
        for kind, share, dash in (("generator, 5 %", 0.05, "solid"), ("plain LoRA", 1.0, "dot")):
            times = [seconds_per_step(parameters, share * trained, 4096, n, cluster) for n in gpus]
            figure.add_scatter(x=gpus, y=[times[0] / t for t in times], name=f"{name}, {kind}", line={"dash": dash})
    figure.update_layout(height=420, template="plotly_white", xaxis_title="GPUs", yaxis_title="share of linear scaling (model)")
    figure.update_xaxes(type="log", tickvals=gpus)
    write_figure(FIGURE, figure)


def main(quick: bool) -> None:
    """Measure, print, draw."""
    steps = 8 if quick else 30
    found, why_not = each({str(n): partial(measured, n, steps) for n in (1, 2)})
    one, two = ((found[n] or {}).get("seconds") for n in ("1", "2"))
    print(f"seconds per step of {WINDOWS} windows: {cell(one, '.3f')} on 1 process, {cell(two, '.3f')} on 2")
    if several := found["2"]:
        print(f"bytes per step: {several['bytes']:.0f}, by the model {4 * several['trained'] + 24:.0f}", end="; ")
        print(f"plain LoRA: {4 * several['plain_peft']:.0f}")
    cluster = Cluster()
    draw(cluster)
    finish("processes", quick, {"measured": found, "why_not": why_not, "speedup": ratio(one, two), "figure": str(FIGURE)}, gpu=False)


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
