"""The task `language` itself: text in windows, a causal language model, next-token loss, perplexity."""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from qpa.adapters import base_weights
from qpa.config import Config, HubDataConfig, LanguageModelConfig, RowsDataConfig, TextDataConfig, expected
from qpa.config.context import Context
from qpa.config.identity import COMPUTATION
from qpa.core.layout import AdapterTensor
from qpa.errors import ConfigError
from qpa.files import cache_folder
from qpa.tasks.language import advice, checks, splits
from qpa.tasks.language.splits import Split
from qpa.tasks.pretrained import checks as pretrained
from qpa.tasks.pretrained import source, tokenizer
from qpa.tasks.pretrained.tokenizer import TextEncoder
from qpa.tasks.rows import hub
from qpa.tasks.task import Batch, Metric, Question, Task

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel

    from qpa.adapters.methods import AdaptedModel
    from qpa.tasks.language.answers import Asked
    from qpa.tasks.language.hidden_store import HiddenStore
    from qpa.tasks.language.reader import Reader
    from qpa.tasks.language.template import Template
    from qpa.tasks.language.windows import Windows


ANSWERED = 16  # prompts answered together


class Language(Task):
    """A causal language model learns a text."""

    metric: ClassVar[Metric] = Metric("perplexity", "", better="lower", scale="log")
    counted: ClassVar[str] = "tokens"
    also: ClassVar[Mapping[str, str]] = {"forgetting": "another text"}

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.model, self.data = _sections(config)
        self.stores: dict[str, HiddenStore] = {}

    def check(self) -> None:
        """Model, method and data by their settings alone."""
        pretrained.check(self.model, self.config.peft, context=self.data.context)
        if isinstance(self.data, RowsDataConfig):
            checks.check_packing(self.data, self.config.peft)
        if self.config.trainer.shards:
            checks.check_sharded(self.model, self.data)
        cache_folder(self.config.cache_dir)
        if isinstance(self.data, HubDataConfig):
            hub.check(self.data)

    def notes(self) -> list[str]:
        """Of a method that is slow on this model."""
        slow = "DoRA on lm_head multiplies out the whole head at every step: slow, and large in memory"
        return [slow] if checks.dense_head(self.config.peft) else []

    def advice(self) -> str | None:
        """By how much text there is."""
        return advice.of(self.data, self.config.peft)

    def resolved(self) -> Self:
        """bf16 where the GPU or the processor that is used is faster in it, else fp32.

        fp32 also where the method trains or rewrites weights of the base itself. What is computed with autocast follows, so that
        adapters are as fast as the model.
        """
        config, dtype = self.config, self.model.dtype
        if dtype == "auto":
            from qpa.tasks.numerics import fast_in_bf16  # torch: a second

            fast = not base_weights.changes_base(config.peft) and fast_in_bf16(config.trainer.accelerator)
            dtype = "bfloat16" if fast else "float32"
        precision = config.trainer.precision
        if precision == "auto":
            precision = "bf16-mixed" if dtype == "bfloat16" else "32-true"
        model = self.model.model_copy(update={"dtype": dtype})
        trainer = config.trainer.model_copy(update={"precision": precision})
        return self.of(config.model_copy(update={"model": model, "trainer": trainer}))

    @property
    def packing(self) -> bool:
        """Whether examples share windows: where it is left to the method, not behind soft prompts, which only the first would read."""
        given = self.data.packing if isinstance(self.data, RowsDataConfig) else False
        return not self.config.peft.get("num_virtual_tokens") if given is None else given

    def of(self, config: Config) -> Self:
        """Its model and data with it."""
        found = super().of(config)
        found.model, found.data = _sections(config)
        return found

    def known_tensors(self) -> list[AdapterTensor] | None:
        """Of LoRA, DoRA and Uni-LoRA on the architectures that `modules` has tables of."""
        return checks.known_tensors(self.model, self.config.peft)

    @cached_property
    def cache(self) -> Path:
        """The folder of converted models, windows and hidden states."""
        return cache_folder(self.config.cache_dir)

    @cached_property
    def folder(self) -> Path | None:
        """Of the base model's files, fetched or converted if need be; None for random weights."""
        return source.folder(self.model, self.cache)

    @cached_property
    def splits(self) -> dict[str, Split]:
        """What is learned and what is held out."""
        return splits.read(self.data, self.cache, speaks=self.context.first)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The model's tokenizer."""
        return tokenizer.load(self.folder)

    @cached_property
    def template(self) -> "Template | None":
        """Of conversations; None where there are none, or neither tokenizer nor config has one."""
        if not any(isinstance(split, splits.Examples) for split in self.splits.values()):
            return None
        from qpa.tasks.language import template

        return template.load(expected("data", self.data, RowsDataConfig).template, self.folder, self.encoder)

    @cached_property
    def windows(self) -> "dict[str, Windows]":
        """By split; tokens that the model has no row for are refused."""
        parts, encoder = self.splits, self.encoder
        from qpa.tasks.language import windows  # datasets, transformers: seconds
        from qpa.tasks.pretrained import base_model

        cutter = windows.Cutter(self.data, encoder, self.template, self.cache, packing=self.packing, speaks=self.context.first)
        cut = {name: cutter.windows(name, split) for name, split in parts.items()}
        if self.context.first:
            windows.say(parts, cut)
        base_model.check_tokens(self.model, self.folder, max(split.largest for split in cut.values()))
        return cut

    @property
    def dtype(self) -> "torch.dtype":
        """Of the base model's weights."""
        return torch_dtype(self.model.dtype)

    def content(self) -> dict[str, Any]:
        """Of the texts by split, and of `model.path`."""
        return {"texts": splits.digests(self.data, self.cache), "weights": source.weights(self.model)}

    def title(self) -> str:
        """As `SmolLM2-135M-Instruct on wikitext2/train.txt`."""
        return f"{source.title(self.model)} on {splits.title(self.data)}"

    def protocol(self) -> dict[str, Any]:
        """How text is cut into windows."""
        data = self.data
        bos = "one per window, where the model has one"
        return {"windows": data.protocol, "context": data.context, "stride": data.context, "bos": bos}

    def base_name(self) -> str | None:
        """On the hub, or as a path."""
        return source.published_name(self.model)

    def full(self) -> int:
        """Tokens that a micro-batch of full windows predicts."""
        return self.data.batch_size * (self.data.context - 1)

    def examples(self) -> int:
        """Windows."""
        return len(self.windows["train"])

    def amount(self) -> int:
        """Tokens of all windows, their first ones too."""
        return self.data.context * self.share.of_a_step * self.steps

    def read(self) -> None:
        """Of the text, which may be missing or empty, all that need not be fetched."""
        if not isinstance(self.data, HubDataConfig):
            _ = self.splits

    def fetch(self) -> None:
        """The text, and the model's files."""
        _ = self.splits, self.encoder

    def prepare(self) -> None:
        """Tokenise and cut the text."""
        _ = self.windows

    def train_loader(self, *, from_step: int) -> "DataLoader":
        """Windows in a seeded order."""
        from qpa.tasks.loaders import train_loader

        return train_loader(self.windows["train"], self.share, seed=self.config.seed, from_step=from_step, steps=self.steps)

    def held_out(self) -> "dict[str, DataLoader]":
        """Windows in the order of the text."""
        from qpa.tasks.loaders import held_out_loader

        splits = [split for split in ("val", "test", *self.also) if split in self.windows]
        return {split: held_out_loader(self.windows[split], self.share, split=split) for split in splits}

    def probe(self) -> Batch:
        """The first window of the validation text."""
        import torch

        return {"input_ids": self.windows["val"][0]["input_ids"][None], "index": torch.tensor([0])}

    def questions(self) -> "list[Asked]":
        """The test split's first prompts."""
        split, data = self.splits["test"], self.data
        if not isinstance(split, splits.Examples) or not isinstance(data, RowsDataConfig):
            return []
        from qpa.tasks.language import answers
        from qpa.tasks.language.examples import Writer

        writer = Writer(split.form, self.template, self.encoder, data)
        return answers.questions(split.rows, writer, most=data.generate, longest=data.context)

    def answers(self, model: "nn.Module", questions: Sequence[Question]) -> list[str]:
        """Greedy ones."""
        from qpa.tasks.language import answers, generation

        data, encoder = expected("data", self.data, RowsDataConfig), self.encoder
        prompts = [cast("Asked", question).ids for question in questions]
        stop = answers.stops(self.folder, encoder, self.template)
        how: Any = {"pad": encoder.eos, "stop": stop, "most": data.answer_tokens, "batch_size": ANSWERED}
        found = generation.answers(cast(Any, model), prompts, **how)
        return [encoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in found]

    def marks(self, answers: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        """By `data.answer_metrics`."""
        from qpa.tasks.language import answers as marking

        data = expected("data", self.data, RowsDataConfig)
        return marking.marked(answers, questions, by=marking.marks(data.answer_metrics))

    def skeleton(self) -> "nn.Module":
        """Of `model.path`, the config, or the hub's config.json."""
        from qpa.tasks.pretrained import base_model

        return base_model.load(self.model, source.config_folder(self.model), dtype=self.dtype, device=base_model.META)

    def base(self, *, own: bool = False) -> "PreTrainedModel":
        """On weights that stay loaded, for the next run of a sweep too, or in memory of its own: always where processes share it out."""
        from qpa.tasks.numerics import home
        from qpa.tasks.pretrained import base_model

        kept, model, device = self.context.kept, self.model, home(self.config.trainer.accelerator)
        if self.config.trainer.shards:
            return base_model.load(model, self.folder, dtype=self.dtype, seed=self.config.seed)
        seed = self.config.seed if self.folder is None else None
        key = ("base", model.model_dump_json(), *source.weights(model), self.folder, seed, device)
        if key not in kept:
            kept.clear()  # first: two would not always fit
            kept[key] = base_model.load(model, self.folder, dtype=self.dtype, seed=self.config.seed, device=device)
        shared = base_model.sharing_weights(kept[key])
        return copy.deepcopy(shared) if own else shared

    def base_file(self) -> Path:
        """In the cache: of this model, read in this way by this machine, on these windows."""
        import torch
        import transformers

        from qpa.tasks.numerics import home

        on_gpu = home(self.config.trainer.accelerator).type == "cuda"
        machine = torch.cuda.get_device_name() if on_gpu else torch.backends.cpu.get_cpu_capability()
        model = source.identity(self.model, self.folder, seed=self.config.seed)
        versions = (torch.__version__, transformers.__version__, COMPUTATION, "pieces")
        read = (self.dtype, self.data.protocol, self.data.batch_size, machine, *versions)
        windows = [(split, held_out.key, len(held_out)) for split, held_out in self.windows.items() if split != "train"]
        name = hashlib.sha256(repr((model, source.weights(self.model), read, windows)).encode()).hexdigest()[:24]
        return self.cache / "base" / f"{name}.json"

    def _packed(self) -> bool:
        return any("positions" in split.rows.column_names for split in self.windows.values())

    def save_merged(self, adapted: Callable[["nn.Module"], "AdaptedModel"], folder: Path) -> None:
        """Of the base model as it was before it was quantised, and in fp32."""
        from qpa.tasks.language import merged
        from qpa.tasks.pretrained import base_model

        exact = self.model.model_copy(update={"quantization": None, "dtype": "float32"})
        base = base_model.load(exact, self.folder, dtype=torch_dtype("float32"), seed=self.config.seed)
        merged.save(adapted(base), folder, vocabulary=base.config.get_text_config().vocab_size, beside=self.folder)

    def learner(self, model: "nn.Module", *, trained: bool = False) -> "Reader":
        """Body and head read windows; a trained model's hidden states are kept where that is right."""
        from qpa.tasks.language import hidden_states
        from qpa.tasks.language.language_model import LanguageModel
        from qpa.tasks.language.reader import Reader
        from qpa.tasks.numerics import on_gpu

        config = self.config
        try:
            language = LanguageModel(cast(Any, model))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError("peft", config.peft["_target_"], f"the adapted model does not run: {reason}") from error
        if self._packed() and not language.keeps_apart():
            problem = "this model reads an example together with those before it in its window; set it to false"
            raise ConfigError("data.packing", True, problem)
        if trained and self.model.gradient_checkpointing:
            again = {"use_reentrant": False, "preserve_rng_state": language.draws()}  # the state cannot be read while a step is recorded
            language.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=again)
        if trained and not config.trainer.shards:  # what one process finds in a store, another would wait for it to compute
            device = on_gpu(config.trainer.accelerator)
            body = f"{source.identity(self.model, self.folder, seed=config.seed)}|{device}"
            self.stores = hidden_states.opened(self.data, language, self.windows, self.cache, body=body, train_as=config.trainer.precision)
        return Reader(language, self.stores, paper_protocol=self.data.protocol == "paper")


def _sections(config: Config) -> tuple[LanguageModelConfig, TextDataConfig]:
    """The groups `model` and `data`, of kinds that are read here."""
    return expected("model", config.model, LanguageModelConfig), expected("data", config.data, TextDataConfig)


def torch_dtype(name: str) -> "torch.dtype":
    """By its name."""
    import torch

    return getattr(torch, name)


TASK = Language
