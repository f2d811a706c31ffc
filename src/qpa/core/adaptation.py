"""How a module's weights are trained: themselves, or through a generator by one vector-Jacobian product per step.

What is generated stays a real leaf parameter of the module. After each optimizer step the generator's output is copied into these
leaves, any number of micro-batches run forward and backward, and their summed gradient is pushed back through the generator once.
Gradients equal those of a differentiable injection, and gradient checkpointing stays right, because the module only ever sees
ordinary parameters.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from qpa.core import recorded
from qpa.core.counts import Counts, count, direct
from qpa.core.generator import SETTINGS, Generator, real, view
from qpa.core.layout import Layout
from qpa.core.optimizer import GeneratedStep, generated_step
from qpa.errors import UserError, line

O = TypeVar("O", bound=Optimizer)  # noqa: E741 - of a kind
State = tuple[Tensor | None, int]  # of a gradient
BESIDE = ("beside.", "statistics.")  # what of an adaptation's state is not its generator's
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
        self.written: list[int] = []  # how often each had been changed in its place after the last `write`
        self.parameters = [parameters[slot.tensor.name] for slot in layout.slots]

    @property
    def device(self) -> torch.device:
        """Where the module is now."""
        return self.parameters[0].device

    def values(self) -> Tensor:
        """All of them as one flat vector, `[size]`, fp32."""
        return self._gathered([parameter.detach() for parameter in self.parameters])

    def gradient(self) -> Tensor:
        """Their gradients likewise, zero where backward has left none."""
        return self._gathered([parameter.grad for parameter in self.parameters])

    @property
    def has_gradient(self) -> bool:
        """Whether backward has left any."""
        return any(parameter.grad is not None for parameter in self.parameters)

    def gradients(self) -> list[State]:
        """The gradients themselves, and how often each has been changed in its place."""
        return [(p.grad, -1 if p.grad is None else p.grad._version) for p in self.parameters]

    def write(self, flat: Tensor) -> None:
        """Copy a flat vector's numbers into them."""
        with torch.no_grad():
            torch._foreach_copy_([real(parameter) for parameter in self.parameters], [view(flat, slot) for slot in self.slots])
        self.written = [parameter._version for parameter in self.parameters]

    def count_as_written(self) -> None:
        """They have been, without torch's knowledge: who keeps what depends on them goes by their versions."""
        torch.autograd.graph.increment_version(self.parameters)
        self.written = [parameter._version for parameter in self.parameters]

    def check(self, flat: Tensor) -> None:
        """Refuse what the next `write` would not leave as it is.

        Args:
            flat: what was written last.

        Raises:
            UserError: something else has changed the values since, or they were frozen.
        """
        for parameter, version, slot in zip(self.parameters, self.written, self.slots, strict=True):
            if not parameter.requires_grad:
                way_out = "give qpa.generate the others alone, as parameters=..."
                raise UserError(
                    f"{slot.tensor.name} was frozen after qpa.generate had taken it over, and is generated all the same; {way_out}"
                )
            if parameter._version != version and not torch.equal(own := real(parameter.detach()), view(flat, slot).to(own)):
                problem = f"{slot.tensor.name} has been changed, as by model.load_state_dict, and is not what its generator makes"
                raise UserError(
                    f"{problem}: a step would undo it; load the generator's or the optimizer's state, or build and generate anew"
                )

    def zero_grad(self, *, set_to_none: bool) -> None:
        """As an optimizer's."""
        for parameter in self.parameters:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    def _gathered(self, tensors: list[Tensor | None]) -> Tensor:
        flat = torch.zeros(self.size, dtype=torch.float32, device=self.device)
        there = [
            (view(flat, slot), real(tensor.to_dense() if tensor.is_sparse else tensor))
            for slot, tensor in zip(self.slots, tensors, strict=True)
            if tensor is not None
        ]
        torch._foreach_copy_([place for place, _ in there], [tensor for _, tensor in there])
        return flat


class Statistics(nn.Module):
    """Buffers of a module that it counts as it is trained, as batch norm does: they stay its own, and are in the state of what is trained.

    Args:
        module: whose they are.
        names: of the buffers.
    """

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        object.__setattr__(self, "module", module)  # not registered: its weights are not what is trained
        self.module: nn.Module
        self.names = [*names]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination |= {prefix + name: self.module.get_buffer(name).detach().clone() for name in self.names}

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.no_grad():
            for name in self.names:
                self.module.get_buffer(name).copy_(state_dict[prefix + name])


class GeneratedAdaptation(nn.Module):
    """Trains a generator in place of a module's weights. Its parameters and state are the generator's, and what is beside it.

    Attributes:
        generator: of the weights.
        leaves: where they go.
        beside: parameters of the module that are trained plainly with it. Backward leaves their gradients on themselves.
    """

    def __init__(self, generator: Generator, leaves: Leaves, beside: Iterable[nn.Parameter] = ()) -> None:
        super().__init__()
        self.generator, self.leaves, self.beside = generator, leaves, nn.ParameterList(beside)
        self._collected: list[State] = []  # what the generator's gradient was made from
        self._output: Tensor | None = None  # what was written last, with its graph
        self._made_from: list[tuple[int, bool]] = []
        self._recorded: list[Callable[[], Any]] = []  # `_put` and `_pull` as CUDA graphs
        self.register_load_state_dict_pre_hook(_check_loaded)
        self.register_load_state_dict_post_hook(_write_loaded)
        for parameter in (*leaves.parameters, *generator.parameters()):
            _owners[parameter] = ref(self)

    @property
    def counts(self) -> Counts:
        """Of what is trained, beside the module's own weights in its place."""
        return count(self.generator, self.generator.weight_count, beside=sum(weight.numel() for weight in self.beside))

    def write(self) -> None:
        """Generate the weights as the generator is now, and put them into the module.

        Not between a forward and its backward. Under `torch.no_grad()` circuits that are sampled run without those that a gradient
        needs; should one be needed after all, they run then.
        """
        self.follow()
        with _normal_tensors():
            if self._recorded:
                self._recorded[0]()
                self.leaves.count_as_written()  # a replay does not
            else:
                self._put()
        self._collected, self._made_from = [], self._numbers()

    def _put(self) -> None:
        self._output = None  # first: while its graph is there, torch adds gradients up on the stream that it was made on
        self._output = self._generate()
        self.leaves.write(self._output.detach())

    def record(self) -> None:
        """From now on `write` and `collect` are replayed as CUDA graphs, where the generator can be; for a module that stays on its GPU.

        The module's gradients have to stay where they are: they are zeroed or overwritten in their place, and not dropped.

        Raises:
            RuntimeError: torch or CUDA cannot record it, in their words.
        """
        if not self.generator.recordable:
            return
        with _normal_tensors(), torch.enable_grad():
            self._recorded = recorded.record(self._put, self._pull)
        self.write()  # a recording computes nothing

    @property
    def collected(self) -> bool:
        """Whether the generator's gradient is that of the gradients which are on the module's weights now."""
        now = self.leaves.gradients()
        return bool(self._collected) and all(a is b and v == w for (a, v), (b, w) in zip(self._collected, now, strict=True))

    def collect(self) -> None:
        """Make the generator's gradient from the gradients that backward has left on the module's weights.

        After the last backward of a step. An optimizer's `step` does it where it is not done; call it before to clip, to reduce between
        processes or to look at the gradient of what is trained. Where backward has left nothing, there is none.
        """
        if self.collected:
            return
        self.follow()
        for parameter in self.generator.parameters():
            parameter.grad = None
        if self.leaves.has_gradient and any(parameter.requires_grad for parameter in self.generator.parameters()):
            self._output = self._written_output()
            self.leaves.check(self._output.detach())
            for parameter, gradient in self._recorded[1]() if self._recorded else self._pull():
                parameter.grad = gradient
        if not self._recorded:
            self._output = None
        self._collected = self.leaves.gradients()

    def _pull(self) -> list[tuple[nn.Parameter, Tensor | None]]:
        """The generator's parameters, each with its gradient."""
        assert self._output is not None
        for parameter in self.generator.parameters():
            parameter.grad = None
        self._output.backward(self.leaves.gradient())
        return [(parameter, parameter.grad) for parameter in self.generator.parameters()]

    def _written_output(self) -> Tensor:
        """What was written last, with a graph of all that is trained now."""
        then, now = self._made_from, self._numbers()
        if then and [version for version, _ in then] != [version for version, _ in now]:
            problem = "the generator's numbers have been changed, and the module's weights are not what it makes now"
            raise UserError(f"{problem}; call generated.write() after whatever has changed them")
        if self._recorded and then != now:
            raise UserError("what of the generator is trained has been changed after it was recorded; choose it before")
        if self._output is not None and self._output.requires_grad and then == now and self._output.device == self.leaves.device:
            return self._output
        with torch.enable_grad():
            return self._generate()

    def _numbers(self) -> list[tuple[int, bool]]:
        """How often each number of the generator has been changed in its place, and whether it is trained."""
        return [(parameter._version, parameter.requires_grad) for parameter in self.generator.parameters()]

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Within the block each backward collects at its end: who clips an optimizer's gradients in its closure (Lightning) finds them."""
        if self._recorded:  # there is no backward to wait for; who has it recorded collects
            yield
            return

        def at_the_end(_: Tensor) -> None:
            torch.autograd.Variable._execution_engine.queue_callback(self.collect)  # pyright: ignore[reportAttributeAccessIssue]

        handle = register_multi_grad_hook(self.leaves.parameters, at_the_end, mode="any")
        try:
            yield
        finally:
            handle.remove()

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state that is not of this generator, or not of what is trained beside it.

        Raises:
            UserError: what is other.
        """
        plain, mine = ({n: t.shape for n, t in one.items() if n.startswith(BESIDE)} for one in (state, self.state_dict()))
        if plain != mine:
            raise UserError("this state has other weights that were trained beside the generator; give the same model and PEFT method")
        self.generator.check_state({name.removeprefix("generator."): tensor for name, tensor in state.items() if name not in plain})

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
        self._output, self._recorded = None, []
        return True

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of the generator and of the module's generated weights."""
        super().zero_grad(set_to_none)
        self.leaves.zero_grad(set_to_none=set_to_none)

    def optimizer(self, kind: type[O], *, max_norm: float | None = None, **settings: Any) -> O:
        """An optimizer of what is trained, for any training loop.

        Its `step` takes the gradients that backward has left on the module's weights through the generator, steps, and writes the new
        weights into the module; its `zero_grad` drops the gradients of both. Everything else is as of its kind: `param_groups` are the
        generator's parameters (so weight decay acts on them), `add_param_group` adds what is trained plainly, schedulers change its
        rate. Its `state_dict` has the generator's weights in it.

        Args:
            kind: a class of `torch.optim`, or like one.
            max_norm: largest norm of the generator's gradient. A loop's own clipping is of the generated weights' gradient.
            settings: of the kind, as `lr`.

        Raises:
            UserError: it is no kind of optimizer, or refuses its settings.
        """
        if not (isinstance(kind, type) and issubclass(kind, Optimizer)) or kind is Optimizer or issubclass(kind, GeneratedStep):
            raise UserError(f"generated.optimizer: {kind} is no kind of optimizer; give a class, as torch.optim.AdamW")
        if max_norm is not None and not (isinstance(max_norm, int | float) and 0 < max_norm < math.inf):
            raise UserError(f"generated.optimizer: max_norm={max_norm} should be a number above 0; leave it out not to clip")
        try:
            optimizer: Any = generated_step(kind)(self.parameters(), **settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"generated.optimizer: {kind.__name__} refuses its arguments: {line(error)}") from error
        assert isinstance(optimizer, GeneratedStep)
        optimizer.adaptation, optimizer.max_norm = self, max_norm
        return optimizer  # pyright: ignore[reportReturnType]

    def _apply(self, fn: Any, recurse: bool = True) -> "GeneratedAdaptation":
        """Moved with a module around it, but not cast: what is trained stays in fp32 whatever the module's precision."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: they generate anew."""
        return {**self.__dict__, "_output": None, "_collected": [], "_made_from": [], "_recorded": []}

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

    def record(self) -> None:
        """Nothing: there is nothing to write or to collect."""

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


def _check_loaded(adaptation: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
    """Also of a module around it: refuse another generator's state. One of an earlier qpa lacks what tells settings apart."""
    assert isinstance(adaptation, GeneratedAdaptation)
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if own or not prefix:
        adaptation.check_state(own)
        state.setdefault(f"{prefix}generator.{SETTINGS}", adaptation.generator.settings)


def _write_loaded(adaptation: nn.Module, *_: Any) -> None:
    """The module's weights, as the loaded generator makes them."""
    assert isinstance(adaptation, GeneratedAdaptation)
    adaptation.write()
