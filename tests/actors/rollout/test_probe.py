"""The probe names the worst token and knows the precision of both sides."""

import pytest
import torch

from actors.rollout.probe import check_probe, probe_batch
from actors.rollout.wire import WeightPushError


def test_probed_tokens_are_fixed_for_a_version_and_new_for_the_next() -> None:
    one, again, other = probe_batch(512, 3), probe_batch(512, 3), probe_batch(512, 4)
    assert torch.equal(one.tokens, again.tokens)
    assert not torch.equal(one.tokens, other.tokens)
    assert (one.n, one.actions, int(one.tokens.max()) < 512) == (4, 60, True)


@pytest.mark.parametrize(("dtype", "fine", "bad"), [("float32", 5e-4, 5e-3), ("bfloat16", 0.3, 3)])
def test_the_worst_token_and_its_gap_are_named(dtype: str, fine: float, bad: float) -> None:
    batch = probe_batch(512, 0)
    trainer = torch.where(batch.is_action, -6.0, 0.0)
    engine = trainer.clone()
    engine[21] += fine
    assert check_probe(batch, engine, trainer, dtype).max_gap == pytest.approx(fine, rel=1e-2)
    engine[37] -= bad
    token = int(batch.tokens[37])
    with pytest.raises(WeightPushError, match=rf"engine 2 .* token {token} at position 37 "):
        check_probe(batch, engine, trainer, dtype, replica=2)


def test_a_small_gap_everywhere_and_nan_fail_too() -> None:
    batch = probe_batch(512, 0)
    trainer = torch.where(batch.is_action, -6.0, 0.0)
    with pytest.raises(WeightPushError, match=r"mean gap 0\.00080"):
        check_probe(batch, trainer + 8e-4, trainer, "float32")
    broken = trainer.clone()
    broken[5] = torch.nan
    with pytest.raises(WeightPushError, match="at position 5 "):
        check_probe(batch, broken, trainer, "float32")
