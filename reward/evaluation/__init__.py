"""Evaluation of reward models: accuracy, conflicts, calibration, length, probes, benchmarks."""

from reward.evaluation.accuracy import (
    AccuracyReport,
    ScoreStatistics,
    accuracy_report,
    compare,
    conflict_labels,
)
from reward.evaluation.non_inferiority import NonInferiority, non_inferiority
from reward.evaluation.scoring import EvaluationError, PairScores, pair_scores, wrong_conditions
from reward.intervals import Interval, paired_bootstrap

__all__ = [
    "AccuracyReport",
    "EvaluationError",
    "Interval",
    "NonInferiority",
    "PairScores",
    "ScoreStatistics",
    "accuracy_report",
    "compare",
    "conflict_labels",
    "non_inferiority",
    "pair_scores",
    "paired_bootstrap",
    "wrong_conditions",
]
