"""Held-out language-model loss of any model folder that we can import."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pretrain_core.data.loader import IGNORED, collate
from pretrain_core.data.packing import Piece
from pretrain_core.data.store import StoreError, TokenStore
from pretrain_core.model import Transformer
from pretrain_core.train.loss import NextTokenLoss
from pretrain_core.train.weights import find_weights, read_weights

_TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class LossReport:
    """Mean loss in nats per target token; `tokens` is the number of targets."""

    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)


def evaluate_loss(
    model_folder: Path, store: TokenStore, max_tokens: int, length: int = 512
) -> LossReport:
    """Loss over the first `max_tokens` tokens of a store, its documents cut every `length` tokens.

    Same store, `max_tokens` and `length` give comparable figures. The folder is Hugging Face
    (Llama or InternLM2 names), a run or a checkpoint. Raises `StoreError` if the store's
    vocabulary is larger than the model's or the part holds no target.
    """
    model = read_weights(find_weights(model_folder))
    if store.vocab_size > model.config.vocab_size:
        raise StoreError(
            f"{store.path}: made with {store.vocab_size} tokens, {model_folder} has "
            f"{model.config.vocab_size}: not the model's tokenizer"
        )
    return loss_of(model, store, max_tokens, min(length, model.config.max_positions))


@torch.no_grad()
def loss_of(model: Transformer, store: TokenStore, max_tokens: int, length: int) -> LossReport:
    """As `evaluate_loss`, for a model in memory; fp32."""
    objective = NextTokenLoss(model)
    device = next(model.parameters()).device
    total = 0.0
    targets = 0
    for pieces in _batches(store, max_tokens, length):
        batch = collate(store, pieces)
        loss = objective(batch.tokens.to(device), batch.cu_seqlens, batch.targets.to(device))
        total += float(loss)
        targets += int((batch.targets != IGNORED).sum())
    if not targets:
        raise StoreError(f"{store.path}: no target in its first {max_tokens} tokens")
    return LossReport(total / targets, targets)


def _batches(store: TokenStore, max_tokens: int, length: int) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    held = seen = 0
    for document, size in enumerate(store.lengths.tolist()):
        for start in range(0, min(size, max_tokens - seen), length):
            piece = Piece(document, start, min(start + length, size, max_tokens - seen))
            batch.append(piece)
            held += piece.length
            if held >= _TOKENS_AT_ONCE:
                yield batch
                batch, held = [], 0
        seen += size
        if seen >= max_tokens:
            break
    if batch:
        yield batch
