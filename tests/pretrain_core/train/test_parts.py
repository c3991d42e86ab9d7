"""Loss, schedule, meter and settings, each by itself."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from pretrain_core.data.loader import IGNORED
from pretrain_core.model import ModelConfig, preset
from pretrain_core.settings import SettingsError, load
from pretrain_core.sft import SftSettings
from pretrain_core.train import TrainSettings
from pretrain_core.train.loss import vocabulary_loss
from pretrain_core.train.meter import Meter, model_flops
from pretrain_core.train.schedule import factor_at, progress_of
from pretrain_core.train.settings import ModelSettings


def test_chunked_loss_and_gradients_equal_plain_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 16, generator=generator, requires_grad=True)
    # Large enough for several chunks of rows.
    weight = torch.randn(9000, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 9000, (300,), generator=generator)
    targets[::7] = IGNORED

    def plain(hidden: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
        loss = cross_entropy(hidden @ weight.t(), targets, reduction="sum")
        return [loss.detach(), *torch.autograd.grad(loss * 0.5, (hidden, weight))]

    exact = plain(hidden.double(), weight.double())
    expected = plain(hidden, weight)
    loss = vocabulary_loss(hidden, weight, targets)
    found = [loss.detach(), *torch.autograd.grad(loss * 0.5, (hidden, weight))]
    # How near fp32 comes depends on the processor: ours comes as near as the plain one.
    for ours, theirs, true in zip(found, expected, exact, strict=True):
        error = float((theirs - true).abs().max())
        assert float((ours - true).abs().max()) <= 2 * error + 1e-7
        assert error < 1e-5 * float(true.abs().max())


def test_bf16_loss_is_near_the_fp32_one_and_summed_in_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(512, 64, generator=generator)
    weight = torch.randn(1000, 64, generator=generator) * 0.05
    targets = torch.randint(0, 1000, (512,), generator=generator)
    exact = vocabulary_loss(hidden, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rough = vocabulary_loss(hidden, weight, targets)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=2e-3, atol=0)


def test_a_batch_without_targets_gives_zero_and_zero_gradients() -> None:
    hidden = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(16, 8, requires_grad=True)
    loss = vocabulary_loss(hidden, weight, torch.full((4,), IGNORED))
    loss.backward()
    assert loss.item() == 0.0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_schedule_rises_to_one_and_ends_at_the_final_share() -> None:
    assert factor_at(0.005, 0.01, 0.1) == pytest.approx(0.5)
    assert factor_at(0.01, 0.01, 0.1) == pytest.approx(1.0)
    assert factor_at(0.505, 0.01, 0.1) == pytest.approx(0.55)
    assert factor_at(1.0, 0.01, 0.1) == pytest.approx(0.1)
    assert factor_at(1.0, 0.0, 0.0) == pytest.approx(0.0)


@given(st.integers(0, 99), st.floats(0, 200))
def test_progress_follows_whichever_limit_comes_first(step: int, elapsed: float) -> None:
    both = progress_of(step, 100, elapsed, 100.0)
    assert both == min(1.0, max((step + 1) / 100, elapsed / 100))
    assert progress_of(step, 100) == (step + 1) / 100


def test_flops_count_the_causal_half_of_real_documents() -> None:
    config = ModelConfig(vocab_size=10, hidden=4, layers=1, heads=1, kv_heads=1, ffn=8)
    weights = 4 * 12 + 4 * 4 + 3 * 4 * 8 + 10 * 4
    assert model_flops(config, [5]) == 6 * weights * 5 + 6 * 1 * 4 * 25
    assert model_flops(config, [2, 3]) == 6 * weights * 5 + 6 * 1 * 4 * (4 + 9)
    # 7B at 4k: 6·N a token and a few per cent of attention on top.
    large = preset("7b")
    per_token = model_flops(large, [4096]) / 4096
    assert 1.0 < per_token / (6 * large.parameters) < 1.1


def test_meter_reports_rates_since_the_last_reading() -> None:
    meter = Meter(preset("nano"), peak=1e12)
    meter.add([10, 20])
    first = meter.read()
    assert first["perf/mfu"] == pytest.approx(first["perf/tflops"])
    assert first["perf/throughput"] > 0
    assert meter.read()["perf/throughput"] == 0


def test_model_overrides_apply_to_the_preset() -> None:
    config = ModelSettings(preset="nano", layers=3, hidden=64, tied=True).resolve(777)
    assert (config.vocab_size, config.layers, config.hidden, config.tied) == (777, 3, 64, True)
    with pytest.raises(SettingsError, match="not a multiple of heads"):
        ModelSettings(preset="nano", heads=5).resolve(777)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["steps=5", "tokens=100"], "exactly one of steps, tokens, epochs"),
        (["tokens=null", "steps=null"], "exactly one of steps, tokens, epochs"),
        (["data.store=x"], "either data.store or data.sources"),
        (["data.sources=[]", "data.store=x"], "tokenizer.folder"),
        (["batch.sequenzes=5"], "did you mean 'sequences'"),
        (["steps=0"], "steps"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(TrainSettings, "configs/pretrain/tiny.yaml", overrides)


@pytest.mark.parametrize("name", ["pretrain/tiny", "pretrain/paper", "sft/tiny", "sft/paper"])
def test_packaged_presets_are_good(name: str) -> None:
    schema = TrainSettings if name.startswith("pretrain") else SftSettings
    value = load(schema, Path("configs") / f"{name}.yaml").value
    assert math.isclose(value.optimiser.final, 0.1)
    if name == "sft/paper":
        assert value.optimiser.lr == 4e-5
    if name == "pretrain/paper":
        assert (value.optimiser.lr, value.optimiser.weight_decay) == (3e-4, 0.1)
        assert value.batch.sequences * value.batch.length == 4 * 2**20
