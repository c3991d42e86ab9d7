"""A calibration under which a child's scores have its parent's mean and spread."""

from reward.card import Calibration
from reward.evaluation.scoring import EvaluationError
from reward.intervals import Array


def recalibrated(parent: Array, child: Array, data: str = "") -> Calibration:
    """The affine map of the child's scores [n] to the mean and spread of the parent's [n].

    Both score the same texts; `parent`: as they were used, calibrated if it was. A policy or
    threshold tuned to the parent's scale can then read the child's; whether σ of a difference is a
    frequency is no better than it was. Raises EvaluationError for scores without spread.
    """
    spread, other = float(parent.std()), float(child.std())
    if not spread or not other:
        raise EvaluationError(
            f"{len(child)} scores with standard deviations {spread:.3g} (parent) and {other:.3g} "
            "(child): nothing to calibrate on"
        )
    scale = spread / other
    return Calibration(scale, float(child.mean() - parent.mean() / scale), len(child) // 2, data)
