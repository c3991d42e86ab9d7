"""Learning rate as a function of progress in [0, 1], whatever limits the run."""

import math


def progress_of(
    step: int, steps: int, elapsed: float = 0.0, max_seconds: float | None = None
) -> float:
    """Share of the run that is over when step `step` (from 0) is done.

    With a time budget the larger share of steps and seconds counts, so that the schedule ends
    where the run ends although nobody knew its speed.
    """
    share = (step + 1) / steps
    if max_seconds is not None:
        share = max(share, elapsed / max_seconds)
    return min(1.0, share)


def factor_at(progress: float, warmup: float, final: float) -> float:
    """Factor on the peak rate: linear up to `warmup`, then a cosine from 1 down to `final`."""
    if progress < warmup:
        return progress / warmup
    after = (progress - warmup) / (1.0 - warmup)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * after))
