"""Feed-forward bottleneck adapters, the one PEFT method here that peft does not have (Houlsby et al. 2019, arXiv 1902.00751).

After the attention and the MLP of every block, before the residual is added: `h + up(activation(down(h)))`, `up` starting at
zero. The base model is left as it is; forward hooks add the adapters. Saved as peft saves: `adapter_config.json` and
`adapter_model.safetensors`. Using one needs this file alone (torch and safetensors):

    model = BottleneckModel.from_pretrained(base_model, "outputs/NAME-HASH/adapter")
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

PEFT_TYPE = "QPA_BOTTLENECK"
ACTIVATIONS = {"relu": nn.functional.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu, "tanh": torch.tanh}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass
class BottleneckConfig:
    """Where the adapters go and how large they are.

    Attributes:
        bottleneck: numbers between `down` and `up`.
        activation: `relu`, `gelu`, `silu` or `tanh`.
        target_modules: last parts of the names of the modules whose output is adapted.
        base_model_name_or_path: the model it was trained on.
        modules_to_save: last parts of the names of modules that are trained themselves, as a new head; those a model does not have
            are left out.
    """

    bottleneck: int
    activation: str
    target_modules: list[str]
    base_model_name_or_path: str | None = None
    modules_to_save: list[str] | None = None
    peft_type: str = field(default=PEFT_TYPE, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.bottleneck, int) or self.bottleneck < 1:
            raise ValueError(f"bottleneck={self.bottleneck} should be an integer of at least 1")
        if not isinstance(self.target_modules, list) or not all(isinstance(name, str) for name in self.target_modules):
            raise ValueError(f"target_modules={self.target_modules} should be a list of module names, such as [self_attn, attn, mlp]")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation} should be one of {', '.join(ACTIVATIONS)}")


class Bottleneck(nn.Module):
    """One adapter, in fp32: `[..., hidden]` -> the same shape and dtype."""

    def __init__(self, hidden: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, config.bottleneck)
        self.up = nn.Linear(config.bottleneck, hidden)
        self.activation = ACTIVATIONS[config.activation]
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """The adapted output."""
        update = self.up(self.activation(self.down(hidden.to(self.down.weight.dtype))))
        return hidden + update.to(hidden.dtype)


class BottleneckModel(nn.Module):
    """A base model with bottleneck adapters; the part of peft's `PeftModel` interface that training and export need.

    Raises:
        ValueError: no module of the model has a name in `target_modules`.
    """

    def __init__(self, base: nn.Module, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_model: Any = base.requires_grad_(False)  # as peft does
        self.peft_config = {"default": config}
        self.enabled = True
        targets = {name: m for name, m in base.named_modules() if name.rsplit(".", 1)[-1] in config.target_modules}
        if not targets:
            raise ValueError(f"target_modules={config.target_modules} matches no module of this model, such as self_attn, attn or mlp")
        hidden = self.base_model.config.hidden_size
        for name, module in targets.items():
            if getattr(module, "out_features", hidden) != hidden:
                raise ValueError(f"target_modules={config.target_modules}: {name} does not put out the hidden size")
        self.adapters = nn.ModuleDict({name.replace(".", "/"): Bottleneck(hidden, config) for name in targets})
        wanted = config.modules_to_save or []
        self.heads = [name for name, _ in base.named_modules() if name.rsplit(".", 1)[-1] in wanted]
        for name in self.heads:  # copies, as peft's are: the base's own weights may be shared with others
            base.set_submodule(name, copy.deepcopy(base.get_submodule(name)).requires_grad_(True))
        self.hooks = [module.register_forward_hook(self._hook(self.adapters[name.replace(".", "/")])) for name, module in targets.items()]

    def _hook(self, adapter: nn.Module) -> Any:
        def adapted(module: nn.Module, inputs: Any, output: Any) -> Any:
            if not self.enabled:
                return output
            return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)

        return adapted

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the base model."""
        return self.base_model(*args, **kwargs)

    def get_base_model(self) -> nn.Module:
        """The base model."""
        return self.base_model

    def unload(self) -> nn.Module:
        """The base model, taken out of here."""
        for hook in self.hooks:
            hook.remove()
        return self.base_model

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The base model's own output within the block."""
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

    def save_pretrained(self, folder: str) -> None:
        """Write config and weights, in fp32."""
        self.save_config(Path(folder))
        save_file({name: tensor.contiguous() for name, tensor in self._saved().items()}, Path(folder) / WEIGHTS)

    def _saved(self) -> dict[str, Tensor]:
        """The adapters, and what is trained itself."""
        heads = {f"{name}.{key}": tensor for name in self.heads for key, tensor in self._head(name).state_dict().items()}
        return self.adapters.state_dict() | heads

    def _head(self, name: str) -> nn.Module:
        return self.base_model.get_submodule(name)

    def save_config(self, folder: Path) -> None:
        """Write the config alone."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(asdict(self.peft_config["default"]), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, base: nn.Module, folder: str) -> "BottleneckModel":
        """A saved adapter on its base model."""
        config = read_bottleneck_config(Path(folder))
        if config is None:
            raise ValueError(f"{folder}: is no bottleneck adapter")
        model = cls(base, config)
        saved = load_file(Path(folder) / WEIGHTS)
        for name in model.heads:
            own = [key for key in saved if key.startswith(f"{name}.")]
            model._head(name).load_state_dict({key.removeprefix(f"{name}."): saved.pop(key) for key in own})
        model.adapters.load_state_dict(saved)
        return model


def is_of_bottleneck(hook: Any) -> bool:
    """Whether a forward hook is one of ours."""
    return getattr(hook, "__qualname__", "").startswith(BottleneckModel._hook.__qualname__)


def read_bottleneck_config(folder: Path) -> BottleneckConfig | None:
    """The config in a saved adapter's folder, None where it is of another method."""
    saved = json.loads((folder / CONFIG).read_text())
    return BottleneckConfig(**saved) if saved.pop("peft_type") == PEFT_TYPE else None
