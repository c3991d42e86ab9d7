"""The HF engine's sampler: nucleus, seeds, and the log-probs of what was really drawn."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.rollout.engines.sampling import draw, nucleus, outside_nucleus


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=12), st.floats(0.05, 1.0, exclude_max=True))
def test_the_nucleus_is_the_smallest_set_of_enough_mass(scores: list[float], top_p: float) -> None:
    logprobs = torch.tensor([scores], dtype=torch.float64).log_softmax(-1)
    kept = nucleus(logprobs, top_p)[0]
    inside = kept.isfinite()
    mass = logprobs.exp()[0]
    assert kept.exp().sum().item() == pytest.approx(1.0)
    assert mass[inside].sum() >= top_p - 1e-9
    assert mass[inside].sum() - mass[inside].min() < top_p
    if (~inside).any():
        assert mass[inside].min() >= mass[~inside].max()


def test_known_values() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    kept = nucleus(probabilities.log(), 0.75)
    assert kept.exp()[0].tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert nucleus(probabilities.log(), 1.0).exp()[0].tolist() == pytest.approx(
        [0.5, 0.3, 0.15, 0.05]
    )


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = 4000
    drawn, behaviour, raw = draw(
        probabilities.log().expand(rows, 4), 1.0, 1.0, None, generators(*range(rows))
    )
    share = drawn.bincount(minlength=4) / rows
    # Five standard deviations of the largest share.
    assert (share - probabilities).abs().max() < 5 * (0.25 / rows) ** 0.5
    assert torch.equal(behaviour, raw)
    assert behaviour.exp().tolist() == pytest.approx(probabilities[drawn].tolist(), rel=1e-5)


def test_processed_and_raw_logprobs_differ_by_what_was_done() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    forbidden = torch.tensor([[True, False, False, False]])
    drawn, behaviour, raw = draw(logits, 0.5, 0.5, forbidden, generators(3))
    assert drawn.tolist() == [1]
    assert behaviour.item() == 0.0
    assert raw.item() == pytest.approx(logits.log_softmax(-1)[0, 1].item())
    drawn, behaviour, _ = draw(logits, 0.0, 0.5, forbidden, [])
    assert drawn.tolist() == [1]
    assert behaviour.item() == pytest.approx(logits[:, 1:].log_softmax(-1)[0, 0].item())


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    together, *_ = draw(logits, 1.0, 0.9, None, generators(*range(6)))
    alone = [draw(logits[i : i + 1], 1.0, 0.9, None, generators(i))[0].item() for i in range(6)]
    assert together.tolist() == alone


@pytest.mark.parametrize("likeliest", [1, 3, 40, 1000])
def test_how_many_tokens_are_put_in_order_first_changes_nothing(likeliest: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # From peaked rows to flat ones, whose nucleus is wider than what is looked at first.
    sharpness = torch.tensor([30.0, 3.0, 1.0, 0.1, 0.0, 1.0]).unsqueeze(-1)
    logprobs = (torch.randn(6, 200, generator=generator) * sharpness).log_softmax(-1)
    top_p = torch.tensor([0.9, 0.5, 0.99, 0.9, 0.3, 1.0])
    found = outside_nucleus(logprobs, top_p, likeliest)
    for row, kept in enumerate(~found):
        alone = nucleus(logprobs[row : row + 1], float(top_p[row]))[0]
        assert torch.equal(kept, alone > -torch.inf)
        mass = logprobs[row].exp()[kept]
        assert mass.sum() >= top_p[row] - 1e-5
        assert mass.sum() - mass.min() < top_p[row]
    assert found.sum(-1)[-1] == 0
