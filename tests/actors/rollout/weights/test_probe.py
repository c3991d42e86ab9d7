"""The probe names the worst token and knows the precision of both sides."""

import pytest
import torch

from actors.batch import Sequences
from actors.rollout.requests import Finished
from actors.rollout.weights.probe import check_probe, probe_batch, probe_requests
from actors.rollout.weights.wire import WeightPushError


def drawn_batch(version: int) -> Sequences:
    """The batch of a version, each reply the token 7 sixteen times, finished in another order."""
    requests = probe_requests(512, version)
    replies = [
        Finished(r.id, [7] * 16, [-1.0] * 16, None, "length", [version] * 16) for r in requests
    ]
    return probe_batch(requests, replies[::-1])


def test_probed_prompts_are_fixed_for_a_version_and_new_for_the_next() -> None:
    one, again, other = drawn_batch(3), drawn_batch(3), drawn_batch(4)
    assert torch.equal(one.tokens, again.tokens)
    assert not torch.equal(one.tokens, other.tokens)
    assert (one.n, one.actions, int(one.tokens.max()) < 512) == (4, 64, True)
    assert torch.equal(one.is_action, one.tokens == 7)


@pytest.mark.parametrize(("dtype", "fine", "bad"), [("float32", 5e-4, 5e-3), ("bfloat16", 0.3, 3)])
def test_the_worst_token_and_its_gap_are_named(dtype: str, fine: float, bad: float) -> None:
    batch = drawn_batch(0)
    trainer = torch.where(batch.is_action, -6.0, 0.0)
    engine = trainer.clone()
    engine[21] += fine
    assert check_probe(batch, engine, trainer, dtype).max_gap == pytest.approx(fine, rel=1e-2)
    engine[39] -= bad
    token = int(batch.tokens[39])
    with pytest.raises(WeightPushError, match=rf"engine 2 .* token {token} at position 39 "):
        check_probe(batch, engine, trainer, dtype, replica=2)


def test_a_small_gap_everywhere_and_nan_fail_too() -> None:
    batch = drawn_batch(0)
    trainer = torch.where(batch.is_action, -6.0, 0.0)
    with pytest.raises(WeightPushError, match=r"mean gap 0\.00080"):
        check_probe(batch, trainer + 8e-4, trainer, "float32")
    broken = trainer.clone()
    broken[5] = torch.nan
    with pytest.raises(WeightPushError, match="at position 5 "):
        check_probe(batch, broken, trainer, "float32")
