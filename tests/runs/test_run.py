"""Whole runs on a tiny model: what they leave behind, how they go on, what others can do with the adapter."""

import contextlib
import csv
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import build, fingerprint, folder_of, lineage, planned, train_run
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM

from qpa.adapters import saved
from qpa.commands import evaluate, export
from qpa.commands.composing import named_run
from qpa.config import Config
from qpa.core.adaptation import GeneratedAdaptation
from qpa.errors import ConfigError, NonFiniteLossError, UsageError, UserError
from qpa.runs import record, session
from qpa.runs.evaluate import evaluate as measured_again
from qpa.tasks.language import harness as tasks
from qpa.tasks.pretrained.tokenizer import TextEncoder, byte_encoder
from qpa.training import history
from qpa.training.names import WANDB_ID

MakeConfig = Callable[..., Config]


def stock_logits(base: str, adapter: str, ids: str, out: str) -> None:
    """Logits of an adapter by stock transformers and peft alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    with torch.no_grad():
        torch.save(model(input_ids=torch.load(ids)).logits, out)


WITHOUT_QPA = f"import sys\nsys.modules['qpa'] = None\n{inspect.getsource(stock_logits)}\nstock_logits(*sys.argv[1:])"


def train(config: Config) -> tuple[Path, record.Record]:
    train_run(config)
    return folder_of(config), record.read(folder_of(config))


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "run"


@pytest.fixture
def finished(make_config: MakeConfig, trained_once: Path) -> Path:
    """A finished run of the plain config where `make_config()` would leave it: a copy of one that many tests look at."""
    if not trained_once.exists():
        train_run(make_config(f"run_dir={trained_once}"))
    return Path(shutil.copytree(trained_once, folder_of(make_config())))


@pytest.mark.parametrize("overrides", [[], ["generator=none"]])
def test_run_learns_and_leaves_a_complete_record(make_config: MakeConfig, overrides: list[str], capsys: pytest.CaptureFixture) -> None:
    folder, result = train(make_config("trainer.max_steps=30", *overrides))
    ours = result["qpa"]
    assert result["train_info"]["status"] == "success"
    assert ours["test"]["perplexity"] < 0.95 * ours["test"]["base_perplexity"]
    saved = load_file(folder / "adapter" / "adapter_model.safetensors").values()
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    parts = {part: sum(t.numel() for name, t in state.items() if f"{part}." in name) for part in ("latents", "mapper")}
    params = ours["params"]
    assert (params["circuit"], params["mapper"]) == (parts["latents"], parts["mapper"])
    assert params["plain_peft"] == sum(t.numel() for t in saved)
    assert params["trainable"] == (params["plain_peft"] if overrides else parts["latents"] + parts["mapper"])
    assert params["ratio"] == params["trainable"] / params["plain_peft"]
    assert ours["seconds_per_step"] > 0
    assert ours["peak_memory_bytes"] > 0
    assert (folder / "adapter" / "adapter_config.json").is_file()
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert len([r for r in rows if r["train/loss"]]) == 30


def test_reported_perplexity_is_that_of_the_best_step(make_config: MakeConfig) -> None:
    folder, result = train(make_config("trainer.max_steps=7", "optimizer.lr=0.5"))
    seen = [float(r["val/perplexity"]) for r in csv.DictReader((folder / "metrics.csv").open()) if r["val/perplexity"]]
    assert len(seen) == 4  # after steps 2, 4, 6 and the last
    assert result["qpa"]["val"]["perplexity"] == pytest.approx(min(seen), rel=1e-4)


def test_adapter_alone_decides_the_reported_perplexity(make_config: MakeConfig) -> None:
    config = make_config("trainer.max_steps=10")
    folder, result = train(config)
    _, found = measured_again(config, folder)
    assert found["test"]["perplexity"] == pytest.approx(result["qpa"]["test"]["perplexity"], rel=1e-5)
    assert found["test"]["tokens"] == result["qpa"]["test"]["tokens"]


@pytest.mark.parametrize(
    ("model", "overrides", "process"),
    [
        pytest.param("smollm2", [], True, marks=pytest.mark.slow),
        ("gpt2", ["peft=dora"], False),
        pytest.param("gemma2", ["peft.target_modules=[lm_head]"], True, marks=pytest.mark.slow),
        pytest.param("gemma3_270m", ["generator=none"], True, marks=pytest.mark.slow),
        ("smollm2", ["mapper=paper", "peft.target_modules=[lm_head,q_proj]"], False),
    ],
)
def test_stock_peft_reloads_the_adapter_with_equal_logits(
    make_config: MakeConfig, saved_base: Callable[..., Path], tmp_path: Path, model: str, overrides: list[str], process: bool
) -> None:
    """In a process where qpa cannot be imported, or, which is faster, in this one."""
    base = saved_base(model)
    config = make_config("model.weights=published", f"model.path={base}", "model.num_layers=null", *overrides, model=model)
    folder, _ = train(config)
    ids = torch.randint(0, 256, (2, 16))
    torch.save(ids, tmp_path / "ids.pt")
    places = [str(place) for place in (base, folder / "adapter", tmp_path / "ids.pt", tmp_path / "out.pt")]
    if process:
        subprocess.run([sys.executable, "-c", WITHOUT_QPA, *places], check=True)
    else:
        stock_logits(*places)
    stock = torch.load(tmp_path / "out.pt")

    ours = generated_logits(config, base, ids)
    torch.testing.assert_close(stock, ours, atol=1e-4, rtol=0)

    export.main([f"run={folder}", "merged=true"])
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, ours, atol=1e-4, rtol=0)
    assert (folder / "merged" / "tokenizer.json").is_file()


def generated_logits(config: Config, base: Path, ids: torch.Tensor) -> torch.Tensor:
    """Logits in fp32 with the adapter as the best checkpoint generates it, not as it was saved."""

    built = build(config)
    built.adaptation.load_state_dict(torch.load(folder_of(config) / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"])
    built.adaptation.write()
    with torch.no_grad():
        return built.model.float().eval()(input_ids=ids).logits


def test_only_adapter_tensors_are_exported(make_config: MakeConfig) -> None:
    folder, result = train(make_config("peft.target_modules=[lm_head]"))
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert sum(t.numel() for t in tensors.values()) == result["qpa"]["params"]["plain_peft"]


@pytest.mark.parametrize(
    ("model", "stop", "overrides"),
    [
        ("smollm2", 2, []),
        pytest.param("smollm2", 6, ["generator=none"], marks=pytest.mark.slow),
        pytest.param("smollm2", 3, ["trainer.accumulate_grad_batches=2", "data.batch_size=2"], marks=pytest.mark.slow),
        ("gpt2", 5, ["peft.lora_dropout=0.1"]),  # dropout masks too
    ],
)
def test_resumed_run_equals_the_uninterrupted_one(
    make_config: MakeConfig, tmp_path: Path, model: str, stop: int, overrides: list[str]
) -> None:
    fixed = ["trainer.max_steps=7", "trainer.val_every=1", *overrides]
    whole, expected = train(make_config(f"run_dir={tmp_path}/whole", *fixed, model=model))
    stop_after(make_config(f"run_dir={tmp_path}/half", *fixed, model=model), stop)
    half, resumed = train(make_config(f"run_dir={tmp_path}/half", "ckpt=last", *fixed, model=model))
    assert resumed["qpa"]["resumed_from_step"] == stop
    assert resumed["qpa"]["test"] == expected["qpa"]["test"]
    first, second = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (whole, half))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses(half / "metrics-1.csv") + losses(half / "metrics.csv") == losses(whole / "metrics.csv")


def losses(metrics: Path) -> list[str]:
    return [row["train/loss"] for row in csv.DictReader(metrics.open()) if row["train/loss"]]


def test_run_that_died_after_training_is_finished_without_training(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("qpa.runs.session.measure", lambda *_, **__: sys.exit("power cut"))
        train_run(make_config("trainer.max_steps=5"))
    _, result = train(make_config("trainer.max_steps=5", "ckpt=last"))
    assert result["train_info"]["status"] == "success"
    assert result["qpa"]["resumed_from_step"] == 5


@pytest.mark.parametrize("overrides", [["mapper.width=5"], ["trainer.max_steps=3"]])
def test_checkpoint_of_another_config_is_refused_and_stays(make_config: MakeConfig, finished: Path, overrides: list[str]) -> None:
    before = (finished / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(ConfigError, match=r"ckpt=|trainer.max_steps=3"):
        train_run(make_config("ckpt=last", *overrides))
    assert (finished / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.slow
def test_run_goes_on_with_its_own_text_and_seed_alone(make_config: MakeConfig, tmp_path: Path, text_file: Path) -> None:
    here, plain = f"run_dir={tmp_path}/run", "generator=none"  # whose checkpoint would fit any text and seed
    train(make_config(here, plain))
    kept = (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    other = tmp_path / "other.txt"
    other.write_text(text_file.read_text()[::-1])
    for change, named in ((f"data.train_files=[{other}]", "texts"), ("seed=5", "seed"), ("peft.lora_alpha=3", "peft.lora_alpha")):
        with pytest.raises(ConfigError, match=rf"ckpt=.*of a run with another {named};"):
            train_run(make_config(here, plain, "ckpt=auto", change))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes() == kept
    assert lineage(make_config("model.quantization=nf4")) != lineage(make_config())
    _, longer = train(make_config(here, plain, "ckpt=auto", "trainer.max_steps=5", "optimizer.lr=1e-3"))
    assert longer["qpa"]["resumed_from_step"] == 4


@pytest.mark.slow
def test_best_step_of_a_replaced_run_is_not_taken_for_the_new_ones(make_config: MakeConfig, tmp_path: Path) -> None:
    good, bad = f"run_dir={tmp_path}/good", f"run_dir={tmp_path}/bad"
    fixed = ["trainer.max_steps=3", "trainer.val_every=3"]
    train(make_config(good, *fixed))
    train(make_config(bad, "seed=2", *fixed))  # whose best.ckpt lies in the way
    train(make_config(bad, "force=true", f"ckpt={tmp_path}/good/checkpoints/last.ckpt", "optimizer.lr=1e-9", *fixed))
    ours, theirs = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("bad", "good"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_too_few_windows_for_the_processes_are_found_before_training(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("x" * 31)
    plan = planned(make_config("trainer=ddp", "trainer.devices=2", f"data.forgetting_files=[{tmp_path}/short.txt]"))
    with pytest.raises(ConfigError, match=r"devices=2: .*forgetting has only 1 examples"):
        session.prepare(plan, tmp_path, [])


def test_names_are_shown_as_they_are(make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(make_config(f"run_dir='{tmp_path}/a[1]'", "name='[/b]'"))
    shown = capsys.readouterr().out
    assert "[/b]" in shown
    assert f"{tmp_path}/a[1]" in shown


def test_damaged_checkpoint_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "bad.ckpt").write_text("no checkpoint")
    with pytest.raises(ConfigError, match=r"ckpt=.*damaged"):
        train_run(make_config(f"ckpt={tmp_path}/bad.ckpt"))


def test_folder_of_somebody_else_is_left_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "checkpoints").mkdir(parents=True)
    (theirs / "checkpoints" / "precious.pt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"run_dir=.*neither empty nor a run's folder"):
        train_run(make_config(f"run_dir={theirs}", "force=true"))
    assert (theirs / "checkpoints" / "precious.pt").read_text() == "years of work"


def test_mistake_found_late_leaves_the_finished_run_as_it_was(make_config: MakeConfig, finished: Path) -> None:
    before = record.read(finished)
    for mistake in (
        "+peft.no_such_argument=1",
        "+optimizer.no_such_argument=1",
        "optimizer.weight_decay=-1",
        "+trainer.no_such_argument=1",
    ):
        with pytest.raises(ConfigError):
            train_run(make_config("force=true", mistake))
    assert record.read(finished) == before
    assert (finished / "adapter" / "adapter_model.safetensors").is_file()


def test_changed_text_is_another_run(make_config: MakeConfig, tmp_path: Path, text_file: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text(text_file.read_text())
    before = fingerprint(make_config(f"data.train_files=[{mine}]"))
    mine.write_text(text_file.read_text()[::-1])
    assert fingerprint(make_config(f"data.train_files=[{mine}]")) != before


def stop_after(config: Config, steps: int) -> None:
    """Let a run die in its `steps`-th optimizer step."""
    from qpa.training.module import FineTuning

    original = FineTuning.training_step

    def dying(self: FineTuning, batch: dict, index: int) -> torch.Tensor:
        if self.global_step == steps:
            raise SystemExit("power cut")
        return original(self, batch, index)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(FineTuning, "training_step", dying)
        train_run(config)
    assert record.read(folder_of(config))["train_info"]["status"] == "canceled"


@pytest.mark.parametrize(("log_every", "found_at"), [(1, 5), (5, 5), (50, 6)])  # a checkpoint follows steps 2, 4, 6 and 8
def test_non_finite_loss_stops_before_harm_and_keeps_the_last_checkpoint(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, log_every: int, found_at: int
) -> None:
    config = make_config("trainer.max_steps=8", f"trainer.log_every_n_steps={log_every}")
    collect = GeneratedAdaptation.collect
    calls: list[int] = []

    def poisoned(self: GeneratedAdaptation) -> None:
        if not self.collected:
            calls.append(1)
        if len(calls) == 5 and not self.collected:
            self.leaves.parameters[0].grad[0] = float("nan")
        collect(self)

    monkeypatch.setattr(GeneratedAdaptation, "collect", poisoned)
    with pytest.raises(NonFiniteLossError, match=rf"step {found_at}.*last\.ckpt"):
        train_run(config)
    kept = torch.load(folder_of(config) / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 4
    assert all(torch.isfinite(t).all() for t in kept["state_dict"].values())
    assert record.read(folder_of(config))["train_info"]["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [
        (["trainer.precision=32-true"], 1e-4),
        (["trainer.precision=bf16-mixed"], 1e-2),
        (["trainer.precision=32-true", "peft=dora", "model.gradient_checkpointing=true"], 1e-4),
    ],
)
def test_compiled_layers_train_as_plain_ones_do(make_config: MakeConfig, tmp_path: Path, overrides: list[str], tolerance: float) -> None:
    exact = [*overrides, "trainer.max_steps=3"]
    counters.clear()
    losses = []
    for compiled in (False, True):
        assert counters["frames"]["ok"] == 0
        folder, _ = train(make_config(*exact, f"trainer.compile={compiled}", f"run_dir={tmp_path}/{compiled}"))
        losses.append([float(row["train/loss"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row["train/loss"]])
    assert counters["frames"]["ok"] > 0
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)


def test_finished_run_is_shown_and_not_run_again(make_config: MakeConfig, finished: Path, capsys: pytest.CaptureFixture) -> None:
    first = record.read(finished)
    metrics = finished / "metrics.csv"
    curve = losses(metrics)
    metrics.write_text("not written again")
    _, second = train(make_config())
    assert first == second
    assert "Finished before" in capsys.readouterr().out
    assert metrics.read_text() == "not written again"
    train(make_config("force=true"))
    assert losses(metrics) == curve


def test_run_with_a_damaged_record_is_run_again(make_config: MakeConfig, finished: Path) -> None:
    (finished / "result.json").write_text('{"qpa": null}')  # other damages: test_hostile
    assert train(make_config())[1]["train_info"]["status"] == "success"


@pytest.mark.usefixtures("finished")
def test_finished_run_of_another_config_is_not_replaced(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="finished run of another config"):
        train_run(make_config("seed=2"))


@pytest.mark.parametrize("deterministic", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_equal_seeds_give_equal_runs_and_others_do_not(make_config: MakeConfig, tmp_path: Path, deterministic: bool) -> None:
    fixed = ["peft.lora_dropout=0.2", f"trainer.deterministic={deterministic}"]
    found = [
        train(make_config(f"run_dir={tmp_path}/{i}", f"seed={seed}", *fixed))[1]["qpa"]["test"]["perplexity"]
        for i, seed in enumerate([1, 1, 2])
    ]
    assert found[0] == found[1] != found[2]


def test_checkpoint_holds_only_what_is_trained(finished: Path) -> None:
    state = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    check_sums = 2 + 1  # of the start, and of the settings
    assert sum(t.numel() for t in state.values()) == record.read(finished)["qpa"]["params"]["trainable"] + check_sums


def test_wandb_writes_offline_into_the_runs_folder_only(make_config: MakeConfig) -> None:
    folder, _ = train(make_config("logger=wandb"))
    (offline,) = (folder / "wandb").glob("offline-run-*")
    (log,) = offline.glob("*.wandb")
    identity = (folder / WANDB_ID).read_text()
    assert identity in log.name
    content = log.read_bytes()
    for key in (b"train/seconds_per_step", b"train/gradient_norm"):
        assert key in content, key


TASK = """task: two_colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_target: answer
doc_to_choice: choices
metric_list: [{{metric: acc}}]
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_tasks_of_the_harness_are_measured_on_the_saved_adapter_and_on_the_base(
    make_config: MakeConfig, tmp_path: Path, method: str
) -> None:
    """The score of a choice is its NLL: what is more likely under the model is what the model answers."""
    documents = [{"question": f"The sky of day {n} is", "choices": [" blue", " green"], "answer": n % 2} for n in range(6)]
    (tmp_path / "data.json").write_text("\n".join(map(json.dumps, documents)))
    (tmp_path / "two_colours.yaml").write_text(TASK.format(data=tmp_path / "data.json"))
    folder, _ = train(make_config(f"peft={method}"))
    evaluate.main([f"run={folder}", f"tasks=[{tmp_path}/two_colours.yaml]"])
    found = json.loads((folder / "tasks.json").read_text())
    assert set(found) == {"adapted", "base"}
    config = record.load_config(folder)
    model = saved.load_adapter(planned(config).task.base(), folder / "adapter").eval()
    encoder = byte_encoder()
    right = [answer_of(model, encoder, document) == document["answer"] for document in documents]
    assert found["adapted"]["two_colours"]["acc"] == pytest.approx(sum(right) / len(right))
    with pytest.raises(ConfigError, match="no such task"):
        evaluate.main([f"run={folder}", "tasks=[no_such_thing]"])
    with pytest.raises(ConfigError, match="no such file"):
        evaluate.main([f"run={folder}", "tasks=[no_such_thing.yaml]"])


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["+peft.modules_to_save=[embed_tokens]"], ["peft.target_modules=[lm_head]"]])
def test_harness_leaves_a_head_and_an_embedding_apart_that_the_adapter_tells_apart(
    make_config: MakeConfig, tmp_path: Path, overrides: list[str]
) -> None:
    documents = [{"question": "The sky is", "choices": [" blue", " green"], "answer": 0}]
    (tmp_path / "data.json").write_text("\n".join(map(json.dumps, documents)))
    (tmp_path / "two_colours.yaml").write_text(TASK.format(data=tmp_path / "data.json"))
    folder, _ = train(make_config(*overrides, "generator=none", "optimizer.lr=0.05"))
    model = saved.load_adapter(planned(record.load_config(folder)).task.base(), folder / "adapter").eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        tasks.evaluate(model, byte_encoder(), [f"{tmp_path}/two_colours.yaml"], batch_size=1)
        assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.slow
def test_token_of_a_task_that_the_embedding_has_no_row_for_is_one_line(
    make_config: MakeConfig, saved_base: Callable[[str], Path], tmp_path: Path
) -> None:
    base = saved_base("smollm2")
    larger = byte_encoder().tokenizer
    larger.add_special_tokens([f"<token{n}>" for n in range(257, 307)])
    larger.save(str(base / "tokenizer.json"))
    folder, _ = train(make_config("model.weights=published", f"model.path={base}", "model.num_layers=null"))
    for number, problem in ((299, None), (300, r"tasks: .*token 300, .*only 300 rows")):
        document = {"question": f"The sky of <token{number}> is", "choices": [" blue", " green"], "answer": 0}
        (tmp_path / "data.json").write_text(json.dumps(document))
        (tmp_path / f"task{number}.yaml").write_text(TASK.format(data=tmp_path / "data.json").replace("two_colours", f"colours{number}"))
        with pytest.raises(UserError, match=problem) if problem else contextlib.nullcontext():
            evaluate.main([f"run={folder}", f"tasks=[{tmp_path}/task{number}.yaml]"])


def answer_of(model: torch.nn.Module, encoder: TextEncoder, document: dict) -> int:
    """The place of the choice with the smaller NLL after the question."""
    losses = []
    for choice in document["choices"]:
        (question, both) = encoder.encode([document["question"], document["question"] + choice], special_tokens=True)
        ids = torch.tensor([both])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -ids.shape[1] :][len(question) - 1 : -1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, len(question) :], reduction="sum").item())
    return losses.index(min(losses))


def test_forgetting_is_the_change_of_perplexity_on_another_text(make_config: MakeConfig, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Far out in the uncharted backwaters of the unfashionable end of the western spiral arm. " * 30)
    folder, result = train(make_config(f"data.forgetting_files=[{other}]"))
    found = result["qpa"]["forgetting"]
    assert found["change"] == pytest.approx(found["perplexity"] - found["base_perplexity"])
    evaluate.main([f"run={folder}", f"data.test_files=[{other}]", "data.forgetting_files=[]"])
    again = json.loads((folder / "evaluation.json").read_text())["test"]
    assert (again["perplexity"], again["base_perplexity"]) == pytest.approx((found["perplexity"], found["base_perplexity"]), rel=1e-5)


def test_overrides_of_a_finished_run_replace_keys_and_whole_groups(make_config: MakeConfig, finished: Path) -> None:
    _, config, options = named_run([f"run={finished}", "data=pydoc", "data.context=64", "merged=true"], usage="", options=("merged",))
    assert (config.data.source, config.data.context, options) == ("pydoc", 64, {"merged": "true"})
    assert config.peft == make_config().peft


@pytest.mark.parametrize("verb", [evaluate, export])
def test_folder_that_is_no_run_is_refused(tmp_path: Path, verb: object) -> None:
    with pytest.raises(ConfigError, match=r"run=.*no run folder"):
        verb.main([f"run={tmp_path}"])
    with pytest.raises(UsageError, match="usage: python -m qpa"):
        verb.main([])


def test_legacy_perplexity_is_logged_beside_the_honest_one_under_that_name_only(make_config: MakeConfig) -> None:
    """A paper experiment as it stands, but for size and text: padding makes its number flatter."""
    chunk = "mapper.chunk_size=64"
    folder, result = train(make_config("experiment=paper/gpt2_lora", chunk, "data.context=32", model="gpt2"))
    ours = result["qpa"]
    assert 1 < ours["legacy"]["base_perplexity"] != pytest.approx(ours["test"]["base_perplexity"], rel=0.01)
    evaluate.main([f"run={folder}"])
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["legacy"]["perplexity"] == pytest.approx(ours["legacy"]["perplexity"], rel=1e-5)
    columns = next(iter(csv.DictReader((folder / "metrics.csv").open())))
    assert [c for c in columns if "perplexity" in c] == ["legacy/perplexity", "val/perplexity"]


def test_record_has_no_numbers_that_were_not_asked_for(finished: Path) -> None:
    ours = record.read(finished)["qpa"]
    assert [ours.get(kind) for kind in ("legacy", "forgetting", "usage")] == [None] * 3


@pytest.mark.parametrize("method", ["prefix", "adapter"])
def test_method_that_changes_no_weights_is_not_merged(make_config: MakeConfig, method: str) -> None:
    folder, _ = train(make_config(f"peft={method}"))
    with pytest.raises(ConfigError, match=r"merged=true: .*no weights"):
        export.main([f"run={folder}", "merged=true"])
    assert not (folder / "merged").exists()


@pytest.mark.slow
def test_run_with_more_steps_goes_on_from_the_longest_one_with_fewer(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)

    def steps(count: int, *overrides: str) -> Config:
        return make_config("run_dir=null", "name=mine", f"trainer.max_steps={count}", *overrides)

    for config in (steps(2), steps(4), steps(4, "optimizer.lr=0.5")):
        train_run(config)
    shorter = folder_of(steps(4))
    capsys.readouterr()
    train_run(steps(6, "ckpt=last"))
    assert f"Goes on from {shorter}, whose steps were taken at the rates of a run of 4" in capsys.readouterr().out
    longer = folder_of(steps(6))
    assert record.read(longer)["qpa"]["resumed_from_step"] == 4
    found = [(step, numbers["val/perplexity"]) for step, numbers in history.read(longer) if "val/perplexity" in numbers]
    assert [step for step, _ in found] == [1, 3, 5]  # the curve from the first step
    best = torch.load(longer / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    assert best == min(found, key=lambda point: point[1])[0] + 1  # of all steps
    with pytest.raises(ConfigError, match=r"ckpt=last: there is no outputs/mine-.*last\.ckpt, nor a run of this config with fewer steps"):
        train_run(steps(6, "ckpt=last", "seed=3"))
    train_run(steps(5, "ckpt=auto"))  # which goes on from itself alone
    assert record.read(folder_of(steps(5)))["qpa"]["resumed_from_step"] == 0
