"""Shapes: the report's sizes, refusals."""

import pydantic
import pytest
import torch

from pretrain_core.model import PRESETS, ModelConfig, Transformer, preset
from pretrain_core.settings import SettingsError

NANO = preset("nano").model_dump()


@pytest.mark.parametrize(
    ("name", "billions"), [("1.8b", 1.889), ("7B", 7.738), ("20b", 19.861), ("tiny", 0.0065)]
)
def test_a_preset_has_the_reports_number_of_parameters(name: str, billions: float) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = Transformer(config)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == config.parameters
    assert counted / 1e9 == pytest.approx(billions, abs=5e-4)


@pytest.mark.parametrize("name", ["1.8b", "7b", "20b"])
def test_the_reports_sizes_share_vocabulary_kv_heads_and_head_width(name: str) -> None:
    config = preset(name)
    assert (config.vocab_size, config.kv_heads, config.head_dim) == (92_544, 8, 128)
    assert (config.norm_eps, config.tied, config.rope_base) == (1e-5, False, 1e6)


def test_a_tied_head_is_counted_once() -> None:
    config = ModelConfig(**{**NANO, "tied": True})
    model = Transformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.parameters


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"'2b' is not one of 1\.8b, 7b, 20b, tiny, nano"):
        preset("2b")
    with pytest.raises(SettingsError, match="did you mean 'tiny'"):
        preset("tinny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "not a multiple of heads 3"),
        ({"kv_heads": 3}, "not a multiple of kv_heads 3"),
        ({"hidden": 60, "heads": 4}, "rotary positions need it even"),
        ({"layers": 0}, "greater than 0"),
        ({"rope_theta": 1e4}, "Extra inputs"),
    ],
)
def test_an_impossible_shape_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        ModelConfig(**{**NANO, **change})


def test_presets_are_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        PRESETS["tiny"].layers = 7
