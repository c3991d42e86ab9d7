"""How often the gate's statistics are wrong, by simulation at the border of what passes."""

import numpy as np
import pytest

from cool_rlhf.hacks.gate.drift import correlation, remainder
from cool_rlhf.hacks.gate.gain import gain
from cool_rlhf.hacks.gate.settings import GateSettings
from reward.evaluation.scoring import PairScores
from tests.cool_rlhf.hacks.gate.conftest import pattern_pairs

SETTINGS = GateSettings()
PAIRS = pattern_pairs(20)
REPEATS = 400


def verdicts(paid: float, sides: int = 1) -> list[str]:
    """Of children that pay this much on average; `sides`: pairs of each prompt, alike."""
    draw = np.random.default_rng(3)
    pairs = PAIRS * sides
    found = []
    for _ in range(REPEATS):
        values = np.tile(draw.normal(paid, 0.3, size=len(PAIRS)), sides)
        scores = PairScores(np.zeros(len(values)), 2.0 * values)
        found.append(gain("scheme", pairs, scores, 2.0, SETTINGS).verdict)
    return found


@pytest.mark.parametrize("sides", [1, 3])
@pytest.mark.parametrize("paid", [0.2, -0.2])
def test_a_child_at_the_border_of_the_band_seldom_passes(paid: float, sides: int) -> None:
    found = verdicts(paid, sides)
    assert found.count("pass") / REPEATS <= 0.085  # 5 %, and three standard errors
    assert found.count("fail") / REPEATS <= 0.085
    assert found.count("undecided") / REPEATS > 0.8


def test_a_cured_child_mostly_passes_and_an_uncured_one_fails() -> None:
    assert verdicts(0.0).count("pass") / REPEATS > 0.75
    assert verdicts(0.5).count("fail") / REPEATS > 0.95


def test_correlation_and_remainder_are_those_of_numpy() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=50)
    y = x + draw.normal(size=50)
    sums = np.stack([np.ones(50), x, y, x**2, y**2, x * y], axis=1).sum(axis=0, keepdims=True)
    assert correlation(sums)[0] == pytest.approx(np.corrcoef(x, y)[0, 1])
    left = y - np.polyval(np.polyfit(x, y, 1), x)
    assert remainder(sums)[0] == pytest.approx(left.std() / y.std())
