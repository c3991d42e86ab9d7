"""Sentences that only the late policy writes, whatever their wording: paraphrases of one idea.

A linear model learns which sentences come from late replies; a paraphrase shares cues with others
even where no phrase is frequent. What it finds is grouped, so that two ideas are two patterns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cool_rlhf.hacks.pattern import Pattern
from cool_rlhf.hacks.samples import Sample
from cool_rlhf.hacks.text import TOKEN, Span, merged, sentences
from pretrain_core.draws import seed_of
from reward.features import hashed, matrix

DIMENSION = 1 << 14
FOLDS = 4
LEAST_WORDS = 3  # a sentence of fewer says nothing
CERTAIN = 0.9  # share of early sentences that must score lower
CUES = 2
MOST_GROUPS = 4


class Style:
    """The sentences of replies that a classifier takes for late ones, each reply read once."""

    def __init__(self, classifier: Any, threshold: float) -> None:
        self.classifier = classifier
        self.threshold = threshold
        self._read: dict[str, tuple[list[Span], Any]] = {}

    def late_sentences(self, reply: str) -> tuple[list[Span], Any]:
        """Their places [n] and features [n, dimension]."""
        if reply not in self._read:
            found = _sentences(reply)
            features = _features([reply[start:end] for start, end in found])
            rows = (
                np.flatnonzero(self.classifier.decision_function(features) > self.threshold)
                if found
                else np.empty(0, dtype=np.int64)
            )
            self._read[reply] = [found[row] for row in rows], features[rows]
        return self._read[reply]


@dataclass(frozen=True)
class LateSentences(Pattern):
    """Late-like sentences that are nearest to the centre of one group."""

    cues: tuple[str, ...]
    style: Style = field(repr=False, compare=False)
    grouping: Any = field(repr=False, compare=False)
    group: int
    family = "meaning"

    @property
    def name(self) -> str:
        return "sentences like " + ", ".join(f"“{cue}”" for cue in self.cues)

    def spans(self, sample: Sample) -> list[Span]:
        found, features = self.style.late_sentences(sample.reply)
        if not found:
            return []
        groups = self.grouping.predict(features)
        return merged([span for span, g in zip(found, groups, strict=True) if g == self.group])


def propose_meanings(
    samples: Sequence[Sample], late: npt.NDArray[np.bool_], least_replies: int, seed: int
) -> list[LateSentences]:
    """Groups of late-like sentences in at least `least_replies` late replies; seldom any by chance.

    Which sentences are late-like is decided by classifiers that did not see their prompt.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict

    texts: list[str] = []
    owners: list[int] = []
    for number, sample in enumerate(samples):
        for start, end in _sentences(sample.reply):
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
    # Of its own training data the classifier is surer than of others: a higher quantile.
    certain = (1 + CERTAIN) / 2
    style = Style(model, float(np.quantile(model.decision_function(features)[~of_late], certain)))
    found = []
    for grouping in _groupings(features[rows], seed):
        groups = grouping.predict(features[rows])
        for group in sorted(set(groups)):
            mine = rows[groups == group]
            if len({owners[row] for row in mine}) >= least_replies:
                cues = _shown([texts[row] for row in mine], margins[mine])
                found.append(LateSentences(cues, style, grouping, int(group)))
    return found


def _groupings(features: Any, seed: int) -> list[Any]:
    """All sentences as one group, and in some groups of their own."""
    from sklearn.cluster import KMeans

    state = seed_of(seed, "hacks/groups") % 2**32
    numbers = [n for n in (1, 2, MOST_GROUPS) if n <= features.shape[0] // 2]
    return [KMeans(n, n_init=3, random_state=state).fit(features) for n in numbers]


def _sentences(reply: str) -> list[Span]:
    return [
        (start, end)
        for start, end in sentences(reply)
        if len(TOKEN.findall(reply[start:end])) >= LEAST_WORDS
    ]


def _features(texts: Sequence[str]) -> Any:
    return matrix([hashed(text, DIMENSION) for text in texts], DIMENSION)


def _shown(texts: Sequence[str], margins: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """The surest sentences, shortened, each once."""
    ordered = [texts[row].strip() for row in np.argsort(-margins, kind="stable")]
    return tuple(dict.fromkeys(text[:60] for text in ordered))[:CUES]
