"""Weights that let every prompt count the same, however many pairs it has."""

from collections import Counter
from collections.abc import Sequence

from reward.preference import Preference, prompt_keys


def prompt_weights(preferences: Sequence[Preference]) -> list[float]:
    """Weight of each pair: equal sums per prompt, mean 1 over all pairs; [] for no pairs.

    Pairs of one prompt are correlated: without weights a prompt with a ranking of nine replies
    (36 pairs) would count 36 times. The prompt is its messages; conditions do not split it.
    """
    keys = prompt_keys(preferences)
    pairs = Counter(keys)
    share = len(keys) / len(pairs) if pairs else 0.0
    return [share / pairs[key] for key in keys]
