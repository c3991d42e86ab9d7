"""Evaluation of reward models: accuracy, conflicts, calibration, length, probes, benchmarks."""

from reward.evaluation.accuracy import (
    AccuracyReport,
    ScoreStatistics,
    accuracy_difference,
    accuracy_report,
    compare,
    conflict_labels,
)
from reward.evaluation.scoring import EvaluationError, PairScores, pair_scores, wrong_conditions
from reward.intervals import Interval, paired_bootstrap

__all__ = [
    "AccuracyReport",
    "EvaluationError",
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
