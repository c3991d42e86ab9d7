"""Attention inside documents, rotary positions, norm: each against a plain definition."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pretrain_core.model import Documents, DocumentsError, preset
from pretrain_core.model.attention import Attention, packed_attention, varlen_attention
from pretrain_core.model.norm import RMSNorm
from pretrain_core.model.rope import Rotary

CPU = torch.device("cpu")


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def masked_attention(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """The definition: every score, a mask of document and order, softmax."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    visible = (document[:, None] == document[None]) & torch.ones(
        len(document), len(document)
    ).tril().bool()
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_packed_attention_is_attention_under_a_document_mask(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    query, key, value = (
        torch.randn(total, heads, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2)
    )
    weights = torch.randn(total, 4, 8, generator=generator)
    documents = Documents.of(bounds(lengths), total, CPU)
    ours = packed_attention(query, key, value, documents)
    theirs = masked_attention(query, key, value, lengths)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    gradients = torch.autograd.grad((ours * weights).sum(), (query, key, value))
    expected = torch.autograd.grad((theirs * weights).sum(), (query, key, value))
    torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-4)


def test_consecutive_documents_of_equal_length_are_one_run() -> None:
    documents = Documents.of(bounds([3, 3, 2, 3]), 11, CPU)
    assert documents.runs == ((2, 3), (1, 2), (1, 3))
    assert documents.positions.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 2]
    assert documents.longest == 3


@pytest.mark.parametrize(
    ("cu_seqlens", "message"),
    [
        ([], r"must go from 0 to 4"),
        ([0], r"must go from 0 to 4"),
        ([1, 4], r"\[1, …, 4\]; it must go from 0 to 4"),
        ([0, 5], r"must go from 0 to 4"),
        ([0, 2, 2, 4], "document 1 has 0 tokens"),
        ([0, 3, 2, 4], "document 1 has -1 tokens"),
    ],
)
def test_bounds_that_do_not_fit_are_refused(cu_seqlens: list[int], message: str) -> None:
    with pytest.raises(DocumentsError, match=message):
        Documents.of(torch.tensor(cu_seqlens, dtype=torch.int64), 4, CPU)


def test_wqkv_rows_are_read_per_group_as_queries_key_value() -> None:
    """Two groups of two queries; each row of Wqkv copies one input, so that outputs name rows."""
    config = preset("nano").model_copy(update={"hidden": 16, "heads": 4, "kv_heads": 2})
    attention = Attention(config)
    seen: dict[str, Tensor] = {}

    def spy(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
        seen.update(query=query[0], key=key[0], value=value[0])
        return query

    attention.attend = spy
    with torch.no_grad():
        attention.wqkv.weight.zero_()
        attention.wqkv.weight[:, 0] = torch.arange(32.0)
    states = torch.zeros(1, 16)
    states[0, 0] = 1.0
    documents = Documents.of(torch.tensor([0, 1]), 1, CPU)
    attention(states, Rotary.at(documents.positions, 4, 1e4), documents)
    assert seen["query"].tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [16, 17, 18, 19],
        [20, 21, 22, 23],
    ]
    assert seen["key"].tolist() == [[8, 9, 10, 11], [24, 25, 26, 27]]
    assert seen["value"].tolist() == [[12, 13, 14, 15], [28, 29, 30, 31]]


def test_rotation_turns_each_pair_by_position_times_frequency() -> None:
    rotary = Rotary.at(torch.tensor([0, 3]), 4, 100.0)
    heads = torch.tensor([[[1.0, 1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0, 0.0]]])
    angles = torch.tensor([3.0, 3.0 / 10.0])
    rotated = rotary.rotate(heads)
    torch.testing.assert_close(rotated[0], heads[0])
    torch.testing.assert_close(rotated[1, 0], torch.cat((angles.cos(), angles.sin())))


@settings(max_examples=20, deadline=None)
@given(first=st.integers(0, 500), second=st.integers(0, 500), shift=st.integers(0, 500))
def test_scores_depend_on_the_distance_alone(first: int, second: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(first)
    query, key = torch.randn(2, 1, 1, 16, generator=generator, dtype=torch.float64)

    def score(q_at: int, k_at: int) -> float:
        at = [
            Rotary.at(torch.tensor([place]), 16, 1e4).rotate(x)
            for place, x in ((q_at, query), (k_at, key))
        ]
        return float((at[0] * at[1]).sum())

    # Angles are fp32: at 1,000 positions they carry an error of about 1e-4.
    assert score(first, second) == pytest.approx(score(first + shift, second + shift), abs=2e-3)


def test_the_gradient_of_a_rotation_is_right() -> None:
    rotary = Rotary.at(torch.arange(5), 8, 50.0)
    heads = torch.randn(5, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotary.rotate, heads)


def test_norm_follows_its_definition_in_fp32() -> None:
    norm = RMSNorm(8, 1e-5)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    x = torch.randn(3, 8)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    halved = norm(x.bfloat16())
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), expected, atol=2e-2, rtol=2e-2)


def test_the_cuda_kernel_takes_what_we_pass() -> None:
    """Shapes and arguments only, on the meta device: the kernel itself needs a GPU."""
    query, key, value = (
        torch.empty(7, heads, 32, device="meta", dtype=torch.bfloat16, requires_grad=True)
        for heads in (4, 2, 2)
    )
    documents = Documents.of(bounds([3, 4]), 7, CPU)
    documents = dataclasses.replace(documents, cu_seqlens=documents.cu_seqlens.to("meta"))
    attended = varlen_attention(query, key, value, documents)
    assert attended.shape == query.shape
    attended.sum().backward()
    assert key.grad is not None
    assert key.grad.shape == key.shape
