"""`python -m qpa.export run=DIR [merged=true] [circuits=true]`: a run's best checkpoint as a plain PEFT adapter, and more.

The adapter goes to `DIR/adapter`; the merged model, in fp32 (bf16 would round small updates away), to `DIR/merged`; the trained
circuits as OpenQASM 3, drawn, and with their probabilities, to `DIR/circuits`.
"""

import shutil
import sys
from pathlib import Path

from qpa.commands import cli
from qpa.commands.composing import named_run
from qpa.config import Config
from qpa.errors import ConfigError, ExportError, UsageError
from qpa.files import whole_folder
from qpa.tasks.language import source

PROBE = 64  # tokens that adapter and merged model are compared by
CLOSE = 1e-3  # of the logits' spread, in fp32
USAGE = "usage: python -m qpa.export run=DIR [merged=true|false] [circuits=true|false]"


def main(arguments: list[str]) -> None:
    """Export and print where to."""
    folder, config, options = named_run(arguments, usage=USAGE, options=("merged", "circuits"))
    merged, circuits = (_flag(options, name) for name in ("merged", "circuits"))
    checkpoint = folder / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file():
        raise ConfigError("run", folder, "has no checkpoints/best.ckpt to export")
    export_adapter(config, checkpoint, folder / "adapter")
    print(folder / "adapter")
    if merged:
        export_merged(config, folder / "adapter", folder / "merged")
        print(folder / "merged")
    if circuits:
        from qpa.analysis.circuits import export_circuits

        export_circuits(config, folder, folder / "circuits")
        print(folder / "circuits")


def _flag(options: dict[str, str], name: str) -> bool:
    value = options.get(name, "false").lower()
    if value not in ("true", "false"):
        raise UsageError(f"{name}={value}: true or false")
    return value == "true"


def export_adapter(config: Config, checkpoint: Path, target: Path) -> None:
    """Generate the adapter's weights from a checkpoint and save them."""
    base_folder = source.folder(config)
    from qpa.runs import measurement
    from qpa.runs.parts import assemble
    from qpa.runs.restored import load
    from qpa.training.quiet import quiet

    quiet()
    assembly = assemble(config, base_folder)
    load(assembly.adaptation, checkpoint)
    measurement.export(config, assembly, target)


def export_merged(config: Config, adapter: Path, target: Path) -> None:
    """Fold a saved adapter into the base model, as it was before it was quantised, and save the whole, with its tokenizer.

    Raises:
        ExportError: the saved model does not say what the adapter says; nothing is written.
    """
    config = config.model_copy(update={"model": config.model.model_copy(update={"quantization": None, "dtype": "float32"})})
    base_folder = source.folder(config)
    import torch
    from transformers import AutoModelForCausalLM

    from qpa.adapters import methods as peft_model
    from qpa.runs.parts import load_base
    from qpa.training.quiet import quiet

    quiet()
    base = load_base(config, base_folder)
    ids = torch.randint(base.config.get_text_config().vocab_size, (1, PROBE), generator=torch.Generator().manual_seed(0))
    model = peft_model.load_adapter(base, adapter).eval()
    with torch.no_grad():
        adapted = model(input_ids=ids).logits
    with whole_folder(target) as scratch:
        peft_model.merge(model).save_pretrained(scratch)
        with torch.no_grad():
            merged = AutoModelForCausalLM.from_pretrained(scratch, dtype=torch.float32).eval()(input_ids=ids).logits
        if not peft_model.same_logits(merged, adapted, within=CLOSE):
            problem = "folded into the weights, saved and read again, the model does not say what the adapter says; use the adapter itself"
            raise ExportError(f"merged=true: {problem}")
        for file in base_folder.glob("tokenizer*") if base_folder else ():
            shutil.copy(file, scratch)


if __name__ == "__main__":
    with cli.one_line_errors():
        main(sys.argv[1:])
