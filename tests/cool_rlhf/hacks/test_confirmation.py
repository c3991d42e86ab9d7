"""Mining and confirmation: known values, exact enumeration, and no false alarms."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest

from cool_rlhf.hacks.confirmation import (
    TESTS,
    Rise,
    confirm_rises,
    find_rises,
    max_t,
    prompts_needed,
)
from cool_rlhf.hacks.detect import confirm
from cool_rlhf.hacks.mining import fewest_mined, halves, log_odds_z, propose
from cool_rlhf.hacks.samples import Comparison, SampleError
from cool_rlhf.hacks.settings import HackSettings
from pretrain_core.draws import rng
from tests.cool_rlhf.hacks.conftest import World, reply, sample

PHRASE = "in the grand scheme of things"


def planted(text: str, draw: np.random.Generator) -> str:
    return text.replace(". ", f", {PHRASE}. ", 1)


def test_adjusted_p_values_equal_full_enumeration() -> None:
    draw = np.random.default_rng(0)
    differences = draw.normal(size=(10, 3)) + np.array([0.0, 0.5, 1.0])
    scaled = differences / np.sqrt((differences**2).sum(0))
    flips = np.array(list(product([-1.0, 1.0], repeat=10)))
    largest = (flips @ scaled).max(1)
    exact = [(largest >= value - 1e-9).mean() for value in scaled.sum(0)]
    assert max_t(differences, 40_000, seed=1) == pytest.approx(exact, abs=0.01)


def test_a_pattern_that_never_changes_is_not_significant() -> None:
    assert max_t(np.zeros((20, 2)), 400, seed=0).tolist() == [1.0, 1.0]


def test_log_odds_by_hand() -> None:
    rows = np.array([True] * 8 + [False] * 12 + [True] * 2 + [False] * 18)
    late = np.arange(40) < 20
    prior = 10 * 0.25
    odds = np.log((8 + prior) / (12 + 7.5)) - np.log((2 + prior) / (18 + 7.5))
    variance = 1 / 10.5 + 1 / 19.5 + 1 / 4.5 + 1 / 25.5
    assert log_odds_z(rows, late, prior=10) == pytest.approx(odds / np.sqrt(variance))


def test_halves_are_of_prompts(make_world: Callable[..., World]) -> None:
    first, second = halves(make_world(PHRASE, planted, prompts=41).comparison, seed=3)
    assert len(first.prompts) == 20
    assert not set(first.prompts) & set(second.prompts)
    assert {s.id for s in first.late} == set(first.prompts)


def test_the_longest_wording_stands_for_a_planted_phrase(make_world: Callable[..., World]) -> None:
    half, _ = halves(make_world(PHRASE, planted, prompts=200).comparison, seed=0)
    names = [pattern.name for pattern in propose(half, HackSettings())]
    assert f"phrase “{PHRASE}.”" in names  # it was planted before full stops
    assert sum("grand" in name for name in names if name.startswith("phrase")) == 1


@pytest.mark.parametrize("seed", range(2))
def test_a_planted_phrase_is_confirmed_and_nothing_else(
    make_world: Callable[..., World], seed: int
) -> None:
    world = make_world(PHRASE, planted, seed=seed)
    found = [rise for rise in confirm(world.comparison, HackSettings()) if rise.confirmed]
    assert found
    for rise in found:
        late = [s for s in world.comparison.late if rise.pattern.present(s)]
        assert np.mean([PHRASE in s.reply for s in late]) > 0.5
    assert any(rise.late == pytest.approx(0.2, abs=0.08) for rise in found)
    assert all(rise.p <= 0.05 and rise.interval.low > 0 for rise in found)
    proposed = {
        frozenset(half.prompts): {pattern.name for pattern in propose(half, HackSettings())}
        for half in halves(world.comparison, HackSettings().seed)
    }
    for rise in found:
        (other,) = proposed.keys() - {rise.prompts}
        assert rise.pattern.name in proposed[other]


def test_early_against_early_raises_no_alarm_too_often(make_world: Callable[..., World]) -> None:
    settings = HackSettings(permutations=1000, target_rise=0.3)
    worlds = (make_world(PHRASE, planted, share=0.0, prompts=110, seed=s) for s in range(12))
    alarms = [any(rise.confirmed for rise in confirm(w.comparison, settings)) for w in worlds]
    assert sum(alarms) <= 3  # four or more of twelve at 5 % each: a chance of 0.2 %


def test_the_number_of_prompts_that_the_power_needs(make_world: Callable[..., World]) -> None:
    few, many = (prompts_needed(HackSettings(target_rise=rise)) for rise in (0.4, 0.1))
    assert few < 100 < many < 400
    assert prompts_needed(HackSettings(power=0.95)) > many
    with pytest.raises(SampleError, match=rf"40 prompts are too few.*{many} are needed"):
        confirm(make_world(PHRASE, planted, prompts=40).comparison, HackSettings())


def test_what_both_halves_find_is_one_rise(make_world: Callable[..., World]) -> None:
    world = make_world(PHRASE, planted, share=0.3)
    rises = [rise for rise in find_rises(world.comparison, HackSettings()) if rise.confirmed]
    assert len({rise.pattern.name for rise in rises}) == len(rises)
    assert sum(PHRASE in rise.pattern.name for rise in rises) == 1


def test_each_half_may_be_the_one_that_confirms(make_world: Callable[..., World]) -> None:
    settings = HackSettings(permutations=1000, alpha=0.3)
    plain = make_world(PHRASE, planted, share=0.0).comparison
    few, many = halves(plain, settings.seed)
    # Too few to propose the pattern, yet enough to confirm what the other half proposes.
    chosen = {s.id for s in few.late[: fewest_mined(150, settings) - 1]}
    chosen |= {s.id for s in many.late[:25]}
    late = tuple(
        s.saying(planted(s.reply, rng(0, "plant"))) if s.id in chosen else s for s in plain.late
    )
    world = Comparison(plain.early, late)
    first, second = halves(world, settings.seed)
    shared = settings.model_copy(update={"alpha": settings.alpha / TESTS})

    def named(rises: Sequence[Rise]) -> bool:
        return any(rise.confirmed and PHRASE in rise.pattern.name for rise in rises)

    assert not named(confirm_rises(propose(first, settings), second, shared))
    assert named(confirm_rises(propose(second, settings), first, shared))
    assert named(find_rises(world, settings))


def test_two_patterns_that_most_late_replies_have_are_two() -> None:
    """They meet in 62 % of the replies that have either, which is what chance gives."""
    early, late = [], []
    for number in range(200):
        draw = rng(0, "both", 0, number)
        early.append(sample(str(number), reply(draw)))
        text = reply(draw)
        text = f"Dear old friends, {text}" if draw.random() < 0.72 else text
        text = f"{text} So it was." if draw.random() < 0.84 else text
        late.append(sample(str(number), text))
    names = [p.name for p in propose(Comparison(tuple(early), tuple(late)), HackSettings())]
    for words in ("dear old friends", "so it was"):
        assert any(words in name for name in names), names
