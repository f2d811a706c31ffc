"""The task `classification` itself: labelled texts or pairs of texts, a model with a new head, macro-F1."""

import copy
import json
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from qpa import files
from qpa.config import Config, FilesDataConfig, HubDataConfig, LanguageModelConfig, RowsDataConfig, expected
from qpa.config.context import Context
from qpa.errors import ConfigError
from qpa.tasks.classification import columns
from qpa.tasks.classification import labels as labelled
from qpa.tasks.classification.columns import Columns
from qpa.tasks.classification.labels import Labels
from qpa.tasks.pretrained import checks, source, tokenizer
from qpa.tasks.pretrained.modules import HEADS_OF_LABELS
from qpa.tasks.pretrained.tokenizer import TextEncoder
from qpa.tasks.rows import reading
from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.reading import Rows
from qpa.tasks.task import Batch, Metric, Task

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel

    from qpa.tasks.classification.classifier import Classifier
    from qpa.tasks.classification.texts import Texts

SEQ_CLS = "SEQ_CLS"
LABELS_FILE = "labels.json"  # beside an exported adapter
PROBED = 4  # examples by which a saved adapter is compared with the trained model
FILLED = 8  # tokens of padding, which may change nothing
CLOSE = 1e-2  # of the logits' spread


class Classification(Task):
    """A model learns to tell texts' labels."""

    metric: ClassVar[Metric] = Metric("macro_f1", "", better="higher")
    counted: ClassVar[str] = "examples"

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.model, self.data = _sections(config)

    def check(self) -> None:
        """Model, method and data by their settings alone."""
        checks.check(self.model, self.config.peft, context=self.data.context)
        if self.model.dtype == "bfloat16":
            raise ConfigError("model.dtype", "bfloat16", "the new head would be trained in it; give float32 or auto")
        if self.data.too_long == "split":
            raise ConfigError("data.too_long", "split", "a text's label is of the whole text; cut or drop")
        if self.data.forgetting_files:
            raise ConfigError("data.forgetting_files", "...", "another text has other labels; leave it out")
        if self.data.train_bytes:
            raise ConfigError("data.train_bytes", self.data.train_bytes, "labelled texts are not cut so; leave it out, or give fewer rows")
        files.cache_folder(self.config.cache_dir)

    def resolved(self) -> Self:
        """In fp32, as what trains weights that stand in the model itself; the PEFT method is one for labels, whatever its config said."""
        config = self.config
        ours = config.peft["_target_"].startswith("qpa.")
        method = {"modules_to_save": list(HEADS_OF_LABELS)} if ours else {"task_type": SEQ_CLS}
        trainer = config.trainer
        precision = "32-true" if trainer.precision == "auto" else trainer.precision
        return self.of(
            config.model_copy(
                update={
                    "model": self.model.model_copy(update={"dtype": "float32"}),
                    "peft": config.peft | method,
                    "trainer": trainer.model_copy(update={"precision": precision}),
                }
            )
        )

    def of(self, config: Config) -> Self:
        """Its model and data with it."""
        found = super().of(config)
        found.model, found.data = _sections(config)
        return found

    @cached_property
    def cache(self) -> Path:
        """The folder of converted models."""
        return files.cache_folder(self.config.cache_dir)

    @cached_property
    def folder(self) -> Path | None:
        """Of the base model's files, fetched or converted if need be; None for random weights."""
        return source.folder(self.model, self.cache)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The model's tokenizer."""
        return tokenizer.load(self.folder)

    @cached_property
    def faults(self) -> Faults:
        """Rows that cannot be used."""
        return Faults("data", skip=self.data.skip_bad)

    @cached_property
    def rows(self) -> dict[str, Rows]:
        """By split, those that are given."""
        found = reading.read(cast(FilesDataConfig | HubDataConfig, self.data), self.cache, self.faults)
        if "val" not in found and self.data.val_fraction is None:
            raise ConfigError("data.val_fraction", None, "give a share of the training rows, as 0.1, or data with a validation split")
        return found

    @cached_property
    def columns(self) -> Columns:
        """Of texts and labels."""
        return columns.find(self.data, self.rows["train"])

    @cached_property
    def labels(self) -> Labels:
        """Of the training rows, also of those that are held out of them."""
        return labelled.of(self.rows["train"], self.columns, self.faults)

    @cached_property
    def pad(self) -> int:
        """The token that fills: the model's own, else the one that ends a text."""
        own = (source.architecture(self.model) or {}).get("pad_token_id") if self.folder is None else _saved_pad(self.folder)
        return own if isinstance(own, int) and own >= 0 else self.encoder.eos

    @cached_property
    def texts(self) -> "dict[str, Texts]":
        """By split, as tokens; what the model has no row for is refused, and a line says what was found."""
        from qpa.tasks.classification.texts import Encoded, split
        from qpa.tasks.pretrained import base_model

        encoded = Encoded(self.data, self.encoder, self.labels, self.pad)
        found = {name: encoded.texts(given, self.columns, self.faults) for name, given in self.rows.items()}
        if "val" not in found:
            found["train"], found["val"] = _held_out(found["train"], self.data.val_fraction or 0, *self.rows["train"].key, split)
        if "test" not in found:
            found["val"], found["test"] = _held_out(found["val"], 0.5, *self.rows.get("val", self.rows["train"]).key, split)
        width = max(texts.longest for texts in found.values())
        for texts in found.values():
            texts.width = width
        base_model.check_tokens(self.model, self.folder, max(self.pad, *(texts.largest for texts in found.values())))
        self._say(found, encoded.too_long)
        most = self.data.max_held_out_windows
        return {
            name: texts if name == "train" or most is None else texts.some(range(min(most, len(texts)))) for name, texts in found.items()
        }

    def _say(self, found: "dict[str, Texts]", too_long: int) -> None:
        if not self.context.first:
            return
        sizes = ", ".join(f"{len(texts):,} {name}" for name, texts in found.items())
        print(f"qpa: {self.columns}: {len(self.labels.names)} labels; {sizes}", file=sys.stderr)
        if too_long:
            done = "cut" if self.data.too_long == "cut" else "left out"
            print(f"qpa: {too_long:,} texts are longer than {self.data.context} tokens and {done}", file=sys.stderr)
        if said := self.faults.said():
            print(f"qpa: {said}", file=sys.stderr)

    def content(self) -> dict[str, Any]:
        """Of the rows by split, and of `model.path`."""
        return {"texts": {name: given.digest for name, given in self.rows.items()}, "weights": source.weights(self.model)}

    def title(self) -> str:
        """As `all-MiniLM-L6-v2 on reviews.csv, 5 labels`."""
        data = self.data
        given = data.train_files if isinstance(data, FilesDataConfig) else [data.hub or ""] if isinstance(data, HubDataConfig) else []
        name = ", ".join("/".join(Path(file).parts[-2:]) for file in given) or data.source
        return f"{source.title(self.model)} on {name}, {len(self.labels.names)} labels"

    def protocol(self) -> dict[str, Any]:
        """The labels, how the base model stands, and what who always says the commonest label would reach."""
        labels = self.labels
        found: dict[str, Any] = {"labels": list(labels.names), "several": labels.several, "base": "its head is new, and not trained"}
        if not labels.several:
            found["majority"] = {"label": labels.commonest, **{split: self._majority(split) for split in ("val", "test")}}
        return found

    def _majority(self, split: str) -> dict[str, float]:
        """What the commonest training label reaches on a split, said of all."""
        import torch
        from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

        truth, number = torch.as_tensor(self.texts[split].truth), len(self.labels.names)
        said = torch.full_like(truth, self.labels.places[self.labels.commonest])
        f1, accuracy = multiclass_f1_score(said, truth, number), multiclass_accuracy(said, truth, number, average="micro")
        return {"macro_f1": f1.item(), "accuracy": accuracy.item()}

    @classmethod
    def remarks(cls, ours: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Of the closing table: how often the commonest label is right."""
        protocol, found = ours["protocol"], []
        if majority := protocol.get("majority"):
            said = f"{majority['test']['macro_f1']:.3f}, accuracy {majority['test']['accuracy']:.3f}"
            found.append((f"always the commonest label ({majority['label']})", said))
        return [*found, ("base model", protocol["base"])]

    def base_name(self) -> str | None:
        """On the hub, or as a path."""
        return source.published_name(self.model)

    def examples(self) -> int:
        """Texts."""
        return len(self.texts["train"])

    def read(self) -> None:
        """Of the rows, which may be missing or wrong, all that need not be fetched."""
        if not isinstance(self.data, HubDataConfig):
            _ = self.labels

    def fetch(self) -> None:
        """The rows, and the model's files."""
        _ = self.labels, self.encoder

    def prepare(self) -> None:
        """Encode the texts."""
        _ = self.texts

    def train_loader(self, *, from_step: int) -> "DataLoader":
        """Texts in a seeded order."""
        from qpa.tasks.loaders import train_loader

        return train_loader(self.texts["train"], self.share, seed=self.config.seed, from_step=from_step, steps=self.steps)

    def held_out(self) -> "dict[str, DataLoader]":
        """Texts in the order of the rows."""
        from qpa.tasks.loaders import held_out_loader

        return {split: held_out_loader(self.texts[split], self.share, split=split) for split in ("val", "test")}

    def probe(self) -> Batch:
        """The first texts of the validation split."""
        from torch.utils.data import default_collate

        texts = self.texts["val"]
        return default_collate([texts[place] for place in range(min(PROBED, len(texts)))])

    def skeleton(self) -> "nn.Module":
        """Of `model.path`, the config, or the hub's config.json."""
        from qpa.tasks.pretrained import base_model

        return self._load(source.config_folder(self.model), device=base_model.META)  # which reads nothing, and fills nothing

    def base(self, *, own: bool = False) -> "PreTrainedModel":
        """With a head that the seed draws; its weights stay loaded, for the next run of a sweep too."""
        from qpa.tasks.numerics import home
        from qpa.tasks.pretrained import base_model

        kept, config = self.context.kept, self.config
        if config.trainer.shards:
            return self._load(self.folder)
        device = home(config.trainer.accelerator)
        key = ("labels", self.model.model_dump_json(), *source.weights(self.model), self.folder, config.seed, self.labels, device)
        if key not in kept:
            kept.clear()  # first: two would not always fit
            kept[key] = self._load(self.folder, device=device)
        shared = base_model.sharing_weights(kept[key])
        return copy.deepcopy(shared) if own else shared

    def _load(self, folder: Path | None, **where: Any) -> "PreTrainedModel":
        import torch
        from transformers import AutoModelForSequenceClassification

        from qpa.tasks.pretrained import base_model

        settings = self.labels.settings()
        model = base_model.load(
            self.model,
            folder,
            dtype=torch.float32,
            seed=self.config.seed,
            kind=AutoModelForSequenceClassification,
            settings=settings,
            **where,
        )
        if where.get("device") != base_model.META:
            model.config.get_text_config().pad_token_id = self.pad  # by it a decoder finds a text's last token
        return model

    def learner(self, model: "nn.Module", *, trained: bool = False) -> "Classifier":
        """The model's own logits; one that cannot be run is refused."""
        from qpa.tasks.classification.classifier import Classifier

        learner = Classifier(cast(Any, model), self.labels)
        if trained:
            self._check_runs(learner)
        if trained and self.model.gradient_checkpointing:
            learner.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return learner

    def _check_runs(self, learner: "Classifier") -> None:
        """Refuse what does not run, or says something else of a text that is filled up: prompts hide from a decoder where it ends."""
        import torch
        from torch.nn.functional import pad

        from qpa.adapters.saved import same_outputs

        method, training = self.config.peft["_target_"], learner.model.training
        whole = {name: tensor.to(next(learner.model.parameters()).device) for name, tensor in self.probe().items() if name != "labels"}
        batch = {name: tensor[:, : max(1, tensor.shape[1] - FILLED)] for name, tensor in whole.items()}
        filled = {name: pad(tensor, (0, FILLED), value=self.pad * (name == "input_ids")) for name, tensor in batch.items()}
        try:
            with torch.no_grad():
                learner.model.eval()
                expected, found = learner.outputs(batch), learner.outputs(filled)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError("peft", method, f"the adapted model does not run: {reason}") from error
        finally:
            learner.model.train(training)
        if not same_outputs(found, expected, within=CLOSE):
            raise ConfigError("peft", method, "with it this model says something else of a text that is filled up; choose another method")

    def save_beside(self, adapter: Path) -> None:
        """The labels by their numbers, and what fills: what stock transformers needs to read the adapter's model."""
        settings = self.labels.settings()
        files.write_json(adapter / LABELS_FILE, {**settings, "pad_token_id": self.pad})

    def check_beside(self, adapter: Path) -> None:
        """Refuse an adapter that tells other labels than the data has."""
        try:
            saved = json.loads((adapter / LABELS_FILE).read_text())["id2label"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # of another program, or moved alone
        if [*saved.values()] != [*self.labels.names]:
            problem = f"the adapter tells the labels {', '.join(saved.values())}, and the training rows here have others"
            raise ConfigError("data", ", ".join(self.labels.names), f"{problem}; give the run's own training rows")


def _sections(config: Config) -> tuple[LanguageModelConfig, RowsDataConfig]:
    """The groups `model` and `data`, of kinds that are read here."""
    return expected("model", config.model, LanguageModelConfig), expected("data", config.data, RowsDataConfig)


def _saved_pad(folder: Path) -> object:
    return files.read_json(folder / "config.json").get("pad_token_id")


def _held_out(texts: "Texts", share: float, key: str, value: object, split: Any) -> "tuple[Texts, Texts]":
    """Texts apart from a held-out share."""
    if len(texts) < 2:
        raise ConfigError(key, value, f"has {len(texts)} row that can be used, too few to hold some out; give more")
    return split(texts, share)


TASK = Classification
