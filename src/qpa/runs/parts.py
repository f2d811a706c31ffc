"""From a plan to the objects of a run: the adapted model, and what trains its adapter."""

from dataclasses import dataclass

from torch import Tensor

from qpa.adapters import base_weights, dora, methods, saved
from qpa.adapters.methods import AdaptedModel
from qpa.core.adaptation import Adaptation, DirectAdaptation, GeneratedAdaptation, Statistics
from qpa.core.circuits.cost import Usage
from qpa.errors import ConfigError, UserError
from qpa.library.generate import take_over
from qpa.runs.plan import Plan


@dataclass(frozen=True)
class Parts:
    """The objects of one run.

    Attributes:
        model: with the adapter.
        adaptation: what is trained, and how it reaches the adapter.
        initial: of an adapter that has rewritten weights of the base, its state when it was put on: export takes it away again.
    """

    plan: Plan
    model: AdaptedModel
    adaptation: Adaptation
    initial: dict[str, Tensor] | None

    @property
    def usage(self) -> Usage | None:
        """What circuits have run and how often they were measured; None where they are simulated exactly, or there are none."""
        adaptation = self.adaptation
        return getattr(adaptation.generator.latents, "usage", None) if isinstance(adaptation, GeneratedAdaptation) else None


def build(plan: Plan) -> Parts:
    """Load the base model, put the adapter on it, and build what is trained, all drawn from the seed.

    Raises:
        ConfigError: the method cannot be put on this model.
    """
    config = plan.config
    rewrites = base_weights.rewrites_base(config.peft)
    base = plan.task.base(own=base_weights.changes_base(config.peft))
    if rewrites:
        saved.untie(base, base.modules())
    model = methods.wrap(base, methods.make_config(config.peft), seed=config.seed)
    dora.without_dense_products(model)
    initial = saved.initial_state(model) if rewrites else None
    if tuple(methods.adapter_tensors(model)) != plan.tensors:
        raise ConfigError("peft", config.peft["_target_"], "puts other tensors on the model than on its skeleton; choose another method")
    return Parts(plan, model, _adaptation(plan, model), initial)


def _adaptation(plan: Plan, model: AdaptedModel) -> Adaptation:
    adaptation = _of_weights(plan, model)
    if names := methods.statistics(model):
        adaptation.statistics = Statistics(model.get_base_model(), names)
    return adaptation


def _of_weights(plan: Plan, model: AdaptedModel) -> Adaptation:
    parameters = methods.adapter_parameters(model)
    if plan.layout is None:
        return DirectAdaptation(parameters)
    beside = [parameters.pop(tensor.name) for tensor in plan.tensors if tensor.beside]
    try:
        return take_over(model, parameters, plan.layout, plan.config.settings, beside=beside)
    except UserError as error:
        raise ConfigError("peft", plan.config.peft["_target_"], f"{error}; use generator=none, or other settings") from error
