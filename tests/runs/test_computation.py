"""Recorded runs of every mapper, latents and ansatz: whoever changes their numbers raises `qpa.config.identity.COMPUTATION`.

A run that an older program has finished would else be shown in place of the new one's. This writes the record anew, beside the
raised number: `RECORD=1 python -m pytest -n 0 -m '' tests/runs/test_computation.py`.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, folder_of, train_run

from qpa.config import Config
from qpa.config.identity import COMPUTATION
from qpa.files import write_json
from qpa.runs import record

RECORD = Path(__file__).with_name("computation.json")
CLOSE = 2e-3  # relative: processors and versions of torch differ by less, programs by more


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("[!_]*.yaml"))


CASES = [f"{group}={choice}" for group in ("mapper", "latents", "circuit", "generator") for choice in choices(group)]
CASES += ["generator.start=paper", "generator.circuits=shared", "data.protocol=paper", "trainer.accumulate_grad_batches=2", "peft=dora"]


def numbers(make_config: Callable[..., Config], case: str) -> dict[str, Any]:
    """Of three steps in fp32 at a high rate, so that what is learned shows."""
    config = make_config(case, "model.dtype=float32", "optimizer.lr=0.1", "trainer.max_steps=3", "trainer.val_every=3", "seed=3")
    train_run(config)
    found = record.read(folder_of(config))["qpa"]
    return {"trainable": found["params"]["trainable"], **{key: found["test"][key] for key in ("base_perplexity", "perplexity")}}


@pytest.mark.few(6)
@pytest.mark.parametrize("case", CASES)
def test_numbers_of_a_recorded_run_change_only_with_the_computations_version(make_config: Callable[..., Config], case: str) -> None:
    known = json.loads(RECORD.read_text())
    found = numbers(make_config, case)
    if "RECORD" in os.environ:
        earlier = known["runs"] if known["computation"] == COMPUTATION else {}
        write_json(RECORD, {"computation": COMPUTATION, "runs": earlier | {case: found}})
        return
    assert known["computation"] == COMPUTATION, "write the record anew"
    assert found == pytest.approx(known["runs"][case], rel=CLOSE), "raise COMPUTATION and write the record anew"
