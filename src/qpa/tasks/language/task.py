"""The task `language` itself: text in windows, a causal language model, next-token loss, perplexity."""

import copy
import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from qpa.adapters import base_weights
from qpa.config import Config, HubDataConfig, LanguageModelConfig, TextDataConfig, expected
from qpa.config.context import Context
from qpa.config.identity import COMPUTATION
from qpa.core.layout import AdapterTensor
from qpa.errors import ConfigError
from qpa.files import cache_folder
from qpa.tasks.language import checks, hub_data, text
from qpa.tasks.pretrained import checks as pretrained
from qpa.tasks.pretrained import source, tokenizer
from qpa.tasks.pretrained.tokenizer import TextEncoder
from qpa.tasks.task import Batch, Metric, Task

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel

    from qpa.adapters.methods import AdaptedModel
    from qpa.tasks.language.hidden_store import HiddenStore
    from qpa.tasks.language.reader import Reader
    from qpa.tasks.language.windows import Windows


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
        if self.config.trainer.shards:
            checks.check_sharded(self.model, self.data)
        cache_folder(self.config.cache_dir)
        if isinstance(self.data, HubDataConfig):
            hub_data.check(self.data)

    def notes(self) -> list[str]:
        """Of a method that is slow on this model."""
        slow = "DoRA on lm_head multiplies out the whole head at every step: slow, and large in memory"
        return [slow] if checks.dense_head(self.config.peft) else []

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
    def texts(self) -> text.Texts:
        """What is learned and what is held out."""
        return text.read(self.data, speaks=self.context.first)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The model's tokenizer."""
        return tokenizer.load(self.folder)

    @cached_property
    def windows(self) -> "dict[str, Windows]":
        """By split; tokens that the model has no row for are refused."""
        texts, encoder = self.texts, self.encoder
        from qpa.tasks.language import windows  # datasets, transformers: seconds
        from qpa.tasks.pretrained import base_model  # datasets, transformers: seconds

        cut = windows.cut(self.data, texts, encoder, self.cache)
        base_model.check_tokens(self.model, self.folder, max(split.largest for split in cut.values()))
        return cut

    @property
    def dtype(self) -> "torch.dtype":
        """Of the base model's weights."""
        return torch_dtype(self.model.dtype)

    def content(self) -> dict[str, Any]:
        """Of the texts by split, and of `model.path`."""
        return {"texts": text.digests(self.data), "weights": source.weights(self.model)}

    def title(self) -> str:
        """As `SmolLM2-135M-Instruct on wikitext2/train.txt`."""
        return f"{source.title(self.model)} on {text.title(self.data)}"

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

    def amount(self) -> int:
        """Tokens of all windows, their first ones too."""
        return self.data.context * self.share.of_a_step * self.config.trainer.max_steps

    def read(self) -> None:
        """Of the text, which may be missing or empty, all that need not be fetched."""
        if not isinstance(self.data, HubDataConfig):
            _ = self.texts

    def fetch(self) -> None:
        """The text, and the model's files."""
        _ = self.texts, self.encoder

    def prepare(self) -> None:
        """Tokenise and cut the text."""
        _ = self.windows

    def train_loader(self, *, from_step: int) -> "DataLoader":
        """Windows in a seeded order."""
        from qpa.tasks.loaders import train_loader

        config = self.config
        return train_loader(self.windows["train"], self.share, seed=config.seed, from_step=from_step, steps=config.trainer.max_steps)

    def held_out(self) -> "dict[str, DataLoader]":
        """Windows in the order of the text."""
        from qpa.tasks.loaders import held_out_loader

        splits = [split for split in ("val", "test", *self.also) if split in self.windows]
        return {split: held_out_loader(self.windows[split], self.share, split=split) for split in splits}

    def probe(self) -> Batch:
        """The first window of the validation text."""
        import torch

        return {"input_ids": self.windows["val"][0]["input_ids"][None], "index": torch.tensor([0])}

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
        read = (self.dtype, self.data.protocol, self.data.batch_size, machine, torch.__version__, transformers.__version__, COMPUTATION)
        windows = [(split, held_out.key, len(held_out)) for split, held_out in self.windows.items() if split != "train"]
        name = hashlib.sha256(repr((model, source.weights(self.model), read, windows)).encode()).hexdigest()[:24]
        return self.cache / "base" / f"{name}.json"

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
