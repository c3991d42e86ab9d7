"""The whole model: packing, causality, gradients, initial weights, precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pretrain_core.draws import torch_generator
from pretrain_core.model import DocumentsError, Transformer, preset, shifted
from pretrain_core.model.transformer import Block
from tests.support import randomise

NANO = preset("nano")


def lively(**changes: object) -> Transformer:
    """A nano model whose logits differ visibly between tokens and contexts."""
    model = Transformer(NANO.model_copy(update=changes))
    randomise(model)
    return model


MODEL = lively()


def draw(lengths: list[int], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(NANO.vocab_size, (sum(lengths),), generator=generator)
    return tokens, torch.tensor([0, *lengths]).cumsum(0)


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@settings(max_examples=15, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 999))
def test_packed_documents_equal_separate_ones(lengths: list[int], seed: int) -> None:
    tokens, bounds = draw(lengths, seed)
    with torch.no_grad():
        packed = MODEL(tokens, bounds)
        alone = [MODEL(part, torch.tensor([0, len(part)])) for part in tokens.split(lengths)]
    torch.testing.assert_close(packed, torch.cat(alone), atol=3e-5, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 999), data=st.data())
def test_a_token_is_seen_by_later_tokens_of_its_document_only(
    lengths: list[int], seed: int, data: st.DataObject
) -> None:
    tokens, bounds = draw(lengths, seed)
    place = data.draw(st.integers(0, len(tokens) - 1))
    other = tokens.clone()
    other[place] = (other[place] + 1) % NANO.vocab_size
    with torch.no_grad():
        changed = (MODEL(tokens, bounds) - MODEL(other, bounds)).abs().amax(-1) > 1e-4
    end = next(int(bound) for bound in bounds if bound > place)
    assert not changed[:place].any()
    assert not changed[end:].any()
    assert changed[place]


def test_gradients_of_packed_documents_are_the_sum_of_separate_ones() -> None:
    lengths = [5, 5, 9, 3]
    tokens, bounds = draw(lengths, 0)

    def gradients(batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        MODEL.zero_grad()
        for part, cu_seqlens in batches:
            shifted(MODEL(part, cu_seqlens), part, cu_seqlens).sum().backward()
        return {name: p.grad.clone() for name, p in MODEL.named_parameters() if p.grad is not None}

    packed = gradients([(tokens, bounds)])
    alone = gradients([(part, torch.tensor([0, len(part)])) for part in tokens.split(lengths)])
    assert packed.keys() == {name for name, _ in MODEL.named_parameters()}
    for name, gradient in packed.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, alone[name], atol=2e-4, rtol=1e-3)


def test_the_rope_base_changes_what_the_model_says() -> None:
    tokens, bounds = draw([64], 1)
    other = lively(rope_base=50_000.0)
    other.load_state_dict(MODEL.state_dict())
    with torch.no_grad():
        difference = (MODEL(tokens, bounds) - other(tokens, bounds)).abs().amax(-1)
    assert difference[0] < 1e-5, "the first position is not rotated"
    assert difference[-1] > 1e-2


def test_initial_weights_follow_the_report() -> None:
    config = preset("tiny").model_copy(update={"layers": 3})
    model = Transformer(config, torch_generator(1, "init"))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == 1).all(), name
        elif not name.endswith(("wo.weight", "w2.weight")):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.03), name
    for index, block in enumerate(model.layers):
        assert isinstance(block, Block)
        expected = 0.02 / math.sqrt(2 * (index + 1))
        for projection in (block.attention.wo, block.feed_forward.w2):
            assert projection.weight.std().item() == pytest.approx(expected, rel=0.03)


def test_the_generator_alone_decides_the_initial_weights() -> None:
    first, second, third = (
        Transformer(NANO, torch_generator(seed, "init")).state_dict() for seed in (7, 7, 8)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["output.weight"], third["output.weight"])


def test_a_model_made_on_the_meta_device_can_be_filled_later() -> None:
    config = NANO.model_copy(update={"tied": True})
    with torch.device("meta"):
        model = Transformer(config)
    model.to_empty(device="cpu")
    model.tie()
    model.initialise(torch_generator(7, "init"))
    assert model.output.weight is model.tok_embeddings.weight
    tokens, bounds = draw([4], 0)
    assert torch.isfinite(model(tokens, bounds)).all()


def test_a_tied_head_gives_its_gradient_to_the_embedding() -> None:
    model = lively(tied=True)
    tokens, bounds = draw([6], 2)
    model(tokens, bounds).square().sum().backward()
    gradient = model.tok_embeddings.weight.grad
    assert gradient is not None
    unseen = torch.ones(NANO.vocab_size, dtype=torch.bool)
    unseen[tokens] = False
    assert (gradient[unseen].abs().amax(-1) > 0).all(), "the head reaches words that were not read"


def test_bf16_autocast_stays_near_fp32_and_keeps_fp32_gradients() -> None:
    model = Transformer(NANO, torch_generator(3, "init"))
    tokens, bounds = draw([32, 32, 7], 3)
    exact = shifted(model(tokens, bounds), tokens, bounds)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens, bounds)
        rough = shifted(logits, tokens, bounds)
    assert (logits.dtype, rough.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(rough, exact, atol=2e-2, rtol=0)
    rough.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_document_beyond_the_context_is_refused_by_name() -> None:
    model = lively(max_positions=8)
    tokens, bounds = draw([3, 9, 2], 0)
    with pytest.raises(DocumentsError, match=r"document 1 has 9 tokens, the model takes 8"):
        model(tokens, bounds)


def test_bounds_of_either_integer_type_are_taken() -> None:
    tokens, bounds = draw([3, 4], 0)
    assert torch.equal(MODEL(tokens, bounds), MODEL(tokens, bounds.int()))
