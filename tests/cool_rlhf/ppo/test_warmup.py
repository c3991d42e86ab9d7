"""The critic-only phase: at least so long, then until the gate, never longer than the maximum."""

import pytest

from cool_rlhf.ppo.settings import PPORecipe, WarmupSettings
from cool_rlhf.ppo.warmup import CriticWarmup


def waits(settings: WarmupSettings, variances: list[float]) -> int:
    warmup = CriticWarmup(settings)
    opened = [warmup.passed(variance) for variance in variances]
    assert opened == sorted(opened), "the gate never closes again"
    return warmup.iterations


def test_waits_at_least_its_iterations() -> None:
    assert waits(WarmupSettings(iterations=3, max_iterations=5), [0.9] * 8) == 3


def test_waits_until_the_critic_explains_enough() -> None:
    settings = WarmupSettings(iterations=1, explained_variance=0.5, max_iterations=9)
    assert waits(settings, [0.1, 0.2, 0.3, 0.6, 0.1, 0.1]) == 3


def test_never_waits_longer_than_the_maximum() -> None:
    settings = WarmupSettings(iterations=1, explained_variance=0.5, max_iterations=4)
    assert waits(settings, [0.0] * 10) == 4


def test_a_warmup_that_leaves_no_iteration_for_the_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves none"):
        PPORecipe(iterations=4, warmup=WarmupSettings(iterations=4, max_iterations=4))
