"""DoRA without its dense product says what stock peft says: outputs, gradients, perplexities."""

import copy

import peft
import pytest
import torch
from peft.tuners.lora.dora import DoraLinearLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from qpa.adapters import dora
from qpa.adapters.dora import LowRankDora


class Two(nn.Module):
    def __init__(self, *, conv: bool, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        kind = (lambda inputs, outputs: Conv1D(outputs, inputs)) if conv else (lambda i, o: nn.Linear(i, o, bias=bias))
        self.first, self.second = kind(24, 700).to(dtype), kind(700, 16).to(dtype)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def pair(*, conv: bool = False, bias: bool = True, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> tuple[nn.Module, nn.Module]:
    """Stock peft's DoRA with factors that are not near zero, and the same without dense products."""
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4, lora_alpha=12, use_dora=True, target_modules=["first", "second"], lora_dropout=dropout, fan_in_fan_out=conv
    )
    stock = peft.get_peft_model(Two(conv=conv, bias=bias, dtype=dtype), config)
    for name, parameter in stock.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    ours = copy.deepcopy(stock)
    dora.without_dense_products(ours)
    assert sum(type(m) is LowRankDora for m in ours.modules()) == sum(type(m) is DoraLinearLayer for m in stock.modules()) == 2
    return stock, ours


@pytest.mark.parametrize("kind", [{}, {"conv": True}, {"bias": False}, {"dropout": 0.4}, {"dtype": torch.bfloat16}])
def test_outputs_and_gradients_are_those_of_stock_peft(kind: dict) -> None:
    stock, ours = pair(**kind)
    x = torch.randn(5, 24, dtype=kind.get("dtype", torch.float32))
    weights = torch.randn(5, 16)
    found = []
    for model in (stock, ours):
        torch.manual_seed(1)  # of the same dropout
        output = model(x)
        (output.float() * weights).sum().backward()
        found.append((output.float(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    close = {"rtol": 1e-4, "atol": 1e-5} if "dtype" not in kind else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(found[1][0], found[0][0], **close)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, **close)


def test_norms_are_those_of_the_dense_product_in_float64() -> None:
    _, ours = pair(dtype=torch.bfloat16)
    layer = ours.base_model.model.first
    first, second = layer.lora_A.default.weight, layer.lora_B.default.weight
    dense = layer.base_layer.weight.double() + layer.scaling["default"] * second.double() @ first.double()
    norm = layer.lora_magnitude_vector.default.norm(layer.base_layer, first, second, layer.scaling["default"])
    torch.testing.assert_close(norm.double(), dense.norm(dim=1), rtol=1e-6, atol=0)


def test_norm_follows_every_change_of_the_factors_and_the_weight() -> None:
    _, ours = pair()
    ours.eval()
    layer = ours.base_model.model.first
    first, second = layer.lora_A.default.weight, layer.lora_B.default.weight

    def norm() -> torch.Tensor:
        return layer.lora_magnitude_vector.default.norm(layer.base_layer, first, second, layer.scaling["default"])

    norm()
    for changed in (first, second, first.data, second.data, layer.base_layer.weight):
        with torch.no_grad():
            changed.mul_(1.5)
        dense = layer.base_layer.weight + layer.scaling["default"] * second @ first
        torch.testing.assert_close(norm(), dense.norm(dim=1))


def test_row_that_the_update_cancels_has_norm_zero_and_not_nan() -> None:
    _, ours = pair()
    layer = ours.base_model.model.first
    first, second = layer.lora_A.default.weight, layer.lora_B.default.weight
    with torch.no_grad():
        layer.base_layer.weight[3] = -layer.scaling["default"] * (second @ first)[3]
    norm = layer.lora_magnitude_vector.default.norm(layer.base_layer, first, second, layer.scaling["default"])
    assert 0 <= norm[3] < 1e-2


def test_step_zero_is_the_base_model_bit_for_bit(make_config) -> None:
    from conftest import build

    built = build(make_config("peft=dora", "model.dtype=bfloat16"))
    built.model.eval()
    ids = torch.arange(20)[None]
    with torch.no_grad(), built.model.disable_adapter():
        base = built.model(input_ids=ids).logits
    with torch.no_grad():
        adapted = built.model(input_ids=ids).logits
    assert torch.equal(adapted, base)


def test_saved_adapter_is_read_by_stock_peft_with_the_perplexity_on_record(make_config, tmp_path) -> None:
    from conftest import folder_of, planned, train_run

    from qpa.adapters import saved
    from qpa.runs import record
    from qpa.training.held_out import HeldOut
    from qpa.training.trainer import make_trainer

    config = make_config("peft=dora", "optimizer.lr=0.1")
    train_run(config)
    plan = planned(config)
    plan.task.prepare()
    model = saved.load_adapter(plan.task.base(), folder_of(config) / "adapter")
    assert any(type(m) is DoraLinearLayer for m in model.modules())
    reader = HeldOut(plan.task.learner(model), ["test"])
    trainer = make_trainer(plan.config.trainer, tmp_path, steps=1, context=plan.context, metric=plan.task.metric, callbacks=[])
    trainer.test(reader, [plan.task.held_out()["test"]], verbose=False)
    assert reader.found()["test"]["perplexity"] == pytest.approx(record.read(folder_of(config))["qpa"]["test"]["perplexity"], rel=1e-5)
