"""Conditions × conditions: how often labels differ, and how often the model's preferences do."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from reward.conditions import DEFAULT
from reward.data import Preference
from reward.evaluation.scoring import PairScores, pair_key
from reward.intervals import Interval, paired_bootstrap


@dataclass(frozen=True)
class Conflict:
    """Two conditions on the pairs judged under both: shares of pairs with opposite verdicts.

    A label that annotators are divided on counts by the chance that two of them differ.
    """

    first: str
    second: str
    labels: Interval
    model: Interval

    @property
    def followed(self) -> float:
        """Differences of the model per difference of the labels (1: as often as it should)."""
        return self.model.mean / self.labels.mean if self.labels.mean else float("nan")


def conflict_matrix(
    preferences: Sequence[Preference],
    scores: PairScores,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Conflict]:
    """One entry per two conditions that judged a pair in common, in the order of their names.

    `scores`: each record read under its own condition. Empty where no pair has two conditions.
    """
    side_a: dict[Hashable, object] = {}
    labels: dict[Hashable, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    prefers: dict[Hashable, dict[str, float]] = defaultdict(dict)
    for p, margin in zip(preferences, scores.margins, strict=True):
        key, name = pair_key(p), p.condition or DEFAULT
        # One orientation per pair, whichever side a record chose.
        sign = 1.0 if side_a.setdefault(key, p.chosen) == p.chosen else -1.0
        labels[key][name].append(sign)
        prefers[key][name] = float(np.sign(sign * margin))
    differ: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for key, by_condition in labels.items():
        for first, second in combinations(sorted(by_condition), 2):
            labelled = float(np.mean(by_condition[first]) * np.mean(by_condition[second]))
            preferred = prefers[key][first] * prefers[key][second]
            differ[first, second].append(((1 - labelled) / 2, (1 - preferred) / 2))
    return [
        Conflict(
            first,
            second,
            *(
                paired_bootstrap(column, seed=seed, confidence=confidence)
                for column in np.array(values).T
            ),
        )
        for (first, second), values in sorted(differ.items())
    ]
