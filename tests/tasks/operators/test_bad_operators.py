"""What cannot be solved or learned is one line, before anything is trained."""

from pathlib import Path

import pytest
from conftest import planned
from functions import config, run

from qpa.errors import ConfigError


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.grid=4"], "data.grid=4: should be greater than or equal to 8"),
        (["data.viscosity=0"], "data.viscosity=0: should be greater than 0"),
        (["data.viscosity=-1"], "data.viscosity=-1: should be greater than 0"),
        (["data.train=0"], "data.train=0: "),
        (["model.modes=17"], "model.modes=17: a grid of 32 points has 16; at most so many"),
        (["data.viscosity=1.5"], "data.viscosity=1.5: nothing but noise is left after data.time=0.3; give less of one of them"),
        (["data.grid=2048"], "data.grid=2048: the solver would take 91,8"),
        (["peft=prompt"], "its prompts stand before text, and these are functions"),
        (["trainer=fsdp"], "trainer.strategy=fsdp: this model has no layers to share out"),
        (["model.path=/nowhere"], "model.path=/nowhere: no trained operator is there"),
    ],
)
def test_mistake_is_one_line(tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        planned(config(tmp_path, *overrides))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_single_permeability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data.low=12.0: has to be less than data.high=12"):
        planned(config(tmp_path, "data.low=12", data="darcy"))


def test_too_coarse_a_grid_is_said_as_soon_as_it_is_solved(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.grid=32: 32 points are too few for its fronts; give data\.grid=64, or a larger data\.viscosity"
    ):
        planned(config(tmp_path, "data.viscosity=0.001", "data.time=1.0")).task.fetch()


def test_trained_operators_of_other_sizes_are_refused(tmp_path: Path) -> None:
    run(config(tmp_path, "generator=none", "trainer.max_steps=2"))
    path = f"model.path={tmp_path}/run"
    with pytest.raises(ConfigError, match=r"give model\.modes=4 model\.hidden=4 model\.layers=2"):
        planned(config(tmp_path, path, "model.modes=3"))
    with pytest.raises(ConfigError, match=r"its functions have 1 dimension\(s\), and those of the data 2"):
        planned(config(tmp_path, path, data="darcy"))


@pytest.mark.parametrize("spoil", [{"operator.json": b"[]"}, {"operator.json": b"{}"}, {"model.safetensors": b"0" * 100}])
def test_damaged_operators_are_refused(tmp_path: Path, spoil: dict[str, bytes]) -> None:
    run(config(tmp_path, "generator=none", "trainer.max_steps=2"))
    for name, content in spoil.items():
        (tmp_path / "run" / "adapter" / name).write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        run(config(tmp_path, f"model.path={tmp_path}/run", f"run_dir={tmp_path}/other"))
