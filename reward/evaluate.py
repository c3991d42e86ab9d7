"""How well reward models agree with held-out preferences, per condition, with paired intervals."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from reward.conditions import DEFAULT
from reward.data import Preference, PreferenceError
from reward.intervals import Array, Interval, paired_bootstrap
from reward.model import RewardModel

__all__ = [
    "AccuracyReport",
    "Interval",
    "PairScores",
    "ScoreStatistics",
    "accuracy_difference",
    "accuracy_report",
    "compare",
    "conflict_labels",
    "pair_scores",
    "paired_bootstrap",
    "wrong_conditions",
]

Conflict = Literal["conflicting", "agreeing", "single"]
Reading = Callable[[int, Preference], str]


@dataclass(frozen=True)
class PairScores:
    """Raw scores [pairs] of both sides, in the order of the preferences."""

    chosen: Array
    rejected: Array

    @property
    def margins(self) -> Array:
        """chosen − rejected [pairs]."""
        return self.chosen - self.rejected

    @property
    def right(self) -> Array:
        """1.0 where the chosen side scores higher, else 0.0 (a tie is wrong) [pairs]."""
        return (self.margins > 0).astype(np.float64)


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
        both = np.concatenate([scores.chosen, scores.rejected])
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


def pair_scores(
    model: RewardModel, preferences: Sequence[Preference], condition: Reading | None = None
) -> PairScores:
    """Score both sides of every pair under the record's condition.

    `condition(index, preference)`, if given, names another one to read each pair under.
    """
    names = [
        condition(index, p) if condition else p.condition or DEFAULT
        for index, p in enumerate(preferences)
    ]
    sides = [[*p.prompt, *p.chosen] for p in preferences]
    sides += [[*p.prompt, *p.rejected] for p in preferences]
    scores = model.score_conversations(sides, names * 2).double().numpy()
    return PairScores(scores[: len(preferences)], scores[len(preferences) :])


def wrong_conditions(preferences: Sequence[Preference]) -> Reading | None:
    """A reading of every pair under another condition of the set; None if there is only one."""
    used = sorted({p.condition or DEFAULT for p in preferences})
    if len(used) < 2:
        return None
    following = dict(zip(used, used[1:] + used[:1], strict=True))
    return lambda _, p: following[p.condition or DEFAULT]


def pair_keys(preferences: Sequence[Preference]) -> list[Hashable]:
    """One key per judged pair: equal for records that judge the same prompt and two replies."""
    return [(p.prompt, frozenset((p.chosen, p.rejected))) for p in preferences]


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


def accuracy_difference(
    model_a: RewardModel,
    model_b: RewardModel,
    preferences: Sequence[Preference],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Accuracy of `model_a` minus `model_b` on the same pairs."""
    if not preferences:
        raise PreferenceError("no preferences to compare on")
    gain = pair_scores(model_a, preferences).right - pair_scores(model_b, preferences).right
    return paired_bootstrap(gain, seed=seed, confidence=confidence, clusters=pair_keys(preferences))
