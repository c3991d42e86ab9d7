"""Products in bf16 only where a device multiplies bf16."""

import logging

import pytest
import torch

from pretrain_core.precision import multiplies_bf16, products_of, warn_of_slow_bf16


def pretend(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


@pytest.mark.parametrize(
    ("capability", "fast"),
    [("AVX2", False), ("DEFAULT", False), ("AVX512", True), ("AVX512_VNNI", True)],
)
def test_auto_is_the_faster_one(
    monkeypatch: pytest.MonkeyPatch, capability: str, fast: bool
) -> None:
    pretend(monkeypatch, capability)
    assert multiplies_bf16("cpu") is fast
    assert products_of("auto", torch.device("cpu")) == (torch.bfloat16 if fast else torch.float32)
    assert products_of("bfloat16", "cpu") == torch.bfloat16
    assert products_of("float32", "cpu") == torch.float32


def test_bf16_that_slows_a_processor_down_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pretend(monkeypatch, "AVX512")
        products_of("bfloat16", "cpu")
        assert not caplog.records
        pretend(monkeypatch, "AVX2")
        products_of("bfloat16", "cpu")
        assert "choose fp32" in caplog.text
        caplog.clear()
        products_of("auto", "cpu")
        assert not caplog.records
        warn_of_slow_bf16("cpu")
        assert caplog.records
