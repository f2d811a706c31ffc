"""A run's compact form: what makes the adapter, from which the adapter is made again without the checkpoint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import folder_of, planned, train_run
from safetensors.torch import load_file

import qpa
from qpa.commands import export
from qpa.config import Config
from qpa.errors import ConfigError, UserError

MakeConfig = Callable[..., Config]
ADAPTER = "adapter_model.safetensors"


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / ADAPTER)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "overrides", [[], ["peft=dora", "mapper=codes"], ["peft=adapter"], ["peft.target_modules=[lm_head]", "+peft.bias=all"]]
)
def test_compact_form_gives_the_runs_adapter_without_its_checkpoint(
    make_config: MakeConfig, saved_base: Callable[..., Path], capsys: pytest.CaptureFixture[str], overrides: list[str]
) -> None:
    base = saved_base("smollm2")
    config = make_config("model.weights=published", f"model.path={base}", "model.num_layers=null", *overrides)
    train_run(config)
    folder = folder_of(config)
    trained, described = adapter_of(folder), json.loads((folder / "adapter" / "adapter_config.json").read_text())

    export.main([f"run={folder}", "compact=true"])
    assert capsys.readouterr().out.splitlines()[-2:] == [f"{folder}/compact", f"{folder}/adapter"]
    assert json.loads((folder / "compact" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    for gone in ("adapter", "checkpoints"):
        shutil.rmtree(folder / gone)

    export.main([f"run={folder}", "expand=true"])
    found = adapter_of(folder)
    torch.testing.assert_close(found, trained, rtol=1e-5, atol=1e-7)
    again = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    unordered = {"target_modules"}  # a set
    assert {key: value for key, value in again.items() if key not in unordered} == {
        k: v for k, v in described.items() if k not in unordered
    }

    loaded = qpa.load(planned(config).task.base(own=True), folder / "compact")
    loaded.save_pretrained(str(folder / "by-hand"))
    by_hand = load_file(folder / "by-hand" / ADAPTER)
    assert found.keys() <= by_hand.keys() and all(torch.equal(found[name], by_hand[name]) for name in found)


def test_what_has_no_compact_form_is_refused_in_one_line(make_config: MakeConfig, tmp_path: Path) -> None:
    for name, overrides, words in (
        ("plain", ["generator=none"], r"^generator=none: this run has trained the adapter itself"),
        ("sampled", ["circuit.shots=20"], r"^the circuits are sampled"),
        ("pissa", ["+peft.init_lora_weights=pissa"], r"^this start has rewritten weights of the base model"),
    ):
        config = make_config(*overrides, f"run_dir={tmp_path}/{name}", "trainer.max_steps=1", "trainer.val_every=1")
        train_run(config)
        with pytest.raises((ConfigError, UserError), match=words):
            export.main([f"run={tmp_path}/{name}", "compact=true"])
        assert not (tmp_path / name / "compact").exists()
        with pytest.raises(UserError, match="holds no compact adapter"):
            export.main([f"run={tmp_path}/{name}", "expand=true"])
