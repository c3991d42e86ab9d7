"""Packed scoring equals padded scoring, for decoders that use transformers' interface."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

from reward import attention
from reward.attention import PACKED, PackedAttentionError, Sequences
from reward.card import RewardModelError
from reward.network import install_head
from reward.packing import pad_right
from tests.support import randomise

PAD = 0
NANO: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "num_labels": 1,
}
WINDOWED = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
CONFIGS = {
    "llama": LlamaConfig(**NANO | {"num_key_value_heads": 2}),
    "qwen2": Qwen2Config(**NANO),
    "mistral": MistralConfig(**NANO, sliding_window=None),
    "mistral, window": MistralConfig(**NANO, sliding_window=8),
    "qwen2, window in one layer": Qwen2Config(**NANO, **WINDOWED),
}


def pair_of(config: Any) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same network as Hugging Face makes it, and as we use it."""
    theirs, ours = (AutoModelForSequenceClassification.from_config(config) for _ in range(2))
    randomise(theirs, std=0.1)
    ours.load_state_dict(theirs.state_dict())
    install_head(ours)
    return theirs.eval(), ours.eval()


NETWORKS = {name: pair_of(config) for name, config in CONFIGS.items()}


def packed(network: PreTrainedModel, inputs: list[list[int]]) -> torch.Tensor:
    sequences = Sequences.of([len(tokens) for tokens in inputs], torch.device("cpu"))
    tokens = torch.tensor([token for row in inputs for token in row])
    scores: torch.Tensor = network(input_ids=tokens, sequences=sequences)
    return scores[:, 0]


def padded(network: PreTrainedModel, inputs: list[list[int]]) -> torch.Tensor:
    tokens = pad_right(inputs, PAD)
    output = network(input_ids=tokens, attention_mask=(tokens != PAD).long())
    scores: torch.Tensor = output.logits[:, 0]
    return scores


def gradients(network: PreTrainedModel, scores: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, len(scores) + 1)[1:]
    return list(torch.autograd.grad((scores * weights).mean(), list(network.parameters())))


def draw_inputs(lengths: list[int], seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 64, (n,), generator=generator).tolist() for n in lengths]


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=9),
    seed=st.integers(0, 99),
    name=st.sampled_from(list(CONFIGS)),
)
def test_packed_scores_and_gradients_are_the_padded_ones(
    lengths: list[int], seed: int, name: str
) -> None:
    theirs, ours = NETWORKS[name]
    inputs = draw_inputs(lengths, seed)
    found, expected = packed(ours, inputs), padded(theirs, inputs)
    assert torch.allclose(found, expected, atol=1e-5, rtol=0)
    pairs = zip(gradients(ours, found), gradients(theirs, expected), strict=True)
    for mine, reference in pairs:
        assert torch.allclose(mine, reference, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mistral, window"])
def test_padded_calls_still_work(name: str) -> None:
    theirs, ours = NETWORKS[name]
    inputs = draw_inputs([20, 9, 14], 1)
    assert ours.config._attn_implementation == PACKED
    assert torch.equal(padded(ours, inputs), padded(theirs, inputs))


@pytest.mark.parametrize("float_up_to", [0, 25, 256])
def test_half_precision_does_not_mix_sequences(
    monkeypatch: pytest.MonkeyPatch, float_up_to: int
) -> None:
    monkeypatch.setattr(attention, "FLOAT_UP_TO", float_up_to)
    _, ours = NETWORKS["llama"]
    inputs = draw_inputs([30, 7, 21], 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        together = packed(ours, inputs)
        alone = torch.cat([packed(ours, [tokens]) for tokens in inputs])
    assert together.dtype == torch.float32
    assert torch.allclose(together, alone, atol=0.05)


def test_dense_batches_hold_similar_lengths_and_every_token_once() -> None:
    lengths = [100, 10, 95, 400, 81, 3, 380]
    sequences = Sequences.of(lengths, torch.device("cpu"))
    assert sequences.batches == ((2, 400), (3, 100), (2, 10))
    assert len(set(sequences.places.tolist())) == sum(lengths)
    assert int(sequences.places.max()) < sequences.dense_tokens
    assert sequences.ends.tolist() == [99, 109, 204, 604, 685, 688, 1068]


def test_attention_that_is_more_than_causal_is_refused() -> None:
    config = Gemma2Config(**NANO, head_dim=32)
    network = AutoModelForSequenceClassification.from_config(config)
    install_head(network)
    with pytest.raises(PackedAttentionError, match="softcap"):
        packed(network, draw_inputs([3, 4], 0))


def test_layers_that_would_mix_sequences_are_refused() -> None:
    network = AutoModelForSequenceClassification.from_config(CONFIGS["llama"])
    install_head(network)
    layer = network.model.layers[1].self_attn
    inner = layer.forward
    layer.forward = lambda *args, sequences, **kwargs: inner(*args, **kwargs)
    with pytest.raises(PackedAttentionError, match="does not hand packed sequences on"):
        packed(network, draw_inputs([3, 4], 0))
    # As a layer that is no attention at all, but a state-space model.
    layer.forward = lambda hidden_states, **kwargs: (hidden_states.cumsum(1), None)
    with pytest.raises(RewardModelError, match="1 of 2 layers keep packed sequences apart"):
        packed(network, draw_inputs([3, 4], 0))
