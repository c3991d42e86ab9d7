"""Shares add up to 1 however a step is cut, and weigh tokens or sequences alike."""

from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.batch import Sequences, Totals
from actors.losses import Aggregation, token_shares

BATCH = Sequences.pack([([1, 2, 3, 4], [False, True, True, False]), ([5, 6], [False, True])])


def test_by_hand() -> None:
    totals = Totals.of(BATCH)
    assert token_shares(BATCH, totals, "token_mean").tolist() == pytest.approx([1 / 3] * 3)
    by_sequence = token_shares(BATCH, totals, "sequence_mean")
    assert by_sequence.tolist() == pytest.approx([0.25, 0.25, 0.5])


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=6),
    st.sampled_from(["token_mean", "sequence_mean"]),
    st.randoms(use_true_random=False),
)
def test_parts_of_a_step_add_up_to_one(
    rows: list[list[bool]], aggregation: Aggregation, draws: Random
) -> None:
    batch = Sequences.pack((list(range(len(row) + 2)), [False, *row, True]) for row in rows)
    totals = Totals.of(batch)
    order = list(range(batch.n))
    draws.shuffle(order)
    cut = draws.randint(0, batch.n)
    parts = [batch.select(part) for part in (order[:cut], order[cut:]) if part]
    shares = torch.cat([token_shares(part, totals, aggregation) for part in parts])
    assert shares.sum().item() == pytest.approx(1.0, abs=1e-6)
