"""How well reward models agree with held-out preferences, per condition, with paired intervals."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from reward.conditions import DEFAULT
from reward.data import Preference, PreferenceError
from reward.evaluation.scoring import PairScores, pair_keys, pair_scores, wrong_conditions
from reward.intervals import Array, Interval, paired_bootstrap
from reward.model import RewardModel

Conflict = Literal["conflicting", "agreeing", "single"]


@dataclass(frozen=True)
class ScoreStatistics:
    """Distribution of all scores of a model on the preferences."""

    mean: float
    std: float
    lowest: float
    highest: float
    outside_band: float

    @classmethod
    def of(cls, scores: PairScores, bound: float) -> "ScoreStatistics":
        """Statistics over both sides; `outside_band`: share with |score| > bound."""
        both = scores.both
        return cls(
            float(both.mean()),
            float(both.std()),
            float(both.min()),
            float(both.max()),
            float((np.abs(both) > bound).mean()),
        )


@dataclass(frozen=True)
class AccuracyReport:
    """Accuracy by group of pairs and model; differences are first model minus each other."""

    accuracy: dict[str, dict[str, Interval]]
    difference: dict[str, dict[str, Interval]]
    scores: dict[str, ScoreStatistics]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(header, rows) of text: group, pairs, accuracy per model, differences."""
        models = list(self.scores)
        header = ["pairs", "n", *models, *(f"{models[0]} − {name}" for name in models[1:])]
        rows = []
        for group, by_model in self.accuracy.items():
            row = [group, str(next(iter(by_model.values())).n)]
            row += [str(by_model[name]) for name in models]
            row += [str(self.difference[group][name]) for name in models[1:]]
            rows.append(row)
        return header, rows

    def score_table(self) -> tuple[list[str], list[list[str]]]:
        """(header, rows) of text: the distribution of each model's scores."""
        header = ["model", "mean", "std", "lowest", "highest", "outside band"]
        rows = [
            [
                name,
                *(f"{value:.3f}" for value in (s.mean, s.std, s.lowest, s.highest)),
                f"{s.outside_band:.1%}",
            ]
            for name, s in self.scores.items()
        ]
        return header, rows


def conflict_labels(preferences: Sequence[Preference]) -> list[Conflict]:
    """Per record: do the conditions under which its pair was judged contradict each other?

    `single`: the pair was judged under one condition only.
    """
    keys = pair_keys(preferences)
    winners: dict[Hashable, set[Hashable]] = defaultdict(set)
    conditions: dict[Hashable, set[str | None]] = defaultdict(set)
    for key, p in zip(keys, preferences, strict=True):
        winners[key].add(p.chosen)
        conditions[key].add(p.condition)

    def label(key: Hashable) -> Conflict:
        if len(conditions[key]) < 2:
            return "single"
        return "conflicting" if len(winners[key]) > 1 else "agreeing"

    return [label(key) for key in keys]


def groups_of(preferences: Sequence[Preference]) -> dict[str, list[int]]:
    """Indices per reported group: all, each condition, each source, conflicting and agreeing."""
    groups: dict[str, list[int]] = {"all": list(range(len(preferences)))}
    for index, p in enumerate(preferences):
        groups.setdefault(f"condition {p.condition or DEFAULT}", []).append(index)
    for index, p in enumerate(preferences):
        if p.source is not None:
            groups.setdefault(f"source {p.source}", []).append(index)
    for index, label in enumerate(conflict_labels(preferences)):
        if label != "single":
            groups.setdefault(label, []).append(index)
    return groups


def accuracy_report(
    preferences: Sequence[Preference],
    scores: Mapping[str, PairScores],
    *,
    seed: int = 0,
    confidence: float = 0.95,
    bound: float = 5.0,
) -> AccuracyReport:
    """Accuracy of each named set of scores per group; the first is compared with the others.

    Intervals are paired bootstraps over judged pairs: a pair's records stay together. Raises
    PreferenceError without preferences, ValueError for scores of another length.
    """
    if not preferences:
        raise PreferenceError("no preferences to evaluate on")
    for name, found in scores.items():
        if len(found.chosen) != len(preferences):
            raise ValueError(f"{name}: {len(found.chosen)} scores for {len(preferences)} pairs")
    keys = pair_keys(preferences)
    first = next(iter(scores))
    accuracy: dict[str, dict[str, Interval]] = {}
    difference: dict[str, dict[str, Interval]] = {}
    for group, rows in groups_of(preferences).items():
        clusters = [keys[row] for row in rows]

        def interval(
            values: Array, rows: list[int] = rows, clusters: list[Hashable] = clusters
        ) -> Interval:
            return paired_bootstrap(
                values[rows], seed=seed, confidence=confidence, clusters=clusters
            )

        accuracy[group] = {name: interval(found.right) for name, found in scores.items()}
        difference[group] = {
            name: interval(scores[first].right - found.right)
            for name, found in scores.items()
            if name != first
        }
    statistics = {name: ScoreStatistics.of(found, bound) for name, found in scores.items()}
    return AccuracyReport(accuracy, difference, statistics)


def compare(
    model_a: RewardModel,
    model_b: RewardModel,
    preferences: Sequence[Preference],
    *,
    names: tuple[str, str] = ("with conditions", "without"),
    seed: int = 0,
    confidence: float = 0.95,
) -> AccuracyReport:
    """Two models on the same pairs, and the first once more under wrong conditions."""
    scores = {
        names[0]: pair_scores(model_a, preferences),
        names[1]: pair_scores(model_b, preferences),
    }
    wrong = wrong_conditions(preferences)
    if wrong is not None and model_a.card.use_condition:
        scores["wrong condition"] = pair_scores(model_a, preferences, wrong)
    return accuracy_report(preferences, scores, seed=seed, confidence=confidence)
