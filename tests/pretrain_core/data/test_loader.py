"""Packing and loading: each token once, in an order that ranks and restarts do not change."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain_core.data import IGNORED, Batch, Document, Loader, TokenStore, pack, write_store

LENGTHS = [5, 1, 23, 8, 8, 17, 2, 3, 40, 6, 11]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    path = tmp_path_factory.mktemp("loader") / "a.tokens"
    return write_store(path, [[i * 50 + t for t in range(n)] for i, n in enumerate(LENGTHS)], 600)


def loader(store: TokenStore, **changed: int) -> Loader:
    given = {"sequences": 4, "length": 8, "seed": 7, "block_documents": 4, **changed}
    return Loader(store, **given)


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(2, 20))
def test_packing_holds_each_token_once(lengths: list[int], row: int) -> None:
    rows = pack(range(len(lengths)), lengths, row)
    assert all(0 < sum(p.length for p in pieces) <= row for pieces in rows)
    found = sorted((p.document, t) for r in rows for p in r for t in range(p.start, p.stop))
    assert found == [(d, t) for d, n in enumerate(lengths) for t in range(n)]
    assert rows == pack(range(len(lengths)), lengths, row)


def test_best_fit_cuts_only_what_is_longer_than_a_row() -> None:
    rows = pack(range(5), [5, 3, 20, 6, 2], 8)
    as_tuples = [[(p.document, p.start, p.stop) for p in row] for row in rows]
    assert as_tuples == [
        [(2, 0, 8)],
        [(2, 8, 16)],
        [(3, 0, 6), (4, 0, 2)],
        [(0, 0, 5), (1, 0, 3)],
        [(2, 16, 20)],
    ]


def test_an_empty_document_is_refused() -> None:
    with pytest.raises(ValueError, match="document 1 is empty"):
        pack(range(2), [3, 0], 8)


def check_targets(batch: Batch) -> None:
    bounds = batch.cu_seqlens.tolist()
    for piece, start, end in zip(batch.pieces, bounds, bounds[1:], strict=False):
        tokens, targets = batch.tokens[start:end].tolist(), batch.targets[start:end].tolist()
        whole = [piece.document * 50 + t for t in range(LENGTHS[piece.document])]
        assert tokens == whole[piece.start : piece.stop]
        # A cut piece ends with its true next token, a document with no target.
        assert targets == [*whole, IGNORED][piece.start + 1 : piece.stop + 1]


def test_targets_are_the_next_tokens_of_the_same_document(store: TokenStore) -> None:
    loaded = loader(store)
    for _ in range(6):
        step = loaded.step()
        for batch in step.batches:
            check_targets(batch)
        found = sum(int((batch.targets != IGNORED).sum()) for batch in step.batches)
        assert step.targets == found
        assert step.tokens == sum(len(batch.tokens) for batch in step.batches)


def test_an_epoch_holds_each_token_once(store: TokenStore) -> None:
    loaded = loader(store, sequences=1)
    rows = loaded.rows_in_epoch()
    tokens = [t for _ in range(rows) for b in loaded.step().batches for t in b.tokens.tolist()]
    assert sorted(tokens) == sorted(store.tokens.tolist())
    assert loaded.epoch == 1
    again = [t for b in loaded.step().batches for t in b.tokens.tolist()]
    assert again != tokens[: len(again)]


@pytest.mark.parametrize(("ranks", "micro"), [(1, 1), (1, 3), (2, 2), (2, 1), (4, 1)])
def test_ranks_and_micro_batches_share_out_the_same_global_step(
    store: TokenStore, ranks: int, micro: int
) -> None:
    whole = loader(store)
    parts = [loader(store, rank=rank, ranks=ranks, micro_sequences=micro) for rank in range(ranks)]
    for _ in range(5):
        expected = whole.step()
        steps = [part.step() for part in parts]
        got = [t for s in steps for b in s.batches for t in b.tokens.tolist()]
        assert sorted(got) == sorted(expected.batches[0].tokens.tolist())
        assert {(s.tokens, s.targets) for s in steps} == {(expected.tokens, expected.targets)}
        assert len({len(s.batches) for s in steps}) == 1
        for step, rank in zip(steps, range(ranks), strict=True):
            named = [set(documents) for documents in step.documents[rank]]
            assert named == [{p.document for p in b.pieces} for b in step.batches]


@given(steps=st.integers(0, 12))
def test_resume_at_any_step_is_exact(store: TokenStore, steps: int) -> None:
    one = loader(store)
    for _ in range(steps):
        one.step()
    two = loader(store)
    two.load_state(one.state())
    assert two.step().batches[0].tokens.tolist() == one.step().batches[0].tokens.tolist()
    assert two.state() == one.state()


def test_masks_remove_targets(tmp_path: Path) -> None:
    document = Document([3, 4, 5, 6], [False, False, True, True])
    store = write_store(tmp_path / "m", [document], 10, masked=True)
    step = loader(store, sequences=1).step()
    assert step.batches[0].tokens.tolist() == [3, 4, 5, 6]
    assert step.batches[0].targets.tolist() == [IGNORED, 5, 6, IGNORED]
    assert step.targets == 2


def test_sequences_that_ranks_cannot_share_are_refused(store: TokenStore) -> None:
    with pytest.raises(ValueError, match=r"batch\.sequences 4 is not a multiple of 3"):
        loader(store, ranks=3)
