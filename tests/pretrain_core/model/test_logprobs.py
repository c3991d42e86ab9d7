"""The one log-probability: values, gradients, alignment, chunks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain_core.model import entropy_of, logprobs, logprobs_of, shifted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_values_and_gradients_are_those_of_log_softmax(
    dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, "cpu", chunk)
    logits = torch.randn(2, 5, 13).mul(4).to(dtype).requires_grad_()
    targets = torch.randint(13, (2, 5))
    weights = torch.randn(2, 5)
    ours = logprobs_of(logits, targets)
    theirs = logits.float().log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), logits)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), logits)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, expected)


def test_a_known_value() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    assert logprobs_of(logits, torch.tensor([1])).item() == pytest.approx(math.log(0.75))
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert entropy_of(logits).item() == pytest.approx(expected)


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4]])
    assert logprobs_of(logits, torch.tensor([0])).item() == pytest.approx(-math.log(2))
    assert entropy_of(logits).item() == pytest.approx(math.log(2))


def test_an_excluded_word_has_no_probability_and_no_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert logprobs_of(logits, torch.tensor([2])).item() == -torch.inf
    assert entropy_of(logits).item() == pytest.approx(math.log(2))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 99))
def test_shifted_reads_each_token_off_the_row_before_it(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    logits = torch.randn(total, 7, generator=generator)
    tokens = torch.randint(7, (total,), generator=generator)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    ours = shifted(logits, tokens, bounds)
    table = logits.log_softmax(-1)
    starts = set(bounds.tolist())
    for place in range(total):
        expected = 0.0 if place in starts else table[place - 1, tokens[place]].item()
        assert ours[place].item() == pytest.approx(expected, abs=1e-6)


def test_the_last_row_of_a_document_gets_no_gradient() -> None:
    logits = torch.randn(5, 7, requires_grad=True)
    shifted(logits, torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 2, 5])).sum().backward()
    assert logits.grad is not None
    assert (logits.grad.abs().amax(-1) > 0).tolist() == [True, False, True, True, False]


def test_entropy_is_bounded_and_differentiable() -> None:
    uniform = torch.zeros(3, 11, requires_grad=True)
    entropy = entropy_of(uniform)
    torch.testing.assert_close(entropy, torch.full((3,), math.log(11)))
    logits = torch.randn(4, 6, dtype=torch.float32, requires_grad=True)
    (gradient,) = torch.autograd.grad(entropy_of(logits).sum(), logits)
    softmax = logits.softmax(-1)
    plain = -(softmax * softmax.log()).sum(-1)
    (expected,) = torch.autograd.grad(plain.sum(), logits)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 9\) and targets \(3,\) do not match"):
        logprobs_of(torch.zeros(4, 9), torch.zeros(3, dtype=torch.int64))
