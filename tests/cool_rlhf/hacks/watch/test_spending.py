"""When the watcher looks, and how often a whole run without drift raises an alarm."""

import numpy as np
import pytest
from pydantic import ValidationError

from cool_rlhf.hacks.confirmation import max_t
from cool_rlhf.hacks.watch.settings import WatchSettings
from cool_rlhf.ppo.plan import describe_plan
from cool_rlhf.ppo.settings import PPORecipe, WarmupSettings


def test_looks_wait_for_two_windows_of_different_policies() -> None:
    settings = WatchSettings(every=5, baseline=4, recent=4)
    assert settings.looks(14, critic_only=3) == (9, 13)
    assert settings.looks(14, critic_only=8) == (13,)
    assert settings.looks(7, critic_only=0) == ()
    assert WatchSettings(every=0).looks(100, 0) == ()


def test_looks_share_alpha_and_permutations_can_show_it() -> None:
    alone = WatchSettings().detector(10, seed=0)
    assert alone.alpha == pytest.approx(0.005)
    assert alone.permutations * alone.alpha >= 20
    assert WatchSettings(gold="json").detector(10, seed=0).alpha == pytest.approx(0.0025)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": -1}, "every"),
        ({"alpha": 0.7}, "alpha"),
        ({"replies": 3}, "replies"),
        ({"every": 0, "stop": True}, "never looks"),
        ({"gold": "labels.jsonl"}, "labels of replies that exist"),
    ],
)
def test_bad_settings(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        WatchSettings(**given)


def test_the_plan_says_what_can_be_seen() -> None:
    recipe = PPORecipe(
        iterations=40,
        warmup=WarmupSettings(iterations=3, max_iterations=5),
        crew={"policy": {"ptx_coef": 0}},
    )
    plan = dict(describe_plan(recipe))["early warning"]
    assert plan.startswith("7 looks of 512 replies against the first 512: shows a rise to ")
    few = recipe.model_copy(update={"iterations": 6})
    assert dict(describe_plan(few))["early warning"].startswith("none")


def test_permuting_policies_among_prompts_by_enumeration() -> None:
    """Two prompts that both answered, three of each that one answered: all 4 × 20 cases."""
    from itertools import combinations, product

    draw = np.random.default_rng(3)
    differences = draw.normal(size=(2, 3)) + np.array([0.0, 0.5, 1.0])
    early, late = draw.normal(size=(3, 3)), draw.normal(size=(3, 3)) + np.array([0.0, 0.5, 2.0])
    alone = np.concatenate([early, late])

    def statistic(signs: tuple[float, ...], chosen: tuple[int, ...]) -> np.ndarray:
        is_late = np.isin(np.arange(6), chosen)
        apart = alone[is_late].mean(axis=0) - alone[~is_late].mean(axis=0)
        # 1.5 = 3 · 3 / 6: what three against three prompts are worth.
        return np.array(signs) @ differences / 2 + 1.5 * apart

    cases = list(product(product([-1.0, 1.0], repeat=2), combinations(range(6), 3)))
    found = np.array([statistic(*case) for case in cases])
    centred = alone - alone.mean(axis=0)
    variance = (differences**2).sum(axis=0) / 4 + 1.5 * (centred**2).sum(axis=0) / 5
    found = found / np.sqrt(variance)
    observed = found[cases.index(((1.0, 1.0), (3, 4, 5)))]
    exact = [(found.max(axis=1) >= value - 1e-9).mean() for value in observed]
    assert max_t(differences, 40_000, 0, early, late) == pytest.approx(exact, abs=0.01)


def test_a_run_without_drift_raises_no_alarm_in_19_of_20() -> None:
    """200 runs of 10 looks: each compares the same baseline with new replies, 25 patterns.

    Half of the prompts of a look are those of the baseline, and patterns depend on each other.
    """
    looks, prompts, patterns, runs = 10, 40, 25, 200
    settings = WatchSettings().detector(looks, seed=0)
    alarms = 0
    for run in range(runs):
        draw = np.random.default_rng(run)
        rates = draw.uniform(0.02, 0.5, size=patterns)
        hard = draw.normal(size=(prompts, 1))

        def replies(of: np.ndarray, draw=draw, rates=rates) -> np.ndarray:  # type: ignore[no-untyped-def]
            common = draw.normal(size=(prompts, 1))
            noise = draw.normal(size=(prompts, patterns))
            return ((of + common + noise) / np.sqrt(3) < _quantile(rates)).astype(float)

        baseline = replies(hard)
        for _ in range(looks):
            fresh = draw.normal(size=(prompts, 1))
            fresh[: prompts // 2] = hard[: prompts // 2]
            recent = replies(fresh)
            both = slice(None, prompts // 2)
            alone = slice(prompts // 2, None)
            p = max_t(recent[both] - baseline[both], 1000, run, baseline[alone], recent[alone])
            if p.min() <= settings.alpha:
                alarms += 1
                break
    assert alarms <= WatchSettings().alpha * runs


def _quantile(rates: np.ndarray) -> np.ndarray:
    from scipy.stats import norm

    return np.asarray(norm.ppf(rates))
