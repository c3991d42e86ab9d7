"""A reward model that is asked about each text once, however many measurements read it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reward.model import RewardModel


class RememberingModel(RewardModel):
    """The same scores; for weights that do not change while it lives."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._known: dict[tuple[int, ...], Tensor] = {}

    def score_heads(self, inputs: Sequence[Sequence[int]]) -> Tensor:
        """Scores [n, heads] as `RewardModel.score_heads`; new inputs alone are forwarded."""
        texts = [tuple(tokens) for tokens in inputs]
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, super().score_heads(new), strict=True))
        if not texts:
            return super().score_heads([])
        return torch.stack([self._known[text] for text in texts])
