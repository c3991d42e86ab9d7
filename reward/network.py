"""What we change about a Hugging Face sequence classifier: head, vocabulary, noise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def install_head(network: "PreTrainedModel") -> None:
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
