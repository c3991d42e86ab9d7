import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.packing import BatchError, fill, pad_right, plan_batches

lengths = st.lists(st.tuples(st.integers(2, 60), st.integers(2, 60)), min_size=4, max_size=80)


@given(lengths, st.integers(120, 600), st.integers(0, 5), st.sampled_from([1, 2, 3, 4]))
def test_every_pair_once_within_the_budget_and_equal_shares(
    pairs: list[tuple[int, int]], budget: int, epoch: int, ranks: int
) -> None:
    batches = plan_batches(pairs, budget, seed=3, epoch=epoch, multiple=ranks)
    assert sorted(i for batch in batches for i in batch) == list(range(len(pairs)))
    assert len(batches) % ranks == 0
    assert all(batches[:-ranks])
    for batch in filter(None, batches):
        assert sum(sum(pairs[i]) for i in batch) <= budget
    assert batches == plan_batches(pairs, budget, seed=3, epoch=epoch, multiple=ranks)


def test_epochs_and_seeds_give_other_orders() -> None:
    pairs = [(n % 40 + 2, n % 17 + 2) for n in range(200)]
    plans = [plan_batches(pairs, 400, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert plans[0] != plans[1]
    assert plans[0] != plans[2]


def test_batches_are_full_of_real_tokens() -> None:
    pairs = [(int(10 + 190 * ((n * 37) % 100) / 100), 10) for n in range(1000)]
    batches = plan_batches(pairs, 4000, seed=0)
    assert sum(map(sum, pairs)) / (4000 * len(batches)) > 0.9


def test_pairs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BatchError, match="pair 1 takes 105 tokens"):
        plan_batches([(5, 5), (100, 5)], 100, seed=0)
    with pytest.raises(BatchError, match="no pairs"):
        plan_batches([], 150, seed=0)


def test_ranks_without_a_batch_get_an_empty_one_in_the_last_step() -> None:
    assert plan_batches([(5, 5)], 150, seed=0, multiple=3) == [[0], [], []]


def test_filling_and_padding() -> None:
    assert fill([4, 2, 9], [4, 8, 3], 12) == [[4, 2], [9]]
    assert fill([1, 2], [99, 1], 12) == [[1], [2]]
    assert pad_right([[1, 2, 3], [4]], 0).tolist() == [[1, 2, 3], [4, 0, 0]]
