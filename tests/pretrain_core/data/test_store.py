"""Token store: what is written is read, and nothing broken is ever read."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from pretrain_core.data import (
    Document,
    Quarantine,
    SourceError,
    StoreError,
    TokenStore,
    build_store,
    read_texts,
    write_store,
)


@given(
    documents=st.lists(
        st.lists(st.tuples(st.integers(0, 99_999), st.booleans()), min_size=1, max_size=9),
        min_size=1,
        max_size=6,
    )
)
def test_documents_and_masks_survive(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[tuple[int, bool]]]
) -> None:
    path = tmp_path_factory.mktemp("store") / "a.tokens"
    write_store(
        path,
        [Document([t for t, _ in d], [m for _, m in d]) for d in documents],
        100_000,
        masked=True,
    )
    store = TokenStore.open(path)
    assert store.documents == len(documents)
    assert store.tokens.tolist() == [t for d in documents for t, _ in d]
    for index, document in enumerate(documents):
        assert store.document(index).tolist() == [t for t, _ in document]
        assert store.loss_mask(index).tolist() == [m for _, m in document]
        assert store.document(index, 1, 3).tolist() == [t for t, _ in document][1:3]


def test_small_vocabularies_take_two_bytes_a_token(tmp_path: Path) -> None:
    small = write_store(tmp_path / "s", [[1, 2, 3]], 512)
    large = write_store(tmp_path / "l", [[1, 2, 70_000]], 92_544)
    assert small.tokens.dtype == np.uint16
    assert large.document(0).tolist() == [1, 2, 70_000]
    assert small.loss_mask(0).all()
    assert small.sha256 != large.sha256


@pytest.mark.parametrize("damage", ["flip", "cut", "header", "missing"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.tokens"
    write_store(path, [list(range(100))], 512)
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[4096 + 20] ^= 1
    elif damage == "cut":
        del raw[-3:]
    elif damage == "header":
        raw[:10] = b"not header"
    path.write_bytes(raw)
    if damage == "missing":
        path.unlink()
    with pytest.raises(StoreError, match=r"a\.tokens"):
        TokenStore.open(path)


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([], "no documents"),
        ([[1], []], "document 1 is empty"),
        ([[1, 512]], "token id 512"),
        ([Document([1], [True])], "masked=True"),
    ],
)
def test_bad_documents_leave_no_file(tmp_path: Path, documents: list[list[int]], said: str) -> None:
    path = tmp_path / "a.tokens"
    with pytest.raises(StoreError, match=said):
        write_store(path, documents, 512)
    assert list(tmp_path.iterdir()) == []


def test_bad_records_are_quarantined_with_file_and_line(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    lines = [{"text": "one"}, {"txt": "two"}, {"text": ""}, {"text": "three"}]
    source.write_text("\n".join(map(json.dumps, lines)) + '\n[1]\n{"text": \n')
    (tmp_path / "b.txt").write_text("four")
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe")
    quarantine = Quarantine()
    texts = read_texts([source, tmp_path / "b.txt", tmp_path / "c.txt"], quarantine)
    assert list(texts) == ["one", "three", "four"]
    assert [(r.file.name, r.line) for r in quarantine.records] == [
        ("a.jsonl", 2),
        ("a.jsonl", 3),
        ("a.jsonl", 5),
        ("a.jsonl", 6),
        ("c.txt", 1),
    ]
    assert "5 records quarantined" in quarantine.summary()
    with pytest.raises(SourceError, match="no such file"):
        list(read_texts([tmp_path / "x.txt"], Quarantine()))


def test_documents_stand_between_bos_and_eos_and_text_stays_text(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    store = build_store(["a</s>b", "c"], tokenizer, tmp_path / "a")
    first = store.document(0).tolist()
    assert first[0] == tokenizer.bos_token_id
    assert first[-1] == tokenizer.eos_token_id
    assert first.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(first[1:-1]) == "a</s>b"
    assert store.vocab_size == len(tokenizer)
