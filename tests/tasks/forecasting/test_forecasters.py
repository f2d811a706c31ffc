"""The networks, and the numbers that were published of them."""

import json

import pytest
import torch
from conftest import planned
from rivers import config
from torch import nn

from qpa.commands import plan
from qpa.config import parse
from qpa.config.composing import composed
from qpa.core.layout import AdapterTensor
from qpa.core.layout import plan as layout_of
from qpa.core.mappers.quantum_train import QuantumTrainMapper
from qpa.core.mappers.quantum_train_scaled import QuantumTrainScaledMapper
from qpa.core.mappers.rows import Start
from qpa.tasks.forecasting.networks import LSTM, Block, Transformer


def choices(*overrides: str) -> list[str]:
    found = composed("train", ["name=tiny", *overrides])
    return [found["data"]["source"], found["model"]["source"], found["peft"]["_target_"].rsplit(".")[-1], found["mapper"]["kind"]]


def test_task_chooses_and_the_command_line_wins() -> None:
    assert choices("task=forecasting") == ["series_package", "lstm", "WholeConfig", "quantum_train_scaled"]
    assert choices("peft=lora", "data=series", "task=forecasting") == ["series", "lstm", "LoraConfig", "tied"]
    assert choices("task=forecasting", "peft=whole")[2:] == ["WholeConfig", "quantum_train"]
    assert choices("task=forecasting", "mapper=subspace")[2:] == ["WholeConfig", "subspace"]


@pytest.mark.parametrize(("columns", "weights"), [("[Q]", 31_051), ("[Prec,Q]", 31_251), ("null", 31_851)])
def test_published_count_is_that_of_the_plan(capsys: pytest.CaptureFixture, columns: str, weights: int) -> None:
    plan.main(["task=forecasting", f"data.inputs={columns}", "plan.output=json"])
    found = json.loads(capsys.readouterr().out)
    assert found["trainable"] == 13_089 + 225 + 13 == 13_327
    assert found["generated"] == weights
    assert found["qubits"] == 15


def test_lstm_is_stock_torchs() -> None:
    torch.manual_seed(0)
    network, stock, last = LSTM(5, hidden=50, layers=2), nn.LSTM(5, 50, 2, batch_first=True), nn.Linear(50, 1)
    assert sum(p.numel() for p in LSTM(1, hidden=50, layers=2).parameters()) == 31_051
    stock.load_state_dict(network.lstm.state_dict())
    last.load_state_dict(network.linear.state_dict())
    windows = torch.randn(3, 30, 5)
    torch.testing.assert_close(network(windows), last(stock(windows)[1][0][-1])[:, 0])


def test_block_is_torchs_encoder_layer() -> None:
    torch.manual_seed(0)
    block, layer = Block(8, 2, 12), nn.TransformerEncoderLayer(8, 2, 12, dropout=0, batch_first=True, norm_first=True)
    renamed = {"attention.weight": "self_attn.in_proj_weight", "attention.bias": "self_attn.in_proj_bias"}
    renamed |= {f"out.{part}": f"self_attn.out_proj.{part}" for part in ("weight", "bias")}
    layer.load_state_dict({renamed.get(name, name): tensor for name, tensor in block.state_dict().items()})
    windows = torch.randn(3, 6, 8)
    torch.testing.assert_close(block(windows), layer(windows))


def test_transformer_tells_times_apart() -> None:
    torch.manual_seed(0)
    network, windows = Transformer(2, 6, width=8, heads=2, hidden=12, layers=2), torch.randn(3, 6, 2)
    assert network(windows).shape == (3,)
    assert not torch.allclose(network(windows), network(windows[:, [1, 0, 2, 3, 4, 5]]))


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_weights_are_the_seeds(tmp_path, model: str) -> None:
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        return planned(config(tmp_path, f"seed={seed}", model=model)).task.base().state_dict()

    torch.testing.assert_close(drawn(1), drawn(1), rtol=0, atol=0)
    assert not torch.equal(drawn(1)["linear.weight"], drawn(2)["linear.weight"])


# The mapper whose constants are trained, with a factor for each tensor

TENSORS = [AdapterTensor("lstm.weight", (5, 9), "m", along="first"), AdapterTensor("lstm.bias", (5,), "m", along="first")]
PUBLISHED = {"hidden": [4, 3], "activation": "none", "gain": 0.1, "bound": 0.8, "power": 0.3}


@pytest.mark.parametrize("chunk_size", [1, None])
def test_scaled_mapper_begins_as_the_other_and_multiplies_each_tensor(chunk_size: int | None) -> None:
    layout = layout_of(TENSORS, circuits="shared", qubits=None, chunk_size=chunk_size)
    made: list[QuantumTrainMapper] = []
    for kind in (QuantumTrainMapper, QuantumTrainScaledMapper):
        torch.manual_seed(0)
        made.append(kind(layout, **PUBLISHED, from_zero=False))
    plain, scaled = made
    assert isinstance(scaled, QuantumTrainScaledMapper)
    assert sum(p.numel() for p in scaled.parameters()) == sum(p.numel() for p in plain.parameters()) + 3 + 2
    features = torch.rand(len(layout.chunks)) * 3 - 0.9
    torch.testing.assert_close(scaled(features), plain(features))
    factors = torch.ones(layout.size)
    factors[layout.slots[1].offset :][:5] = 7.0
    scaled.factors.data[1] = 7.0
    torch.testing.assert_close(scaled(features), plain(features) * factors)
    start = torch.randn(layout.size)
    torch.testing.assert_close(scaled(features, Start(layout, start)), plain(features) * factors + start)
    scaled.logarithms.data[2] = torch.tensor(0.5).log()
    other = QuantumTrainMapper(layout, **PUBLISHED | {"power": 0.5}, from_zero=False)
    other.load_state_dict(plain.state_dict())
    torch.testing.assert_close(scaled(features), other(features) * factors)


def test_all_that_the_scaled_mapper_trains_has_the_gradient_of_finite_differences() -> None:
    layout = layout_of(TENSORS, circuits="shared", qubits=None, chunk_size=1)
    torch.manual_seed(0)
    mapper = QuantumTrainScaledMapper(layout, **PUBLISHED, from_zero=False).double()
    features = torch.rand(50, dtype=torch.float64) * 3 - 0.9
    names, numbers = zip(*mapper.named_parameters(), strict=True)

    def generated(*given: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(mapper, dict(zip(names, given, strict=True)), (features,))

    assert {"logarithms", "factors"} <= {*names}
    assert torch.autograd.gradcheck(generated, numbers)


def test_default_config_is_one_that_can_run() -> None:
    task = planned(parse(composed("train", ["task=forecasting", "logger=none"]))).task
    assert task.title() == "LSTM 5-50-50-1 on fulda_climate, Q 1 day ahead"
    assert task.steps == 452
