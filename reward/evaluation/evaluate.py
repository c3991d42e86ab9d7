"""Everything that is measured about a reward model on held-out preferences, in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reward.conditions import DEFAULT
from reward.data import Preference, PreferenceError
from reward.evaluation.accuracy import AccuracyReport, accuracy_report
from reward.evaluation.calibration import Reliability, reliability
from reward.evaluation.conflicts import Conflict, conflict_matrix
from reward.evaluation.length import LengthBias, length_bias
from reward.evaluation.probes import ProbeResult, run_probes
from reward.evaluation.scoring import (
    PairScores,
    known_or_default,
    pair_keys,
    pair_scores,
    reworded,
    scorable,
    scores_per_condition,
    wrong_conditions,
)
from reward.intervals import Array, Interval, paired_bootstrap
from reward.model import RewardModel

PER_CONDITION = "one model per condition"
WRONG = "wrong condition"
HISTOGRAM_BINS = 24


@dataclass(frozen=True)
class Rewording:
    """The first model under other system prompts, against itself as it was trained."""

    name: str
    accuracy: Interval
    difference: Interval
    flipped: Interval


@dataclass(frozen=True)
class Evaluation:
    """All parts of `cool-rlhf reward eval`; `left_out`: pairs too long for one of the models."""

    version: str
    accuracy: AccuracyReport
    rewordings: list[Rewording]
    conflicts: list[Conflict]
    reliability: dict[str, Reliability]
    length: dict[str, LengthBias]
    histograms: dict[str, list[tuple[float, float]]]
    probes: list[ProbeResult]
    left_out: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form; the accuracy report's keys stand at the top."""
        parts = asdict(self)
        return parts | parts.pop("accuracy")


def evaluate(
    models: Mapping[str, RewardModel],
    preferences: Sequence[Preference],
    *,
    per_condition: Mapping[str, RewardModel] | None = None,
    paraphrases: Mapping[str, Sequence[str]] | None = None,
    unseen: Mapping[str, str] | None = None,
    probes: bool = False,
    seed: int = 0,
    bound: float = 5.0,
) -> Evaluation:
    """Evaluate the first of `models` in every respect, the others by accuracy, length, calibration.

    `per_condition`: one model per condition, the upper anchor. `paraphrases`: other wordings per
    condition. `unseen`: a system prompt per condition, read in place of the trained one; for a
    condition that the model was not trained with, the comparison is with `default`. `bound`: of
    the band that scores should stay in. Raises EvaluationError, PreferenceError without pairs.
    """
    others = list((per_condition or {}).values())
    records, left_out = scorable([*models.values(), *others], preferences)
    if not records:
        reason = f"; the first was left out because {left_out[0].reason}" if left_out else ""
        raise PreferenceError(f"no preferences to evaluate on{reason}")
    name, model = next(iter(models.items()))
    scores = {
        other: pair_scores(m, records, known_or_default(m.conditions.names))
        for other, m in models.items()
    }
    measured = dict(scores)
    if per_condition:
        measured[PER_CONDITION] = scores_per_condition(per_condition, records)
    wrong = wrong_conditions(records)
    names = {p.condition or DEFAULT for p in records}
    if wrong is not None and model.card.use_condition and names <= set(model.conditions.names):
        measured[WRONG] = pair_scores(model, records, wrong)
    keys = pair_keys(records)
    margins = {other: found.margins for other, found in scores.items()}
    if model.card.calibration is not None:
        margins[f"{name}, calibrated"] = model.card.calibration.scale * scores[name].margins
    return Evaluation(
        model.version,
        accuracy_report(records, measured, seed=seed, bound=bound),
        _rewordings(model, records, scores[name], paraphrases or {}, unseen or {}, seed),
        conflict_matrix(records, scores[name], seed=seed),
        {other: reliability(found, keys, seed=seed) for other, found in margins.items()},
        {other: length_bias(records, found, keys, seed=seed) for other, found in scores.items()},
        {other: _histogram(found.both) for other, found in scores.items()},
        run_probes(model, records, scores[name], seed=seed) if probes else [],
        len(left_out),
    )


def _rewordings(
    model: RewardModel,
    records: Sequence[Preference],
    trained: PairScores,
    paraphrases: Mapping[str, Sequence[str]],
    unseen: Mapping[str, str],
    seed: int,
) -> list[Rewording]:
    used = {p.condition for p in records if p.condition}
    wordings = {name: texts for name, texts in paraphrases.items() if name in used and texts}
    most = max((len(texts) for texts in wordings.values()), default=0)
    variants = {
        f"paraphrase {number + 1}": {
            name: texts[number % len(texts)] for name, texts in wordings.items()
        }
        for number in range(most)
    }
    count = len(variants)
    variants |= {f"unseen {name}": {name: prompt} for name, prompt in unseen.items()}
    found: list[Rewording] = []
    parts: list[tuple[list[int], PairScores]] = []
    for title, prompts in variants.items():
        rows = [index for index, p in enumerate(records) if p.condition in prompts]
        if not rows:
            continue
        scores = pair_scores(reworded(model, prompts), [records[row] for row in rows])
        parts.append((rows, scores))
        found.append(_against(title, records, trained, [(rows, scores)], seed))
    if count > 1:
        pooled = _against("paraphrases, pooled", records, trained, parts[:count], seed)
        found.insert(count, pooled)
    return found


def _against(
    title: str,
    records: Sequence[Preference],
    trained: PairScores,
    parts: Sequence[tuple[list[int], PairScores]],
    seed: int,
) -> Rewording:
    rows = [row for chosen, _ in parts for row in chosen]
    now = np.concatenate([scores.right for _, scores in parts])
    before = trained.right[rows]
    keys = pair_keys([records[row] for row in rows])
    return Rewording(
        title,
        *(
            paired_bootstrap(values, seed=seed, clusters=keys)
            for values in (now, now - before, np.abs(now - before))
        ),
    )


def _histogram(scores: Array) -> list[tuple[float, float]]:
    """(middle, share) of equal bins over the range of the scores."""
    shares, edges = np.histogram(scores, bins=HISTOGRAM_BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    return [(float(x), float(y)) for x, y in zip(middles, shares / len(scores), strict=True)]
