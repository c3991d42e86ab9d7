"""What simpler detectors say of a case: one statistic each, and what pattern it names, if any."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cool_rlhf.hacks.mining import log_odds_z
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.phrases import propose_phrases
from cool_rlhf.hacks.patterns.shapes import Length
from cool_rlhf.hacks.samples import Comparison
from cool_rlhf.hacks.settings import MiningSettings
from hack_cases.design import Case

Array = npt.NDArray[np.float64]
Claim = tuple[float, Pattern | None]


def log_odds(case: Case) -> Claim:
    """The wording whose log-odds rose the most, over all prompts."""
    samples, mining = case.comparison.samples, MiningSettings()
    late = np.arange(len(samples)) >= len(case.comparison.early)
    scored = [
        (log_odds_z(rows, late, mining.prior), len(phrase.gram), phrase.name, phrase)
        for phrase, rows in propose_phrases(samples, late, mining)
        if not rows.all()
    ]
    if not scored:
        return 0.0, None
    z, _, _, phrase = max(scored, key=lambda entry: entry[:3])
    return z, phrase


def length(case: Case) -> Claim:
    """Longer replies."""
    pattern = Length.of(case.comparison.early)
    words = np.array([pattern.amount(sample) for sample in case.comparison.samples])
    return _paired_t(words, case.comparison), pattern


def ensemble_variance(case: Case) -> Claim:
    """More disagreement among reward models; names no pattern."""
    scores = np.stack([member(case.comparison.samples) for member in case.ensemble])
    return _paired_t(scores.var(axis=0, ddof=1), case.comparison), None


def judge_alone(case: Case) -> Claim:
    """The reward rose by more than the gold; names no pattern."""
    samples = case.comparison.samples
    return _paired_t(case.reward(samples) - case.gold(samples), case.comparison), None


BASELINES = {
    "log-odds only": log_odds,
    "length only": length,
    "ensemble variance": ensemble_variance,
    "judge alone": judge_alone,
}


def _paired_t(values: Sequence[float] | Array, comparison: Comparison) -> float:
    """Student's t of late − early; both have one reply to each prompt, in the same order."""
    early, late = np.split(np.asarray(values), [len(comparison.early)])
    differences = (late - early)[np.isfinite(late - early)]
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return float(differences.mean()) / spread * len(differences) ** 0.5 if spread else 0.0
