"""What we change about a Hugging Face classifier: head, packed forward, vocabulary, noise."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reward import attention
from reward.attention import PACKED, USE_INSTEAD, Sequences
from reward.card import RewardModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ScoreHead(nn.Linear):
    """Bias-less head hidden → 1, in fp32 also under autocast and over a bf16 backbone."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores [..., 1] of hidden states [..., hidden]."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self.weight.float())


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing progress bars and reporting what is expected."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def make_room(network: "PreTrainedModel", vocabulary: int, draw: torch.Generator) -> None:
    """Room for added tokens: each new row is the mean embedding with a little noise."""
    old = network.get_input_embeddings().weight
    if vocabulary <= len(old):
        return
    mean, spread = old.detach().mean(dim=0), old.detach().std()
    before = len(old)
    network.resize_token_embeddings(vocabulary, mean_resizing=False)
    rows = network.get_input_embeddings().weight
    with torch.no_grad():
        noise = torch.empty(vocabulary - before, rows.shape[1]).normal_(generator=draw)
        rows[before:] = mean + 0.1 * spread * noise


class DetachedHeads(ScoreHead):
    """More heads on the same hidden states, which they read and never train."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores [..., heads] of hidden states [..., hidden]."""
        return super().forward(hidden.detach())


ENSEMBLE = "ensemble"  # where a network keeps its DetachedHeads


def install_head(network: "PreTrainedModel") -> None:
    """Give the network an fp32 score head and a forward pass that takes packed sequences."""
    head = getattr(network, "score", None)
    if not isinstance(head, nn.Linear) or head.bias is not None or head.out_features != 1:
        raise RewardModelError(
            f"{type(network).__name__} has no bias-less head `score` of one output: use a decoder "
            "that AutoModelForSequenceClassification supports (Llama, Qwen, Mistral, …)"
        )
    if not isinstance(head, ScoreHead):
        ours = ScoreHead(head.in_features, 1, bias=False, device="meta")
        ours.weight = nn.Parameter(head.weight.detach().float())
        network.score = ours
        _accept_packed(network)


def _accept_packed(network: "PreTrainedModel") -> None:
    attention.register()
    network.set_attn_implementation(PACKED)
    padded = network.forward

    @functools.wraps(padded)
    def forward(*args: Any, sequences: Sequences | None = None, **kwargs: Any) -> Any:
        if sequences is None:
            return padded(*args, **kwargs)
        return packed_scores(network, sequences, **kwargs)

    # On the instance, as accelerate does it: its class, and so its saved folder, stay HF's own.
    network.forward = forward


def packed_scores(network: "PreTrainedModel", sequences: Sequences, input_ids: Tensor) -> Tensor:
    """fp32 scores [sequences, heads] of packed tokens [tokens], read at each last token.

    Raises RewardModelError unless every layer has kept the sequences apart.
    """
    before = sequences.layers
    hidden = network.base_model(
        input_ids=input_ids[None],
        position_ids=sequences.documents.positions[None],
        # transformers builds no mask where it is given one of four dimensions.
        attention_mask=torch.empty(1, 1, 0, 0, device=input_ids.device),
        sequences=sequences,
        use_cache=False,
    ).last_hidden_state[0]
    layers = network.config.get_text_config().num_hidden_layers
    if sequences.layers - before != layers:
        raise RewardModelError(
            f"{type(network).__name__}: {sequences.layers - before} of {layers} layers keep packed "
            f"sequences apart, so their scores would mix: {USE_INSTEAD}"
        )
    at_ends = hidden[sequences.ends]
    scores: Tensor = network.score(at_ends)
    heads = getattr(network, ENSEMBLE, None)
    if heads is None:
        return scores
    if scores.requires_grad:
        # A gradient cut out of all heads' has gaps, for which some BLAS round otherwise: with and
        # without further heads the score must be the same, bit for bit.
        scores.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
    return torch.cat([scores, heads(at_ends)], dim=-1)
