"""Silence for what the libraries say of themselves, so that a run prints its own lines only."""

import logging
import os
import warnings

UNWANTED = (
    r".*does not have many workers.*",  # windows are read from memory-mapped files: workers would only copy them
    r".*module\(s\) in eval mode at the start of training.*",  # batch norms of a frozen base keep their statistics (tasks.vision)
    r".*is_gradient_checkpointing.*is deprecated.*",
    r".*Checkpoint directory .* exists and is not empty.*",  # a resumed run's own
    r".*your dataloader is not resumable.*",  # ours starts at the step that is resumed from (loaders)
    r".*It is recommended to use `self.log.*sync_dist=True.*",  # metrics are summed over processes already (perplexity)
    r".*it is recommended to use `Trainer\(devices=1.*",  # every window is read once (loaders)
    r".*Experiment logs directory .* exists and is not empty.*",
    r".*isinstance\(treespec, LeafSpec\).* is deprecated.*",  # Lightning 2.6 against torch 2.13
    r".*tie_word_embeddings=True.*a tied layer is part of the adapter.*",  # untied before merging (adapters.saved.merge)
    r".*fan_in_fan_out is set to False but the target module is `Conv1D`.*",  # peft sets it right itself
)


def quiet() -> None:
    """Switch off tips, banners and known harmless warnings of transformers, Lightning and wandb."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in UNWANTED:
        warnings.filterwarnings("ignore", message=message)
