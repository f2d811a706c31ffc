"""Other people's training loops: each trains for real, stops and goes on, and equals the same steps in a plain loop."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from conftest import ROOT
from datasets import Dataset
from peft import PeftModel
from pytorch_lightning import LightningModule
from pytorch_lightning import Trainer as Lightning
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from tiny import TEXT, adapted, logits, loss, moved, reloaded, weights, windows
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments, get_scheduler
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import qpa
from qpa.errors import UserError

STEPS, SIZE = 6, 4


@pytest.fixture(autouse=True)
def _accelerate_begins_anew() -> Iterator[None]:
    """It keeps what the first of a process has set."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def generated(seed: int = 0, *, dropout: float = 0.0) -> tuple[qpa.Generated, Optimizer]:
    """A tiny model's adapter, drawn from a seed, and the optimizer of what makes it."""
    found = qpa.generate(adapted(seed, dropout=dropout), seed=1)
    return found, found.optimizer(AdamW, lr=1e-2)


def comparable() -> tuple[qpa.Generated, Optimizer]:
    """The same where a gradient's size shows in the step, and rounding does not."""
    found = moved(qpa.generate(adapted(), seed=1))
    return found, found.optimizer(SGD, lr=5.0, momentum=0.9)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(map(torch.equal, first, second))


@contextmanager
def batches_of(model: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """What the model is called with in training, copied, as it comes."""
    seen: list[dict[str, Any]] = []

    def note(module: nn.Module, _: tuple[()], kwargs: dict[str, Any]) -> None:
        if module.training:
            seen.append({name: v.clone() if isinstance(v, Tensor) else v for name, v in kwargs.items()})

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


# transformers


class StopAt(TrainerCallback):
    """Ends training after so many steps, having saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = control.should_save = state.global_step == self.step


def transformers_trainer(folder: Path, of: tuple[qpa.Generated, Optimizer], *, scheduler: Any = None, **settings: Any) -> Trainer:
    """Of six steps."""
    found, optimizer = of
    data = {"train_dataset": [{"input_ids": window, "labels": window} for window in windows(2 * STEPS * SIZE)]}
    data["eval_dataset"] = data["train_dataset"][:8]
    defaults = {"max_steps": STEPS, "per_device_train_batch_size": SIZE, "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(str(folder), **defaults | {"logging_strategy": "no"} | settings)
    return Trainer(found.module, arguments, **data, optimizers=(optimizer, scheduler))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"max_grad_norm": 0.5},
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"lr_scheduler_type": "cosine", "warmup_steps": 2},
    ],
    ids=lambda settings: " ".join(settings) or "plain",
)
def test_transformers_trainer_equals_a_plain_loop(settings: dict[str, Any], tmp_path: Path) -> None:
    ours, (found, optimizer) = comparable(), comparable()
    with batches_of(ours[0].module) as seen:
        transformers_trainer(tmp_path, ours, **settings).train()
    batches = torch.stack([batch["input_ids"] for batch in seen])
    kind, warmup = settings.get("lr_scheduler_type", "linear"), settings.get("warmup_steps", 0)
    rates = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=STEPS)
    for step in batches.view(STEPS, -1, SIZE, 32):
        for batch in step:
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.get("bf16", False)):
                (loss(found.module, batch) / len(step)).backward()
        nn.utils.clip_grad_norm_(found.module.parameters(), settings.get("max_grad_norm", 1.0))
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(ours[0]), weights(found), rtol=1e-3, atol=1e-4)
    assert not same(weights(found), weights(comparable()[0]))


def test_transformers_trainer_takes_a_scheduler_that_is_given(tmp_path: Path) -> None:
    found, optimizer = generated()
    scheduler = CosineAnnealingLR(optimizer, T_max=STEPS)
    transformers_trainer(tmp_path, (found, optimizer), scheduler=scheduler).train()
    assert scheduler.last_epoch == STEPS
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)


@pytest.mark.parametrize("given", [False, True], ids=["its own scheduler", "a scheduler that is given"])
def test_transformers_trainer_goes_on_from_its_checkpoint_bit_for_bit(given: bool, tmp_path: Path) -> None:
    def trainer(of: tuple[qpa.Generated, Optimizer]) -> Trainer:
        scheduler = CosineAnnealingLR(of[1], T_max=STEPS) if given else None
        return transformers_trainer(tmp_path, of, scheduler=scheduler)

    whole, stopped, resumed = generated(dropout=0.1), generated(dropout=0.1), generated(seed=9, dropout=0.1)
    trainer(whole).train()
    first = trainer(stopped)
    first.add_callback(StopAt(3))
    first.train()
    assert not same(weights(stopped[0]), weights(whole[0]))
    last = trainer(resumed)
    last.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert last.state.global_step == STEPS
    assert same(weights(resumed[0]), weights(whole[0]))
    assert same(list(resumed[0].parameters()), list(whole[0].parameters()))


def test_transformers_trainer_learns_and_saves_a_plain_adapter(tmp_path: Path) -> None:
    of = generated()
    trainer = transformers_trainer(tmp_path, of, max_steps=30, logging_strategy="steps", logging_steps=5)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.3
    trainer.save_model()
    assert torch.equal(logits(reloaded(tmp_path)), logits(of[0].module))


def test_best_weights_that_transformers_trainer_loads_at_its_end_are_those_that_are_saved(tmp_path: Path) -> None:
    """They are an earlier step's, and not what the generator makes now: a compact file of it would hold others."""
    found, optimizer = generated()
    often = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 1, "eval_steps": 1}
    trainer = transformers_trainer(tmp_path, (found, optimizer), load_best_model_at_end=True, label_names=["labels"], **often)
    optimizer.param_groups[0]["lr"] = 3.0  # so that the last is not the best
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best is not None and best != str(tmp_path / f"checkpoint-{STEPS}")
    trainer.save_model(str(tmp_path / "best"))
    assert torch.equal(logits(reloaded(tmp_path / "best")), logits(reloaded(Path(best))))
    with pytest.raises(UserError, match="something else has changed it"):
        found.save(tmp_path / "compact")


# TRL


def tokenizer() -> PreTrainedTokenizerFast:
    """A token is a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_alone = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "<eos>"])}, merges=[]))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=bytes_alone, eos_token="<eos>", pad_token="<eos>")


def text(count: int, length: int) -> list[str]:
    return [bytes(part.tolist()).decode(errors="replace") for part in TEXT[: count * length].view(count, length)]


def trl_settings(kind: Callable[..., Any], folder: Path, **settings: Any) -> Any:
    """bf16 and gradient checkpointing are what TRL has as default."""
    return kind(
        str(folder), per_device_train_batch_size=SIZE, use_cpu=True, save_strategy="no", logging_steps=5, disable_tqdm=True, **settings
    )


def without_autocast(trainer: Trainer) -> nn.Module:
    """The model as it was before the trainer wrapped its forward pass."""
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def test_sft_equals_a_plain_loop(tmp_path: Path) -> None:
    ours, (found, optimizer) = comparable(), comparable()
    settings = trl_settings(SFTConfig, tmp_path, max_steps=STEPS, max_length=32, lr_scheduler_type="constant", bf16=False)
    data = Dataset.from_dict({"text": text(STEPS * SIZE, 24)})
    trainer = SFTTrainer(ours[0].module, settings, train_dataset=data, processing_class=tokenizer(), optimizers=(ours[1], None))
    with batches_of(ours[0].module) as seen:
        trainer.train()
    for batch in seen:
        found.module(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss.backward()
        nn.utils.clip_grad_norm_(found.module.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(ours[0]), weights(found), rtol=1e-3, atol=1e-4)


def test_sft_as_it_is_by_default_learns_and_saves_a_plain_adapter(tmp_path: Path) -> None:
    found, optimizer = generated()
    settings = trl_settings(SFTConfig, tmp_path, max_steps=30, max_length=32)
    assert settings.bf16 and settings.gradient_checkpointing
    data = Dataset.from_dict({"text": text(30 * SIZE, 24)})
    trainer = SFTTrainer(found.module, settings, train_dataset=data, processing_class=tokenizer(), optimizers=(optimizer, None))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.3
    trainer.save_model()
    assert torch.equal(logits(reloaded(tmp_path)), logits(without_autocast(trainer)))


def test_dpo_learns_what_is_preferred_against_its_own_frozen_start(tmp_path: Path) -> None:
    found, optimizer = generated()
    start = {name: p.detach().clone() for name, p in found.module.named_parameters() if ".default." in name}
    lines = text(30 * SIZE, 24)
    data = Dataset.from_dict({"prompt": [t[:8] for t in lines], "chosen": [t[8:] for t in lines], "rejected": [t[:7:-1] for t in lines]})
    settings = trl_settings(DPOConfig, tmp_path, max_steps=30, beta=0.5)
    trainer = DPOTrainer(found.module, args=settings, train_dataset=data, processing_class=tokenizer(), optimizers=(optimizer, None))
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged[-1]["loss"] < 0.6 < logged[0]["loss"]
    assert logged[-1]["rewards/margins"] > logged[0]["rewards/margins"] + 0.3
    now = dict(found.module.named_parameters())
    assert all(torch.equal(now[name.replace(".default.", ".ref.")], p) for name, p in start.items())
    found.module.save_pretrained(tmp_path, selected_adapters=["default"])
    assert torch.equal(logits(reloaded(tmp_path)), logits(without_autocast(trainer)))


# Accelerate

LOOP = """
import sys, torch
from accelerate import Accelerator
from test_trainers import accelerated, comparable, weights

found, optimizer = comparable()
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
assert accelerator.num_processes == 2
accelerated(accelerator, found.module, optimizer, size=2)
torch.save(weights(found), f"{sys.argv[1]}/{accelerator.process_index}.pt")
"""


def accelerated(accelerator: Accelerator, model: PeftModel, optimizer: Optimizer, *, size: int = SIZE, epochs: int = 1) -> None:
    """Accelerate's own way to write a loop, over the same text in every epoch."""
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(windows(2 * STEPS * SIZE), batch_size=size))
    for batch in [batch for _ in range(epochs) for batch in loader]:
        with accelerator.accumulate(model):
            accelerator.backward(loss(model, batch))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()


def by_plain_loop(of: tuple[qpa.Generated, Optimizer]) -> list[Tensor]:
    """Weights after the same steps."""
    found, optimizer = of
    for batch in windows(2 * STEPS * SIZE).split(2 * SIZE):
        loss(found.module, batch).backward()
        nn.utils.clip_grad_norm_(found.module.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    return weights(found)


def test_accelerate_equals_a_plain_loop() -> None:
    found, optimizer = comparable()
    accelerated(Accelerator(cpu=True, gradient_accumulation_steps=2), found.module, optimizer)
    torch.testing.assert_close(weights(found), by_plain_loop(comparable()), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_of_accelerate_equal_a_plain_loop(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(LOOP)
    paths = [ROOT / "src", ROOT / "tests", ROOT / "tests/library"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", tmp_path / "loop.py", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{process}.pt") for process in range(2))
    assert same(first, second)
    torch.testing.assert_close(first, by_plain_loop(comparable()), rtol=1e-3, atol=1e-4)


def test_accelerate_goes_on_from_its_saved_state_bit_for_bit(tmp_path: Path) -> None:
    whole, stopped, resumed = generated(), generated(), generated(seed=9)
    accelerated(Accelerator(cpu=True), whole[0].module, whole[1], epochs=2)

    accelerator = Accelerator(cpu=True)
    accelerated(accelerator, stopped[0].module, stopped[1])
    accelerator.save_state(str(tmp_path))

    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(resumed[0].module, resumed[1])
    accelerator.load_state(str(tmp_path))
    assert same(weights(resumed[0]), weights(stopped[0]))
    accelerated(accelerator, model, optimizer)
    assert same(weights(resumed[0]), weights(whole[0]))


# Lightning


class FineTuning(LightningModule):
    """As a user of Lightning would write it."""

    def __init__(self, of: tuple[qpa.Generated, Optimizer]) -> None:
        super().__init__()
        self.generated, self.optimizer = of
        self.model = self.generated.module

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        return loss(self.model, batch)

    def configure_optimizers(self) -> Any:
        return [self.optimizer], [{"scheduler": CosineAnnealingLR(self.optimizer, T_max=2 * STEPS), "interval": "step"}]


def lightning(folder: Path, **settings: Any) -> Lightning:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Lightning(accelerator="cpu", default_root_dir=folder, **quiet | settings)


def loader() -> DataLoader:
    return DataLoader(windows(2 * STEPS * SIZE), batch_size=SIZE)


def test_lightning_equals_a_plain_loop(tmp_path: Path) -> None:
    ours, (found, optimizer) = comparable(), comparable()
    lightning(tmp_path, max_epochs=1, accumulate_grad_batches=2).fit(FineTuning(ours), loader())
    rates = CosineAnnealingLR(optimizer, T_max=2 * STEPS)
    for batch in windows(2 * STEPS * SIZE).split(2 * SIZE):
        loss(found.module, batch).backward()
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(ours[0]), weights(found), rtol=1e-3, atol=1e-4)


def test_lightning_may_leave_the_steps_to_the_module(tmp_path: Path) -> None:
    class Manual(FineTuning):
        automatic_optimization = False

        def training_step(self, batch: Tensor, _: int) -> None:
            self.manual_backward(loss(self.model, batch))
            self.optimizers().step()
            self.optimizers().zero_grad()
            self.lr_schedulers().step()

    ours, theirs = generated(), generated()
    for module in (Manual(ours), FineTuning(theirs)):
        lightning(tmp_path, max_epochs=1).fit(module, loader())
    assert same(weights(ours[0]), weights(theirs[0]))


@pytest.mark.parametrize("given", [{"gradient_clip_val": 1e-4}, {"gradient_clip_val": 1e-4, "precision": "bf16-mixed"}])
def test_lightning_clips_the_gradient_of_what_is_trained(given: dict[str, Any], tmp_path: Path) -> None:
    def optimizer(found: qpa.Generated, **settings: Any) -> tuple[qpa.Generated, Optimizer]:
        return found, found.optimizer(SGD, lr=100.0, **settings)

    ours, theirs, unclipped = optimizer(comparable()[0]), optimizer(comparable()[0], max_norm=1e-4), optimizer(comparable()[0])
    lightning(tmp_path, max_epochs=1, **given).fit(FineTuning(ours), loader())
    for of in (theirs, unclipped):
        lightning(tmp_path, max_epochs=1, precision=given.get("precision")).fit(FineTuning(of), loader())
    assert same(weights(ours[0]), weights(theirs[0]))
    assert not same(weights(ours[0]), weights(unclipped[0]))


def test_lightning_goes_on_from_its_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    whole, stopped, resumed = generated(), generated(), generated(seed=9)
    lightning(tmp_path, max_epochs=2).fit(FineTuning(whole), loader())
    first = lightning(tmp_path, max_epochs=1)
    first.fit(FineTuning(stopped), loader())
    first.save_checkpoint(tmp_path / "first.ckpt")
    assert not same(weights(stopped[0]), weights(whole[0]))
    lightning(tmp_path, max_epochs=2).fit(FineTuning(resumed), loader(), ckpt_path=str(tmp_path / "first.ckpt"))
    assert same(weights(resumed[0]), weights(whole[0]))
    assert same(list(resumed[0].parameters()), list(whole[0].parameters()))


# Stable-Baselines3


def agent(**settings: Any) -> tuple[PPO, qpa.Generated]:
    """PPO on CartPole, every weight of its policy generated."""
    made = PPO("MlpPolicy", "CartPole-v1", learning_rate=3e-3, seed=1, device="cpu", **settings)
    found = qpa.generate(made.policy, seed=1)
    made.policy.optimizer = found.optimizer(torch.optim.Adam, lr=1.0)
    return made, found


def says(policy: ActorCriticPolicy) -> Tensor:
    """A policy's values and the logits of its actions."""
    observations = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.cat([policy.predict_values(observations), policy.get_distribution(observations).distribution.logits], dim=1)


def test_ppo_changes_what_is_generated_and_saves_a_plain_policy(tmp_path: Path) -> None:
    trained, found = agent(n_steps=64, batch_size=32)
    before = says(trained.policy)
    trained.learn(128)
    assert (says(trained.policy) - before).abs().max() > 0.1
    assert trained.policy.optimizer.param_groups[0]["lr"] == 3e-3  # PPO's own
    assert found.counts.plain_peft == sum(p.numel() for p in trained.policy.parameters())
    trained.policy.save(str(tmp_path / "policy.pt"))
    assert torch.equal(says(ActorCriticPolicy.load(str(tmp_path / "policy.pt"))), says(trained.policy))


def test_agent_with_a_stock_optimizer_again_is_a_plain_one(tmp_path: Path) -> None:
    trained, _ = agent(n_steps=64, batch_size=32)
    trained.learn(64)
    trained.policy.optimizer = torch.optim.Adam(trained.policy.parameters())  # PPO.load puts a saved optimizer's state into such a one
    trained.save(tmp_path / "agent.zip")
    assert torch.equal(says(PPO.load(tmp_path / "agent.zip").policy), says(trained.policy))


def test_ppo_takes_its_parameters_back_from_a_saved_agent(tmp_path: Path) -> None:
    trained, found = agent(n_steps=64, batch_size=32)
    trained.learn(64)
    trained.save(tmp_path / "agent.zip")
    again, other = agent(n_steps=64, batch_size=32)
    again.set_parameters(str(tmp_path / "agent.zip"))
    assert torch.equal(says(again.policy), says(trained.policy))
    assert same(list(other.parameters()), list(found.parameters()))
    torch.testing.assert_close(again.policy.optimizer.state_dict()["state"], trained.policy.optimizer.state_dict()["state"], rtol=0, atol=0)


@pytest.mark.slow
def test_ppo_learns_cartpole() -> None:
    trained, found = agent(n_steps=1024, batch_size=128)
    before, _ = evaluate_policy(trained, trained.get_env(), n_eval_episodes=20)
    trained.learn(15_000)
    after, _ = evaluate_policy(trained, trained.get_env(), n_eval_episodes=20)
    assert before < 60
    assert after > 300
    assert found.counts.ratio < 0.5
