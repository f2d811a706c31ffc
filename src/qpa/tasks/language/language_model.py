"""A causal language model in two parts: the body, tokens to hidden states, and the head, hidden states to logits.

So that the loss never holds all logits at once (`loss`), and a frozen body need not run twice (`hidden_store`).
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, masking_utils

from qpa.adapters.methods import AdaptedModel, adapted_modules, prompt_arguments, replicates_layers
from qpa.adapters.saved import same_outputs
from qpa.errors import ConfigError

PROBE = 5  # tokens of the check that both parts together are the model
CLOSE = 1e-2  # of the logits' spread, in bf16
EXACT = 1e-4  # likewise, in fp32


def base_of(model: AdaptedModel | PreTrainedModel) -> PreTrainedModel:
    """The language model itself, whatever adapts it."""
    return model if isinstance(model, PreTrainedModel) else cast(PreTrainedModel, model.get_base_model())


class LanguageModel:
    """Body and head of an adapted model. What is not made of these two parts, by its own logits, has itself as body.

    Args:
        model: the language model, with an adapter or without.
    """

    def __init__(self, model: AdaptedModel | PreTrainedModel) -> None:
        self.model = model
        self.base = base_of(model)
        self.adapted = True
        text: Any = self.base.config.get_text_config()
        self.vocabulary: int = text.vocab_size
        head: Any = self.base.get_output_embeddings()
        self.width: int = text.hidden_size if head is None else head.weight.shape[-1]  # OPT-350m projects down before its head
        self.softcap: float | None = getattr(text, "final_logit_softcapping", None)
        self.whole = False
        self.whole = not self._parts_are_the_model()

    @property
    def head_module(self) -> nn.Module:
        """The output layer, with its adapter where it has one."""
        return cast(nn.Module, self.base.get_output_embeddings())

    def head_parameters(self) -> list[Tensor]:
        """What of the adapter lies in the head."""
        return [] if self.whole else [p for p in self.head_module.parameters() if p.requires_grad]

    @contextmanager
    def unadapted(self) -> Iterator[None]:
        """The model without its adapter within the block; weights of the base that the method has trained or rewritten stay so."""
        self.adapted = False
        try:
            with nullcontext() if isinstance(self.model, PreTrainedModel) else self.model.disable_adapter():
                yield
        finally:
            self.adapted = True

    def compile(self) -> None:
        """`torch.compile` the decoder's layers: they share their code, so one is compiled for all.

        Raises:
            ConfigError: the model does not say what its layers are.
        """
        if not self.layers():
            raise ConfigError("trainer.compile", True, f"{type(self.base).__name__} does not name its layers; set it to false")
        for layer in self.layers():
            layer.compile()

    def layers(self) -> list[nn.Module]:
        """The decoder's, as far as the model says what they are."""
        return [m for m in self.base.modules() if type(m).__name__ in (self.base._no_split_modules or ())]

    def body(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Token ids `[B, T]` -> what the head reads of each, `[B, T, hidden]`; of soft prompts before them, nothing.

        Args:
            ids: of one text in each row; of several where there are positions.
            positions: `[B, T]`, of each token in its own text, from 0 on: no text sees another.
        """
        run: Any = self.base if self.whole else self.base.get_decoder()
        placed = {} if positions is None else {"position_ids": positions}
        with _texts_of_a_window(positions):
            output = run(**prompt_arguments(self.model, ids), **placed) if self.adapted else run(input_ids=ids, **placed)
        hidden = output.logits if self.whole else output.last_hidden_state
        return hidden[:, -ids.shape[1] :]

    def head(self, hidden: Tensor) -> Tensor:
        """`[..., hidden]` -> logits `[..., vocab]`."""
        if self.whole:
            return hidden
        logits = self.head_module(hidden)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def only_head_is_adapted(self) -> bool:
        """Whether the PEFT method touches nothing but the head: the body's output then never changes."""
        if isinstance(self.model, PreTrainedModel) or replicates_layers(self.model):
            return False
        adapted = adapted_modules(self.model)
        trained = {parameter for parameter in self.base.parameters() if parameter.requires_grad}  # peft's `bias=all` trains the body's
        here = adapted <= set(self.head_module.modules()) and trained <= set(self.head_module.parameters())
        return not self.whole and len(adapted) > 0 and here

    @torch.no_grad()
    def frozen_body(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """The body without adapter and without dropout, `[B, T, hidden]`."""
        training = self.base.training
        self.base.eval()
        with self.unadapted(), torch.compiler.set_stance("force_eager"):
            hidden = self.body(ids, positions)
        self.base.train(training)
        return hidden

    @torch.no_grad()
    def keeps_apart(self) -> bool:
        """Whether texts in one window, told apart by their positions, are read as each alone; not every architecture sees to it."""
        ids = torch.arange(2 * PROBE, device=self.base.device)[None]
        positions = torch.arange(PROBE, device=self.base.device).repeat(2)[None]
        training = self.base.training
        self.base.eval()
        try:
            together, alone = self.head(self.body(ids, positions)[:, PROBE:]), self.head(self.body(ids[:, PROBE:]))
        except TypeError:  # it has no positions
            return False
        finally:
            self.base.train(training)
        return same_outputs(together, alone, within=CLOSE if self.base.dtype == torch.bfloat16 else EXACT)

    @torch.no_grad()
    def body_drops_out(self) -> bool:
        """Whether the body, as it is trained, puts out something else each time: dropout, however the model does it."""
        ids = torch.arange(PROBE, device=self.base.device)[None]
        training = self.base.training
        self.base.train()
        with self.unadapted(), torch.random.fork_rng(devices=[]):
            first, second = self.body(ids), self.body(ids)
        self.base.train(training)
        return not torch.equal(first, second)

    @torch.no_grad()
    def draws(self) -> bool:
        """Whether a forward pass draws random numbers as it is trained, as for dropout."""
        ids = torch.arange(PROBE, device=self.base.device)[None]
        training = self.base.training
        self.base.train()
        with torch.random.fork_rng():
            before = _random_states(self.base.device)
            self.head(self.body(ids))
            after = _random_states(self.base.device)
        self.base.train(training)
        return not torch.equal(before, after)

    def skips_at_random(self) -> bool:
        """Whether Python leaves modules out by chance as it is trained, as LoHa's and LoKr's `module_dropout` and OPT's `layerdrop` do."""
        modules = list(self.base.modules())
        chances = [getattr(module, "layerdrop", None) for module in modules]
        chances += [chance for module in modules for chance in (getattr(module, "module_dropout", None) or {}).values()]
        return any(isinstance(chance, float) and chance > 0 for chance in chances)

    @torch.no_grad()
    def _parts_are_the_model(self) -> bool:
        """Some models scale their logits, or have a body that is none of its own: they are taken whole."""
        if self.base.get_output_embeddings() is None or self.base.get_decoder() is self.base:
            return False
        ids = torch.arange(PROBE, device=self.base.device)[None]
        training = self.base.training
        self.base.eval()
        with self.unadapted():
            expected, found = self.base(input_ids=ids).logits, self.head(self.body(ids))
        self.head(self.body(ids))  # an adapter that does not run is found here, and not at the first step
        self.base.train(training)
        return same_outputs(found, expected, within=CLOSE)


@contextmanager
def _texts_of_a_window(positions: Tensor | None) -> Iterator[None]:
    """Tell transformers' attention masks which text each token is of. It looks at the positions itself, for which a GPU is waited for."""
    looks = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda _: None if positions is None else (positions == 0).cumsum(-1)
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = looks


def _random_states(device: torch.device) -> Tensor:
    """The processor's too: some methods draw there whatever they compute on."""
    of_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return torch.cat([torch.get_rng_state(), *of_device])
