"""How a module's weights are trained: themselves, or through a generator by one vector-Jacobian product per step.

What is generated stays a real leaf parameter of the module. After each optimizer step the generator's output is copied into these
leaves, any number of micro-batches run forward and backward, and their summed gradient is pushed back through the generator once.
Gradients equal those of a differentiable injection, and gradient checkpointing stays right, because the module only ever sees
ordinary parameters.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from qpa.core.counts import Counts, count, direct
from qpa.core.generator import SETTINGS, Generator, view
from qpa.core.layout import Layout
from qpa.core.optimizer import GeneratedStep, generated_step
from qpa.errors import UserError

O = TypeVar("O", bound=Optimizer)  # noqa: E741 - of a kind
_owners = WeakIdKeyDictionary()  # by parameter


class Leaves:
    """A module's parameters that are generated, and where they lie in the generator's flat vector.

    They stay the module's own: values are copied in, and gradients read where backward has left them. So whoever moves the module, or
    clips, drops or unscales its gradients, does to them what he does to any.

    Args:
        layout: where each tensor lies in the flat vector.
        parameters: the module's, by the names that the layout knows them by.
    """

    def __init__(self, layout: Layout, parameters: Mapping[str, nn.Parameter]) -> None:
        self.size, self.slots = layout.size, layout.slots
        self.parameters = [parameters[slot.tensor.name] for slot in layout.slots]

    @property
    def device(self) -> torch.device:
        """Where the module is now."""
        return self.parameters[0].device

    def values(self) -> Tensor:
        """All of them as one flat vector, `[size]`, fp32."""
        return self._gathered([parameter.detach() for parameter in self.parameters])

    def gradient(self) -> Tensor | None:
        """Their gradients likewise, zero where backward has left none; None where it has left none at all."""
        gradients = [parameter.grad for parameter in self.parameters]
        return None if all(gradient is None for gradient in gradients) else self._gathered(gradients)

    def write(self, flat: Tensor) -> None:
        """Copy a flat vector's numbers into them."""
        with torch.no_grad():
            torch._foreach_copy_([*self.parameters], [view(flat, slot) for slot in self.slots])

    def drop_gradients(self, *, to_none: bool) -> None:
        """As an optimizer's `zero_grad`."""
        for parameter in self.parameters:
            if to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    def _gathered(self, tensors: list[Tensor | None]) -> Tensor:
        flat = torch.zeros(self.size, device=self.device)
        there = [(view(flat, slot), tensor) for slot, tensor in zip(self.slots, tensors, strict=True) if tensor is not None]
        torch._foreach_copy_([place for place, _ in there], [tensor for _, tensor in there])
        return flat


class GeneratedAdaptation(nn.Module):
    """Trains a generator in place of a module's weights. Its parameters and state are the generator's alone.

    Attributes:
        generator: of the weights.
        leaves: where they go.
        collected: whether the generator's gradient is that of the step which is under way, so that only the optimizer's own step is left.
    """

    def __init__(self, generator: Generator, leaves: Leaves) -> None:
        super().__init__()
        self.generator, self.leaves = generator, leaves
        self.collected = False
        self._output: Tensor | None = None  # of the generator as it is now, with its graph
        self.register_load_state_dict_pre_hook(_check_loaded)
        self.register_load_state_dict_post_hook(_write_loaded)
        for parameter in (*leaves.parameters, *generator.parameters()):
            _owners[parameter] = ref(self)

    @property
    def counts(self) -> Counts:
        """Of what is trained, beside the module's own weights in its place."""
        return count(self.generator, self.generator.weight_count)

    def write(self) -> None:
        """Generate the weights as the generator is now, and put them into the module.

        Not between a forward and its backward. Under `torch.no_grad()` circuits that are sampled run without those that a gradient
        needs; should one be needed after all, they run then.
        """
        self.follow()
        with _normal_tensors():
            self._output = self._generate()
            self.leaves.write(self._output.detach())
        self.collected = False

    def collect(self) -> None:
        """Make the generator's gradient from the gradients that backward has left on the module's weights.

        After the last backward of a step. An optimizer's `step` does it where it is not done; call it before to clip, to reduce between
        processes or to look at the gradient of what is trained. Where backward has left nothing, there is none.
        """
        self.follow()
        for parameter in self.generator.parameters():
            parameter.grad = None
        gradient = self.leaves.gradient()
        if gradient is not None:
            output = self._output
            if output is None or not output.requires_grad or output.device != gradient.device:
                with torch.enable_grad():
                    output = self._generate()
            output.backward(gradient)
        self._output, self.collected = None, True

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state that is not of this generator.

        Raises:
            UserError: what is other.
        """
        self.generator.check_state({name.removeprefix("generator."): tensor for name, tensor in state.items()})

    def check_plain(self, parameters: Iterable[Any]) -> None:
        """Refuse to train plainly, beside the generator, what is generated or makes it.

        Raises:
            UserError: one of them is.
        """
        for parameter in parameters:
            if isinstance(parameter, nn.Parameter) and generated_by(parameter) is not None:
                problem = "a weight that is generated, or a generator's own, cannot be in a group beside it: its step would never reach it"
                raise UserError(f"add_param_group: {problem}; give it only what is trained plainly, and each generator its own optimizer")

    def follow(self) -> bool:
        """Move the generator to where the module has gone; whether it was elsewhere."""
        if self.generator.device == self.leaves.device:
            return False
        self.generator.to(self.leaves.device)
        self._output = None
        return True

    def drop_gradients(self, *, to_none: bool) -> None:
        """Of the module's generated weights; the generator's go with the next `collect`."""
        self.leaves.drop_gradients(to_none=to_none)
        self.collected = False

    def optimizer(self, kind: type[O], *, max_norm: float | None = None, **settings: Any) -> O:
        """An optimizer of what is trained, for any training loop.

        Its `step` takes the gradients that backward has left on the module's weights through the generator, steps, and writes the new
        weights into the module; its `zero_grad` drops the gradients of both. Everything else is as of its kind: `param_groups` are the
        generator's parameters (so weight decay acts on them), `add_param_group` adds what is trained plainly, schedulers change its
        rate. Its `state_dict` has the generator's weights in it.

        Args:
            kind: a class of `torch.optim`, or like one.
            max_norm: largest norm of the gradient of what is trained. A loop's own clipping is of the generated weights' gradient.
            settings: of the kind, as `lr`.
        """
        optimizer: Any = generated_step(kind)(self.parameters(), **settings)
        assert isinstance(optimizer, GeneratedStep)
        optimizer.adaptation, optimizer.max_norm = self, max_norm
        return optimizer  # pyright: ignore[reportReturnType]

    def _apply(self, fn: Any, recurse: bool = True) -> "GeneratedAdaptation":
        """Moved with a module around it, but not cast: what is trained stays in fp32 whatever the module's precision."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: they generate anew."""
        return {**self.__dict__, "_output": None, "collected": False}

    def _generate(self) -> Tensor:
        with torch.autocast(self.generator.device.type, enabled=False):  # generated weights are fp32 under any trainer precision
            return self.generator()


def generated_by(parameter: nn.Parameter) -> GeneratedAdaptation | None:
    """What a parameter belongs to, as a generated weight or as one that its generator trains."""
    owner = _owners.get(parameter)
    return None if owner is None else owner()


class DirectAdaptation(nn.Module):
    """The baseline: trains the adapter's own weights. There is nothing to write and nothing to collect."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(parameters.values())

    @property
    def counts(self) -> Counts:
        """Of what is trained."""
        return direct(sum(weight.numel() for weight in self.weights))

    def write(self) -> None:
        """Nothing: the weights are where they are used."""

    def collect(self) -> None:
        """Nothing: backward has left the gradients on the weights themselves."""

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state of other weights.

        Raises:
            UserError: it has others, or others' sizes.
        """
        if {name: tensor.shape for name, tensor in state.items()} != {name: tensor.shape for name, tensor in self.state_dict().items()}:
            raise UserError("this state is of other weights than are trained here; give the same model and PEFT method")

    def optimizer(self, kind: type[O], **settings: Any) -> O:
        """An ordinary one."""
        return kind(self.parameters(), **settings)


Adaptation = GeneratedAdaptation | DirectAdaptation


@contextmanager
def _normal_tensors() -> Iterator[None]:
    """Tensors that autograd can use later on, also within a loop's `torch.inference_mode()`; whether gradients are kept stays as it is."""
    keeps = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(keeps):
        yield


def _check_loaded(adaptation: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Also of a module around it: refuse another generator's state. One of an earlier qpa lacks what tells settings apart."""
    assert isinstance(adaptation, GeneratedAdaptation)
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if own:
        adaptation.check_state(own)
        state.setdefault(f"{prefix}generator.{SETTINGS}", adaptation.generator.settings)


def _write_loaded(adaptation: nn.Module, *_: Any) -> None:
    """The module's weights, as the loaded generator makes them."""
    assert isinstance(adaptation, GeneratedAdaptation)
    adaptation.write()
