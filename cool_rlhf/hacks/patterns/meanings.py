"""Sentences that only the late policy writes, whatever their wording: paraphrases of one idea.

A linear model learns which sentences come from late replies; a paraphrase shares cues with others
even where no phrase is frequent. What it finds is grouped, so that two ideas are two patterns. It
also looks at first and at last sentences alone, where an idea that stands there is no longer one
among many.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.text import TOKEN, Span, merged, sentences
from cool_rlhf.hacks.samples import Sample
from pretrain_core.draws import seed_of
from reward.features import hashed, matrix

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Scope = Literal["sentences", "first sentences", "last sentences"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
DIMENSION = 1 << 14
FOLDS = 4
LEAST_WORDS = 3  # a sentence of fewer says nothing
CERTAIN = 0.9  # share of early sentences that must score lower
CUES = 2
MOST_GROUPS = 4


class Style:
    """What a linear classifier takes for late sentences, each reply read once.

    `weights` [DIMENSION]; a sentence within the `scope` counts whose score is above the
    `threshold`.
    """

    def __init__(self, weights: Array, threshold: float, scope: Scope) -> None:
        self.weights, self.threshold, self.scope = weights, threshold, scope
        self._read: dict[str, tuple[list[Span], Any]] = {}

    @classmethod
    def of(cls, classifier: Any, features: Any, early: Mask, scope: Scope) -> "Style":
        """Of a fitted classifier and its training data."""
        weights: Array = classifier.coef_[0]
        # Of its own training data the classifier is surer than of others: a higher quantile.
        scores = (features @ weights)[early]
        return cls(weights, float(np.quantile(scores, (1 + CERTAIN) / 2)), scope)

    def read(self, reply: str, features: Any) -> None:
        """Take the features [n, dimension] of a reply's sentences instead of computing them."""
        found = _sentences(reply, self.scope)
        rows = np.flatnonzero(features @ self.weights > self.threshold)
        self._read[reply] = [found[row] for row in rows], features[rows]

    def late_sentences(self, reply: str) -> tuple[list[Span], Any]:
        """Their places [n] and features [n, dimension]."""
        if reply not in self._read:
            texts = [reply[start:end] for start, end in _sentences(reply, self.scope)]
            self.read(reply, _features(texts))
        return self._read[reply]


class Grouping:
    """Late sentences by the nearest of some centres [groups, dimension], each reply sorted once."""

    def __init__(self, style: Style, centres: Array) -> None:
        self.style, self.centres = style, centres
        self._sorted: dict[str, dict[int, list[Span]]] = {}

    def by_group(self, reply: str) -> dict[int, list[Span]]:
        """Group → where its sentences stand."""
        if reply not in self._sorted:
            found, features = self.style.late_sentences(reply)
            places: dict[int, list[Span]] = {}
            for span, group in zip(found, nearest(features, self.centres), strict=True):
                places.setdefault(int(group), []).append(span)
            self._sorted[reply] = places
        return self._sorted[reply]


@dataclass(frozen=True)
class LateSentences(Pattern):
    """Late-like sentences of one group."""

    cues: tuple[str, ...]
    grouping: Grouping = field(repr=False, compare=False)
    group: int
    family = "meaning"

    @property
    def name(self) -> str:
        return f"{self.grouping.style.scope} like " + ", ".join(f"“{cue}”" for cue in self.cues)

    def spans(self, sample: Sample) -> list[Span]:
        return merged(self.grouping.by_group(sample.reply).get(self.group, []))


def nearest(features: Any, centres: Array) -> npt.NDArray[np.int64]:
    """The nearest centre of each row [n]."""
    if features.shape[0] == 0 or len(centres) == 1:
        return np.zeros(features.shape[0], dtype=np.int64)
    distances = (centres**2).sum(axis=1) - 2 * (features @ centres.T)
    return np.asarray(distances.argmin(axis=1), dtype=np.int64)


def propose_meanings(
    samples: Sequence[Sample],
    late: Mask,
    least_replies: int,
    seed: int,
    scope: Scope = "sentences",
) -> list[LateSentences]:
    """Groups of late-like sentences in at least `least_replies` late replies; seldom any by chance.

    Which sentences are late-like is decided by classifiers that did not see their prompt.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict

    texts: list[str] = []
    owners: list[int] = []
    for number, sample in enumerate(samples):
        for start, end in _sentences(sample.reply, scope):
            texts.append(sample.reply[start:end])
            owners.append(number)
    of_late = late[owners]
    prompts = [samples[number].id for number in owners]
    if len(set(prompts)) < 2 * FOLDS or of_late.all() or not of_late.any():
        return []
    features = _features(texts)
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=300)
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed_of(seed, "hacks/folds") % 2**32)
    margins = cross_val_predict(
        model, features, of_late, groups=prompts, cv=folds, method="decision_function"
    )
    threshold = float(np.quantile(margins[~of_late], CERTAIN))
    rows = np.flatnonzero(of_late & (margins > threshold))
    if len({owners[row] for row in rows}) < least_replies:
        return []
    model.fit(features, of_late)
    style = Style.of(model, features, ~of_late, scope)
    edges = np.searchsorted(owners, np.arange(len(samples) + 1))
    for sample, (start, end) in zip(samples, pairwise(edges), strict=True):
        style.read(sample.reply, features[start:end])
    found = []
    for centres in _groupings(features[rows], seed):
        grouping, groups = Grouping(style, centres), nearest(features[rows], centres)
        for group in sorted(set(groups)):
            mine = rows[groups == group]
            if len({owners[row] for row in mine}) >= least_replies:
                cues = _shown([texts[row] for row in mine], margins[mine])
                found.append(LateSentences(cues, grouping, int(group)))
    return found


def _groupings(features: Any, seed: int) -> list[Array]:
    """Centres of all sentences as one group, and as some groups."""
    from sklearn.cluster import KMeans

    state = seed_of(seed, "hacks/groups") % 2**32
    numbers = [n for n in (1, 2, MOST_GROUPS) if n <= features.shape[0] // 2]
    return [KMeans(n, n_init=3, random_state=state).fit(features).cluster_centers_ for n in numbers]


def _sentences(reply: str, scope: Scope) -> list[Span]:
    found = [
        (start, end)
        for start, end in sentences(reply)
        if len(TOKEN.findall(reply[start:end])) >= LEAST_WORDS
    ]
    return {"sentences": found, "first sentences": found[:1], "last sentences": found[-1:]}[scope]


def _features(texts: Sequence[str]) -> Any:
    return matrix([_hashed(text) for text in texts], DIMENSION)


@lru_cache(maxsize=1 << 13)
def _hashed(text: str) -> dict[int, float]:
    """Of a sentence that both halves, several classifiers and many edits ask for."""
    return hashed(text, DIMENSION)


def _shown(texts: Sequence[str], margins: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """The surest sentences, shortened, each once."""
    ordered = [texts[row].strip() for row in np.argsort(-margins, kind="stable")]
    return tuple(dict.fromkeys(text[:60] for text in ordered))[:CUES]
