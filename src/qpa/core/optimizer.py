"""The seam to any training loop: an optimizer whose step goes through the generator.

It is made from an optimizer's class, as a subclass: schedulers, parameter groups, hooks and states are what they are there.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from itertools import count
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.optim import Optimizer

from qpa.errors import UserError

GENERATOR = "generator"  # in a state: the generator's own


class Adaptation(Protocol):
    """What the optimizer asks of the adaptation that it trains (`qpa.core.adaptation`)."""

    @property
    def collected(self) -> bool:
        """Whether the generator's gradient is that of the module's gradients now."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """What is trained: the generator's numbers, and what is beside it."""
        ...

    def write(self) -> None:
        """New weights into the module."""

    def collect(self) -> None:
        """The module's gradients to the generator's."""

    def collecting(self) -> AbstractContextManager[None]:
        """Within which each backward collects."""
        ...

    def follow(self) -> bool:
        """The generator to where the module is; whether it was elsewhere."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Its gradients, and the module's."""

    def state_dict(self) -> dict[str, Any]:
        """The generator's."""
        ...

    def check_plain(self, parameters: Iterable[Any]) -> None:
        """Refuse what cannot be trained beside the generator."""

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse another generator's."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take it over."""


class GeneratedStep(Optimizer):
    """What an optimizer of generated weights does otherwise than its kind.

    Attributes:
        kind: what it is otherwise.
        adaptation: what it trains.
        max_norm: largest norm of the gradient of what it trains.
    """

    kind: type[Optimizer]
    adaptation: Adaptation
    max_norm: float | None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """From the gradients on the module's weights to new weights in the module.

        Args:
            closure: computes the loss anew, as some kinds ask for; it may be called several times in one step.

        Raises:
            UserError: nothing that is trained has a gradient.
        """
        if closure is None:
            self._take_gradients()
            loss = self._plain_step()
        else:
            calls = count()

            def evaluated() -> Any:
                """The loss, its gradient at the generator."""
                if next(calls):  # the kind has moved the parameters in between, as LBFGS along its line
                    self.adaptation.write()
                with torch.enable_grad(), self.adaptation.collecting():
                    found = closure()
                self._take_gradients()
                return found

            loss = self._plain_step(evaluated)
        with torch.enable_grad():  # a loop may have it off around its steps
            self.adaptation.write()
        return loss

    def _take_gradients(self) -> None:
        if self.adaptation.follow() and self.state:  # the state goes where the parameters have gone
            self.kind.load_state_dict(self, self.kind.state_dict(self))
        self.adaptation.collect()
        if all(p.grad is None for group in self.param_groups for p in group["params"]):
            problem = "no gradient has reached what qpa.generate has taken over; call loss.backward() before optimizer.step()"
            raise UserError(f"{problem}, the loss being of the module that was given to it (not of a copy)")
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self.adaptation.parameters(), self.max_norm)

    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess] - torch puts hooks around a step that is not: ours are around the kind's

    def _plain_step(self, *closure: Callable[[], Any]) -> Any:
        """The kind's own, with the hooks: they find the generator's gradient, and what they change is written."""
        step: Any = self.kind.step
        return (step if getattr(step, "hooked", False) else Optimizer.profile_hook_step(step))(self, *closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of the module's generated weights, and of whatever else is trained."""
        self.kind.zero_grad(self, set_to_none=set_to_none)
        self.adaptation.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """What is trained plainly, by the same optimizer.

        Raises:
            UserError: some of it is generated, or a generator's own.
        """
        if hasattr(self, "adaptation"):  # the first group is the generator
            given = param_group["params"]
            param_group["params"] = [given] if isinstance(given, torch.Tensor) else list(given)
            self.adaptation.check_plain(pair[1] if isinstance(pair, tuple) else pair for pair in param_group["params"])
        self.kind.add_param_group(self, param_group)

    def state_dict(self) -> dict[str, Any]:
        """As of its kind, and the generator's weights: a loop that goes on from it has them again."""
        return {**self.kind.state_dict(self), GENERATOR: self.adaptation.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The counterpart; the module's weights are written anew.

        Raises:
            UserError: it is the state of another optimizer, or of another generator.
        """
        if not isinstance(state_dict, Mapping) or GENERATOR not in state_dict:
            raise UserError("this is the state of an optimizer that qpa has not made: it has no generator in it; begin with a new one")
        self.adaptation.check_state(state_dict[GENERATOR])
        if missing := [key for group in state_dict["param_groups"] for key in self.defaults if key not in group]:
            raise UserError(f"this is the state of another kind of optimizer: it has no {missing[0]}; give it the same kind")
        try:
            self.kind.load_state_dict(self, {key: value for key, value in state_dict.items() if key != GENERATOR})
        except ValueError as error:
            raise UserError(f"this is the state of another optimizer: {error}; give it the same parameter groups") from error
        self.adaptation.load_state_dict(state_dict[GENERATOR])

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which train a copy of the adaptation."""
        return {**self.kind.__getstate__(self), "adaptation": self.adaptation, "max_norm": self.max_norm}

    def __reduce__(self) -> Any:
        """Its class is made when it is asked for."""
        return _unmade, (self.kind,), self.__getstate__()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """What a GradScaler asks before a step: it has not unscaled gradients which are not yet the generator's."""
        if not self.adaptation.collected:
            way_out = "train in bf16 or fp32, or call generated.collect() after backward, before the scaler's unscale_ and step"
            raise UserError(f"a GradScaler (fp16) does not know the gradients of generated weights; {way_out}")
        return False

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, _: bool) -> None:
        """Fused kinds say they do."""


@cache
def generated_step(kind: type[Optimizer]) -> type[GeneratedStep]:
    """A kind of optimizer as one of generated weights."""
    return cast(type[GeneratedStep], type(f"Generated{kind.__name__}", (GeneratedStep, kind), {"kind": kind}))


def _unmade(kind: type[Optimizer]) -> GeneratedStep:
    """One whose state is still to be set."""
    made = generated_step(kind)
    return made.__new__(made)
