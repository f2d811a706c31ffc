"""`python -m qpa.export run=DIR [merged=true] [circuits=true]`: a run's best checkpoint as a plain PEFT adapter, and more.

The adapter goes to `DIR/adapter`; the merged model, in fp32 (bf16 would round small updates away), to `DIR/merged`; the trained
circuits as OpenQASM 3, drawn, and with their probabilities, to `DIR/circuits`.
"""

import shutil
import sys
from pathlib import Path

from qpa import cli, source
from qpa.config import Config
from qpa.errors import ConfigError, UsageError
from qpa.files import whole_folder
from qpa.verbs import named_run

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
        from qpa.export_circuits import export_circuits

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
    import torch

    from qpa import peft_model
    from qpa.assembly import assemble
    from qpa.quiet import quiet
    from qpa.restored import load

    quiet()
    assembly = assemble(config, base_folder)
    load(assembly.adaptation, checkpoint)
    with torch.no_grad():  # not a training step: the samples that the run was tested with
        assembly.adaptation.write()
    peft_model.save_adapter(assembly.model, target, base_name=source.published_name(config.model))


def export_merged(config: Config, adapter: Path, target: Path) -> None:
    """Fold a saved adapter into the base model, as it was before it was quantised, and save the whole, with its tokenizer."""
    config = config.model_copy(update={"model": config.model.model_copy(update={"quantization": None})})
    base_folder = source.folder(config)
    from qpa import peft_model
    from qpa.assembly import load_base
    from qpa.quiet import quiet

    quiet()
    model = peft_model.load_adapter(load_base(config, base_folder).float(), adapter)
    with whole_folder(target) as scratch:
        peft_model.merge(model).save_pretrained(scratch)
        for file in base_folder.glob("tokenizer*") if base_folder else ():
            shutil.copy(file, scratch)


if __name__ == "__main__":
    with cli.one_line_errors():
        main(sys.argv[1:])
