"""A new head trained plainly beside a generated adapter: by the same step, counted, saved, and as stock peft reads it."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import LLAMA
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import windows
from torch.func import functional_call
from transformers import LlamaConfig, LlamaForSequenceClassification

import qpa
from qpa.adapters import methods, saved
from qpa.adapters.bottleneck import BottleneckConfig
from qpa.core.generator import view
from qpa.errors import UserError
from qpa.library.arguments import settings_from
from qpa.library.generate import Generated, take_over
from qpa.library.sizes import layout_of

LABELS = torch.tensor([0, 2, 1, 0])


def base() -> LlamaForSequenceClassification:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForSequenceClassification(
            LlamaConfig(**LLAMA, num_hidden_layers=1, num_labels=3, pad_token_id=0, initializer_range=0.2)
        )


def model() -> methods.AdaptedModel:
    return methods.wrap(base(), LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear"), seed=1)


def taken_over(adapted: methods.AdaptedModel) -> Generated:
    parameters = methods.adapter_parameters(adapted)
    tensors = methods.adapter_tensors(adapted)
    beside = [parameters.pop(tensor.name) for tensor in tensors if tensor.beside]
    settings = settings_from(seed=1, generator=None, latents=None, circuit=None, mapper={"width": 2})
    generated = take_over(adapted, parameters, layout_of(settings, [t for t in tensors if not t.beside]), settings, beside=beside)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in generated.generator.parameters():  # away from zero, where most gradients are none
            torch.nn.init.normal_(parameter, std=0.1)
    generated.write()
    return generated


def loss(adapted: torch.nn.Module) -> torch.Tensor:
    return adapted(input_ids=windows(4), labels=LABELS).loss


def test_what_peft_adds_as_a_head_is_beside_and_nothing_else() -> None:
    names = [tensor.name for tensor in methods.adapter_tensors(model()) if tensor.beside]
    assert names == ["base_model.model.score.modules_to_save.default.weight"]
    without = get_peft_model(base(), LoraConfig(r=2, target_modules="all-linear", modules_to_save=["score"]))  # of no task
    assert not any(tensor.beside for tensor in methods.adapter_tensors(without))


def test_one_step_is_that_of_generator_and_head_in_one_optimizer_clipped_together() -> None:
    adapted = model()
    generated = taken_over(adapted)
    head = generated.beside[0]
    twin, own = copy.deepcopy(generated.generator), torch.nn.Parameter(head.detach().clone())
    flat = twin()
    weights = {slot.tensor.name: view(flat, slot) for slot in generated.layout.slots}
    functional = {**weights, "base_model.model.score.modules_to_save.default.weight": own}
    functional_call(adapted, functional, kwargs={"input_ids": windows(4), "labels": LABELS}).loss.backward()
    torch.nn.utils.clip_grad_norm_([*twin.parameters(), own], 0.1)
    torch.optim.SGD([*twin.parameters(), own], lr=0.5).step()
    adapted.zero_grad()

    optimizer = generated.optimizer(torch.optim.SGD, lr=0.5, max_norm=0.1)
    before = head.detach().clone()
    loss(adapted).backward()
    optimizer.step()
    torch.testing.assert_close(head, own)
    assert not torch.equal(head, before)
    for ours, theirs in zip(generated.generator.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_head_counts_on_both_sides_of_the_ratio() -> None:
    adapted = model()
    generated = taken_over(adapted)
    counts = generated.counts
    assert counts.beside == generated.beside[0].numel() == 3 * LLAMA["hidden_size"]
    assert counts.plain_peft == sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert (
        counts.trainable
        == sum(parameter.numel() for parameter in generated.parameters())
        == sum((counts.latents, counts.mapper, counts.beside))
    )


def test_state_has_the_head_and_another_head_is_refused() -> None:
    first, second = taken_over(model()), taken_over(model())
    torch.nn.init.normal_(first.beside[0])
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.beside[0], first.beside[0])
    state = first.state_dict()
    with pytest.raises(UserError, match="other weights that were trained beside"):
        second.check_state({**state, "beside.0": state["beside.0"][:2]})
    with pytest.raises(UserError, match="other weights that were trained beside"):
        second.check_state({name: tensor for name, tensor in state.items() if name != "beside.0"})


def trained() -> tuple[methods.AdaptedModel, Generated]:
    adapted = model()
    generated = taken_over(adapted)
    optimizer = generated.optimizer(torch.optim.AdamW, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        loss(adapted).backward()
        optimizer.step()
    return adapted.eval(), generated


def test_stock_peft_reads_adapter_and_head_on_a_model_whose_head_is_another(tmp_path: Path) -> None:
    adapted, _ = trained()
    saved.save_adapter(adapted, tmp_path / "adapter", base_name=None)
    other = base()
    torch.nn.init.normal_(other.score.weight)
    read = PeftModel.from_pretrained(other, str(tmp_path / "adapter")).eval()
    assert torch.equal(read(input_ids=windows(4)).logits, adapted(input_ids=windows(4)).logits)


def test_compact_form_has_the_head(tmp_path: Path) -> None:
    adapted, generated = trained()
    generated.save(tmp_path / "compact")
    other = base()
    torch.nn.init.normal_(other.score.weight)
    read = qpa.load(other, tmp_path / "compact")
    assert torch.equal(read(input_ids=windows(4)).logits, adapted(input_ids=windows(4)).logits)


def test_pissa_is_exported_with_its_head(tmp_path: Path) -> None:
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", init_lora_weights="pissa")
    adapted = methods.wrap(base(), config, seed=1)
    initial = saved.initial_state(adapted)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    loss(adapted).backward()
    optimizer.step()
    adapted.eval()
    saved.save_adapter(adapted, tmp_path / "adapter", base_name=None, initial=initial)
    read = PeftModel.from_pretrained(base(), str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(read(input_ids=windows(4)).logits, adapted(input_ids=windows(4)).logits, rtol=1e-3, atol=1e-4)


def test_bottleneck_adapters_have_a_head_of_their_own(tmp_path: Path) -> None:
    shared = base()
    config = BottleneckConfig(4, "gelu", ["self_attn", "mlp"], modules_to_save=["score", "classifier"])
    adapted = methods.wrap(shared, config, seed=1)
    assert [t.name for t in methods.adapter_tensors(adapted) if t.beside] == ["base_model.score.weight"]
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    saved.save_adapter(adapted, tmp_path / "adapter", base_name=None)
    read = saved.load_adapter(base(), tmp_path / "adapter").eval()
    assert torch.equal(read(input_ids=windows(4)).logits, adapted.eval()(input_ids=windows(4)).logits)
