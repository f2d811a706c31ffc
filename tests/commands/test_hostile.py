"""Wrong or hostile input: every config either works or gives one line, nothing from elsewhere runs code, and no secret is written down."""

import copy
import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from conftest import ROOT, command_line, folder_of, real_record, train_run
from conftest import planned as plan_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from texts import cut, read

from qpa.commands import cli, evaluate, export, plan
from qpa.config import Config, parse
from qpa.config.composing import composed
from qpa.config.context import Context
from qpa.config.earlier import judged
from qpa.errors import ConfigError, UserError
from qpa.report import runs
from qpa.runs import baseline, record
from qpa.runs import plan as plans
from qpa.tasks.pretrained import tokenizer
from qpa.tasks.task import Task, find
from qpa.training import checkpoints

MakeConfig = Callable[..., Config]
FREE = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None, phases=[Phase.generate])
WORK = 50  # times the calls that planning a run of SmolLM2 takes may be made for any config: the deepest model has 33 times its layers
BASES = [
    [],
    ["peft=dora"],
    ["generator=none"],
    ["mapper=paper"],
    ["latents=mps"],
    ["peft=prompt"],
    ["model=gpt2", "trainer=ddp"],
    ["peft=unilora"],
]
CONFIGS: list[dict[str, Any]] = []


def configs() -> list[dict[str, Any]]:
    """The real configs of some choices, composed once."""
    if not CONFIGS:
        CONFIGS.extend(composed("train", [*choices, "logger=none"]) for choices in BASES)
    return CONFIGS


def keys(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of nested dicts."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield (*path, name)
            yield from keys(value, (*path, name))


NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, 1, 2, 4, 8, 64, 576, 10**6, 0.5, 1e-9]),
)
WORDS = st.one_of(st.text(max_size=20), st.sampled_from(["", "all-linear", "lm_head", "(", "\0", "../..", "os.system", "a\nb", "${x}"]))
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS)
VALUES = st.one_of(NUMBERS, PLAIN, st.lists(PLAIN, max_size=3), st.dictionaries(WORDS, PLAIN, max_size=2))


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """A real config with up to four values replaced, added or taken away."""
    config = copy.deepcopy(draw(st.sampled_from(configs())))
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(sorted(keys(config))))
        place = config
        for name in path[:-1]:
            place = place[name]
        action = draw(st.sampled_from(["replace", "replace", "replace", "add", "remove"]))
        if action == "remove":
            del place[path[-1]]
        else:
            place[path[-1] if action == "replace" else draw(st.text(min_size=1, max_size=8))] = draw(VALUES)
    return config


def checked_task(config: Config) -> Task:
    """The task of a config after all checks that need nothing but the config."""
    plans.check(config)
    task = find(config.task.kind)(config, Context())
    task.check()
    return task


def planned(config: dict[str, Any]) -> bool:
    """Plan a config, as far as it can be planned without peft; False if it is refused, in one line."""
    try:
        checked = parse(config)
        task = checked_task(checked)
        if task.known_tensors() is not None:  # else peft itself counts, on the meta device
            plan.record(plans.make(checked, Context()))
    except UserError as error:
        assert "\n" not in cli.describe(error)
        assert cli.describe(error).strip()
        return False
    return True


def calls(work: Callable[[], object], *, most: float) -> int:
    """How many calls a piece of work makes, which is its cost on any machine; it is ended when it makes more than `most`."""
    made = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        made += event in ("call", "c_call")
        assert made <= most, "this config costs too much"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return made


@pytest.mark.parametrize("cases", [200, pytest.param(2500, marks=pytest.mark.slow)])
def test_any_config_is_planned_or_refused_in_one_line_at_a_bounded_cost(cases: int, capsys: pytest.CaptureFixture) -> None:
    assert planned(configs()[0])  # the first imports torch.optim
    usual = calls(lambda: planned(configs()[0]), most=math.inf)
    answers, costs = [], []

    @settings(FREE, max_examples=cases)
    @given(changed())
    def check(config: dict[str, Any]) -> None:
        costs.append(calls(lambda: answers.append(planned(config)), most=WORK * usual))

    check()
    assert min(sum(answers), len(answers) - sum(answers)) > cases / 100  # neither is all there is
    with capsys.disabled():
        counts = f"{sum(answers)} planned, {len(answers) - sum(answers)} refused"
        print(f"\n{cases} configs: {counts}, 0 tracebacks, the dearest at {max(costs) / usual:.1f} times the usual cost")


@pytest.mark.parametrize(
    "choices",
    [
        ["model.architecture.num_hidden_layers=1000", "model.num_layers=1000"],
        ["model.architecture.num_hidden_layers=100000000", "model.num_layers=100000000"],
        ["mapper.chunk_size=1"],
        ["circuit.qubits=1000000"],
        ["circuit.layers=1000000000"],
        ["peft.r=1000000000000"],
    ],
)
def test_no_number_costs_more_than_the_deepest_model(choices: list[str]) -> None:
    assert planned(configs()[0])  # the first imports torch.optim
    usual = calls(lambda: planned(configs()[0]), most=math.inf)
    config = composed("train", [*choices, "logger=none"])
    calls(lambda: planned(config), most=WORK * usual)


@pytest.mark.parametrize("cases", [10, pytest.param(120, marks=pytest.mark.slow)])
def test_any_words_on_the_command_line_are_taken_or_refused_in_one_line(cases: int) -> None:
    """Hydra's own grammar too, through the planner's whole entry."""
    names = [".".join(path) for path in keys(configs()[0])]

    @settings(FREE, max_examples=cases)
    @given(st.lists(st.tuples(st.sampled_from(["", "+", "~", "++"]), st.sampled_from(names), PLAIN.map(str)), min_size=1, max_size=3))
    def check(words: list[tuple[str, str, str]]) -> None:
        try:
            config = parse(composed("train", [f"{sign}{name}={value}" for sign, name, value in words]))
            checked_task(config)
        except Exception as error:
            assert cli.mendable(error), repr(error)
            assert "\n" not in cli.describe(error)

    check()


class Bomb:
    """What runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def test_nothing_in_a_folder_from_elsewhere_runs_code(make_config: MakeConfig, tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    config = make_config("trainer.max_steps=2")
    train_run(config)
    folder = folder_of(config)
    best = folder / "checkpoints" / "best.ckpt"
    good = torch.load(best, weights_only=True)
    torch.save(good | {"more": Bomb(marker)}, best)
    with pytest.raises(ConfigError, match=r"best.ckpt: damaged"):
        export.main([f"run={folder}"])
    torch.save(good, best)
    with pytest.raises(ConfigError, match=r"ckpt=.*damaged"):
        (tmp_path / "bomb.ckpt").write_bytes(pickle.dumps(Bomb(marker)))
        train_run(make_config("force=true", f"ckpt={tmp_path}/bomb.ckpt"))

    weights = folder / "adapter" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    torch.save({"more": Bomb(marker)}, folder / "adapter" / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"adapter.*cannot be read"):
        evaluate.main([f"run={folder}"])
    (folder / "adapter" / "adapter_model.bin").unlink()
    weights.write_bytes(content)

    written = (folder / "config.yaml").read_text()
    for old, new in (
        ("peft.LoraConfig", "os.system"),
        ("torch.optim.AdamW", "os.system"),
        ("pytorch_lightning.Trainer", "pytorch_lightning.trainer.os.system"),
        ("task_type: CAUSAL_LM", f"task_type: {{_target_: os.system, command: touch {marker}}}"),
        ("name: smollm2", "name: ${oc.env:HOME}/smollm2"),
        ("name: smollm2", f"name: !!python/object/apply:os.system ['touch {marker}']"),
    ):
        assert old in written
        (folder / "config.yaml").write_text(written.replace(old, new))
        for verb in (evaluate, export):
            with pytest.raises(ConfigError, match=r"_target_|config.yaml"):
                verb.main([f"run={folder}"])
    assert not marker.exists()


@pytest.fixture(scope="module", params=["without task and metric", pytest.param("with them", marks=pytest.mark.slow)])
def finished_run(request: pytest.FixtureRequest) -> dict[str, Any]:
    found = json.loads(real_record())
    if request.param == "with them":
        found["qpa"] |= judged(found)
    return found


def test_damaged_checkpoints_are_told_from_good_ones(make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """500 ways to damage one: what is read is what was written, or is refused."""
    train_run(make_config("trainer.max_steps=2"))
    path = folder_of(make_config()) / "checkpoints" / "last.ckpt"
    content, good = path.read_bytes(), checkpoints.read(path)
    counts = {"refused": 0, "harmless": 0}
    broken = tmp_path / "broken.ckpt"

    @settings(FREE, max_examples=500)
    @given(st.integers(0, len(content) - 1), st.binary(min_size=1, max_size=40), st.booleans())
    def check(place: int, noise: bytes, cut: bool) -> None:
        broken.write_bytes(content[:place] + noise + (b"" if cut else content[place + len(noise) :]))
        try:
            read = checkpoints.read(broken)["state_dict"]
        except checkpoints.DamagedError:
            counts["refused"] += 1
            return
        counts["harmless"] += 1  # between the parts of the archive
        assert all(torch.equal(read[name], tensor) for name, tensor in good["state_dict"].items())

    check()
    with capsys.disabled():
        print(f"\n{sum(counts.values())} damaged checkpoints: {counts['refused']} refused, {counts['harmless']} read as written")


@pytest.mark.parametrize("cases", [10, pytest.param(80, marks=pytest.mark.slow)])
def test_damaged_records_are_refused_in_one_line_or_read(
    finished_run: dict[str, Any], make_config: MakeConfig, tmp_path: Path, cases: int
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    path = folder / "result.json"

    @settings(FREE, max_examples=cases)
    @given(st.sampled_from(sorted(keys(finished_run))), st.one_of(PLAIN, st.dictionaries(WORDS, PLAIN, max_size=1)), st.booleans())
    def check(place: tuple[str, ...], value: Any, remove: bool) -> None:
        damaged = copy.deepcopy(finished_run)
        within = damaged
        for name in place[:-1]:
            within = within[name]
        within.pop(place[-1]) if remove else within.update({place[-1]: value})
        path.write_text(json.dumps(damaged))
        record.finished(folder)
        runs.read([folder])
        try:
            baseline.check(plan_of(make_config(f"baseline={folder}")))
        except ConfigError as error:
            assert "\n" not in str(error)

    check()
    for content in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'"x"', b"[" * 100_000, b'{"qpa": 1}'):
        path.write_bytes(content)
        assert not record.finished(folder)
        runs.read([folder])


@pytest.mark.parametrize(
    ("content", "works"),
    [
        (b"\xfa broken utf-8 \x80 " * 900, False),
        (b"zero\0 bytes\0 " * 900, False),
        (b"no \x01 letters \x7f\r" * 900, True),
        (b"one line of many words " * 90_000, True),
        (b"lines that end in CR LF\r\n" * 900, True),
        (b"\r\n" * 9_000 + b"x", False),
        ("‮ right to left, 🏳️‍🌈 and \ud7ff ".encode() * 900, True),
        (b"x", False),
        (b"\xff", False),
    ],
)
def test_hostile_text_is_packed_or_refused_in_one_line(make_config: MakeConfig, tmp_path: Path, content: bytes, works: bool) -> None:
    file = tmp_path / "hostile.txt"
    file.write_bytes(content)
    config = make_config(f"data.train_files=[{file}]")
    if not works:
        with pytest.raises(ConfigError, match=r"shorter than one window|empty|no UTF-8 text"):
            cut(config.data, vars(read(config.data)), tokenizer.byte_encoder(), tmp_path / "cache")
        return
    found = cut(config.data, vars(read(config.data)), tokenizer.byte_encoder(), tmp_path / "cache")
    assert all(len(split) > 0 for split in found.values())


SECRETS = {
    "WANDB_API_KEY": "5ec2e7" + "0" * 34,
    "HF_TOKEN": "hf_plantedPlantedPlantedPlantedPlanted",
    "OPENAI_API_KEY": "sk-planted-planted-planted",
    "AWS_SECRET_ACCESS_KEY": "planted/planted/planted/planted/planted0",
}


@pytest.mark.slow
def test_no_secret_of_the_environment_is_written_or_said(text_file: Path, tmp_path: Path) -> None:
    """A whole run with W&B offline, a refused one, and one that cannot reach the hub."""
    fixed = [*command_line(text_file, tmp_path), "trainer.max_steps=2", f"run_dir={tmp_path}/run", "mapper.width=4"]
    said = b""
    for arguments in (fixed, ["circuit.qubits=99"], ["model=gpt2", f"run_dir={tmp_path}/hub"]):
        environment = os.environ | SECRETS | {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, env=environment, check=False)
        said += done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    for name, secret in SECRETS.items():
        assert secret.encode() not in said, name
        assert not [path for path in files if secret.encode() in content_of(path)], name


def content_of(path: Path) -> bytes:
    """All bytes of a file, of an archive's parts too."""
    parts = b""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = b"".join(map(archive.read, archive.namelist()))
    return path.read_bytes() + parts
