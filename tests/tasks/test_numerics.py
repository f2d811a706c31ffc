"""What `auto` stands for on a machine."""

import pytest
import torch

from qpa.tasks.numerics import fast_in_bf16


@pytest.mark.parametrize(
    ("cpu", "has", "fast"),
    [
        ("Intel Xeon", {"avx512_bf16": True, "amx_bf16": True}, True),
        ("Intel Xeon", {"avx512_bf16": True, "amx_bf16": False}, False),
        ("AMD EPYC", {"avx512_bf16": True}, True),
        ("AMD EPYC", {}, False),
        ("Arm", {}, False),
    ],
)
def test_bf16_is_taken_where_the_processor_is_faster_in_it(
    monkeypatch: pytest.MonkeyPatch, cpu: str, has: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": cpu, **has})
    assert fast_in_bf16("cpu") is fast
