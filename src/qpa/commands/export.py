"""`python -m qpa.export run=DIR [compact=true] [expand=true] [merged=true] [onnx=true] [circuits=true]`: a run's best checkpoint as a
plain PEFT adapter, and more.

The adapter goes to `DIR/adapter`; what makes it, the generator alone, to `DIR/compact`, from which `expand=true` makes the adapter without
the checkpoint; the merged model, in fp32 (bf16 would round small updates away), to `DIR/merged`; the model with all that it was adapted by
as ONNX to `DIR/onnx`; the trained circuits as OpenQASM 3, drawn, and with their probabilities, to `DIR/circuits`.
"""

from qpa.commands import cli
from qpa.commands.composing import named_run
from qpa.errors import UsageError

OPTIONS = ("compact", "expand", "merged", "onnx", "circuits")
USAGE = f"usage: python -m qpa.export run=DIR {' '.join(f'[{option}=true|false]' for option in OPTIONS)}"


def main(arguments: list[str]) -> None:
    """Export and print where to."""
    folder, config, options = named_run(arguments, usage=USAGE, options=OPTIONS)
    compact, expand, merged, onnx, circuits = (_flag(options, name) for name in OPTIONS)
    from qpa.runs import export  # seconds of imports

    if compact:
        print(export.compact(config, folder))
    print(export.expanded(config, folder) if expand else export.adapter(config, folder))
    if merged:
        print(export.merged(config, folder))
    if onnx:
        print(export.onnx(config, folder))
    if circuits:
        from qpa.analysis.circuits import export_circuits

        export_circuits(config, folder, folder / "circuits")
        print(folder / "circuits")


def _flag(options: dict[str, str], name: str) -> bool:
    value = options.get(name, "false").lower()
    if value not in ("true", "false"):
        raise UsageError(f"{name}={value}: true or false")
    return value == "true"


script = cli.script(main)

if __name__ == "__main__":
    script()
