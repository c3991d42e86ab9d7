"""Packed sequences: validation, selection, and cutting into micro-batches and shares."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.batch import (
    BatchError,
    Experience,
    Sequences,
    micro_batches,
    partition,
    scatter_back,
)

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


def sequences(lengths: list[int]) -> Sequences:
    start = 0
    parts = []
    for length in lengths:
        parts.append((list(range(start, start + length)), [False] + [True] * (length - 1)))
        start += length
    return Sequences.pack(parts)


def test_pack_and_select_keep_order_and_flags() -> None:
    batch = sequences([3, 1, 4])
    assert batch.n == 3
    assert batch.lengths.tolist() == [3, 1, 4]
    assert batch.actions == 5
    chosen = batch.select([2, 0])
    assert chosen.tokens.tolist() == [4, 5, 6, 7, 0, 1, 2]
    assert chosen.cu_seqlens.tolist() == [0, 4, 7]
    assert chosen.is_action.tolist() == [False, True, True, True, False, True, True]
    assert batch.select([]).n == 0


def test_experience_selects_every_array_alike() -> None:
    batch = sequences([2, 3])
    values = torch.arange(5.0)
    experience = Experience(("a", "b"), batch, values, values + 10, values + 20)
    one = experience.select([1])
    assert one.ids == ("b",)
    assert one.old_logprobs.tolist() == [2, 3, 4]
    assert one.advantages.tolist() == [12, 13, 14]
    assert one.returns.tolist() == [22, 23, 24]


def test_samples_stand_behind_their_contexts_with_all_that_belongs_to_them() -> None:
    batch = sequences([2, 3, 1])
    longer, at = batch.behind([(90, 91), (), (92,)])
    assert longer.tokens.tolist() == [90, 91, 0, 1, 2, 3, 4, 92, 5]
    assert longer.cu_seqlens.tolist() == [0, 4, 7, 9]
    assert longer.tokens[at].tolist() == batch.tokens.tolist()
    assert longer.is_action[at].tolist() == batch.is_action.tolist()
    assert longer.actions == batch.actions

    values = torch.arange(6.0)
    contexts = ((90, 91), (), (92,))
    experience = Experience(("a", "b", "c"), batch, values, values + 10, contexts=contexts)
    read = experience.select([2, 0]).behind_contexts()
    assert read.ids == ("c", "a")
    assert read.sequences.tokens.tolist() == [92, 5, 90, 91, 0, 1]
    assert read.old_logprobs.tolist() == [0, 5, 0, 0, 0, 1]
    assert read.returns is None
    joined = Experience.join([experience.select([0]), experience.select([1, 2])])
    assert joined.contexts == contexts
    with pytest.raises(BatchError, match="1 contexts for 3 sequences"):
        Experience(("a", "b", "c"), batch, values, values, contexts=((1,),))


@pytest.mark.parametrize(
    ("tokens", "ends", "flags", "message"),
    [
        ([1, 2], [0, 1], [False, True], "cu_seqlens"),
        ([1, 2], [0, 2, 2], [False, True], "sequence 1 is empty"),
        ([1, 2, 3], [0, 1, 3], [False, True, True], "sequence 1 starts with an action"),
        ([1, 2], [0, 2], [False], "is_action"),
    ],
)
def test_inconsistent_parts_are_refused(
    tokens: list[int], ends: list[int], flags: list[bool], message: str
) -> None:
    with pytest.raises(BatchError, match=message):
        Sequences(torch.tensor(tokens), torch.tensor(ends), torch.tensor(flags))


def test_experience_refuses_wrong_lengths() -> None:
    batch, values = sequences([2, 3]), torch.zeros(5)
    with pytest.raises(BatchError, match="1 ids for 2 sequences"):
        Experience(("a",), batch, values, values, values)
    with pytest.raises(BatchError, match="advantages"):
        Experience(("a", "b"), batch, values, torch.zeros(4), values)


@given(LENGTHS, st.integers(50, 300))
def test_micro_batches_hold_each_sequence_once_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    cut = micro_batches(lengths, budget)
    assert sorted(index for part in cut for index in part) == list(range(len(lengths)))
    assert all(len(part) * max(lengths[i] for i in part) <= budget for part in cut)
    assert cut == micro_batches(torch.tensor(lengths), budget)


def test_a_sequence_beyond_the_budget_is_named() -> None:
    with pytest.raises(BatchError, match="sequence 1 has 9 tokens, more than micro_batch_tokens 8"):
        micro_batches([3, 9], 8)


@given(LENGTHS, st.integers(1, 5))
def test_shares_are_balanced_and_join_again(lengths: list[int], ranks: int) -> None:
    batch = sequences(lengths)
    shares = partition(batch.lengths, ranks)
    tokens = [sum(lengths[i] for i in share) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths)
    joined = scatter_back([batch.select(share).tokens for share in shares], shares, batch)
    assert torch.equal(joined, batch.tokens)
