"""Who scores samples: the reward model under suspicion, and the gold signal beside it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cool_rlhf.hacks.samples import Sample

Array = npt.NDArray[np.float64]


class Judge(Protocol):
    """Scores of samples [n], higher is better.

    A reward model gives a finite number to each; a gold signal gives NaN where it cannot judge.
    """

    def __call__(self, samples: Sequence[Sample]) -> Array: ...
