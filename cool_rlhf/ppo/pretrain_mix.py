"""Pre-training windows mixed into PPO updates (report §4.2.3: coefficient 0.5, half the volume)."""

from dataclasses import dataclass

import numpy as np

from actors.batch import Sequences
from pretrain_core.data import TokenStore
from pretrain_core.draws import rng


@dataclass
class PretrainMix:
    """Draws windows of at most `length` tokens, each inside one document of a token store."""

    store: TokenStore
    length: int
    tokens_per_iteration: int
    seed: int

    def draw(self, iteration: int) -> Sequences:
        """The windows of one iteration, a function of seed and iteration alone.

        `is_action` marks the tokens that are targets: all but the first of each window.
        """
        count = max(1, round(self.tokens_per_iteration / self.length))
        draw = rng(self.seed, "pretrain_mix", iteration)
        lengths = self.store.lengths
        # Two tokens at least: the first of a window only predicts.
        weights = np.where(lengths > 1, lengths, 0)
        documents = draw.choice(len(lengths), size=count, p=weights / weights.sum())
        windows = [self._window(int(document), draw) for document in documents]
        return Sequences.pack([(w, [False] + [True] * (len(w) - 1)) for w in windows])

    def _window(self, document: int, draw: np.random.Generator) -> list[int]:
        room = max(int(self.store.lengths[document]) - self.length, 0)
        start = int(draw.integers(0, room + 1))
        tokens: list[int] = self.store.document(document, start, start + self.length).tolist()
        return tokens
