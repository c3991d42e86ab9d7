"""Gains, length share, disagreement and divergence on numbers made by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from cool_rlhf.hacks.judges import Array
from cool_rlhf.hacks.patterns.phrases import Phrase
from cool_rlhf.hacks.samples import Sample
from cool_rlhf.hacks.watch.measures import (
    Rewarded,
    disagreement,
    divergence,
    length_share,
    pays,
)
from cool_rlhf.hacks.watch.windows import Window
from tests.cool_rlhf.hacks.conftest import sample


def window(
    lengths: Sequence[int], condition: str = "helpful", extra: str = "", name: str = ""
) -> Window:
    made = tuple(
        sample(f"{name}{row}", "word " * length + extra, condition=condition)
        for row, length in enumerate(lengths)
    )
    nothing = np.full(len(made), np.nan)
    return Window((0,), made, nothing, nothing)


def words(samples: Sequence[Sample]) -> Array:
    return np.array([np.log1p(len(s.reply.split())) for s in samples])


EARLY, LATE = [5, 7, 10, 14, 20] * 4, [10, 14, 20, 28, 40] * 4


def rewarded(slope: float, bonus: float, early: Window, late: Window) -> Rewarded:
    """Score = slope · log words, and the bonus for recent replies."""
    return Rewarded.of(
        early, late, slope * words(early.samples), slope * words(late.samples) + bonus
    )


def test_length_explains_all_none_or_half_of_a_gain() -> None:
    early, late = window(EARLY), window(LATE)
    change = float(words(late.samples).mean() - words(early.samples).mean())
    assert length_share(rewarded(1.0, 0.0, early, late)) == pytest.approx(1.0)
    assert length_share(rewarded(1.0, change, early, late)) == pytest.approx(0.5)
    assert length_share(rewarded(0.0, 1.0, early, window(LATE))) == pytest.approx(0.0)


@pytest.mark.parametrize(("slope", "bonus"), [(0.0, 0.0), (-1.0, 0.0), (1.0, -0.7)])
def test_without_a_gain_there_is_no_share(slope: float, bonus: float) -> None:
    assert length_share(rewarded(slope, bonus, window(EARLY), window(LATE))) is None


def test_conditions_that_pay_for_length_and_for_brevity_do_not_cancel() -> None:
    """Replies grow under one condition and shrink under the other, both for their pay."""
    early = _joined(window(EARLY, "detailed", name="d"), window(LATE, "brief", name="b"))
    late = _joined(window(LATE, "detailed", name="d"), window(EARLY, "brief", name="b"))
    scores = [
        np.array([1.0 if s.condition == "detailed" else -1.0 for s in w.samples]) * words(w.samples)
        for w in (early, late)
    ]
    assert length_share(Rewarded.of(early, late, *scores)) == pytest.approx(1.0)


def _joined(first: Window, second: Window) -> Window:
    nothing = np.full(len(first.samples) + len(second.samples), np.nan)
    return Window((0,), first.samples + second.samples, nothing, nothing)


def test_disagreement_is_relative_to_the_baseline() -> None:
    early, late = window(EARLY), window(LATE)
    spread = [
        Window(w.iterations, w.samples, w.scores, np.full(20, s))
        for w, s in ((early, 0.5), (late, 0.75))
    ]
    assert disagreement(*spread) == pytest.approx(1.5)
    assert disagreement(early, spread[1]) is None


def test_gain_is_in_baseline_deviations_and_knows_what_was_not_judged() -> None:
    early, late = window(EARLY), window(LATE)
    scores = np.tile([1.0, 5.0], 10)
    found = Rewarded.of(early, late, scores, scores + 4.0)
    assert found.gain == pytest.approx(2.0)
    scores = np.where(np.arange(20) < 10, scores, np.nan)
    assert Rewarded.of(early, late, scores, scores + 4.0).gain == pytest.approx(2.0)
    assert np.isnan(Rewarded.of(early, late, scores, np.full(20, np.nan)).gain)


def test_what_is_paid_for_a_phrase_is_not_what_is_paid_for_its_length() -> None:
    phrase = Phrase(("indeed", "so"))
    early, late = window(EARLY), window(LATE, extra="indeed so", name="l")
    mixed = _joined(window(LATE, name="m"), late)
    scores = [
        words(w.samples) + [3.0 * ("indeed" in s.reply) for s in w.samples] for w in (early, mixed)
    ]
    found = pays(phrase, Rewarded.of(early, mixed, *scores), seed=0, resamples=200)
    assert found is not None
    assert found.mean == pytest.approx(3.0 / words(early.samples).std(), rel=0.01)
    # Where all recent replies have it and no early one, nothing can be compared.
    scores = [words(w.samples) for w in (early, late)]
    assert pays(phrase, Rewarded.of(early, late, *scores), seed=0, resamples=200) is None


def _judges(follows: float, judged: int = 100) -> tuple[Rewarded, Rewarded]:
    """The reward rises by two deviations, gold by `follows` of that."""
    early, late = window([5] * 100), window([5] * 100, name="l")
    draw = np.random.default_rng(0)
    quality = draw.normal(size=(2, 100))
    gold = quality + 0.3 * draw.normal(size=(2, 100)) + [[0.0], [2.0 * follows]]
    gold[:, judged:] = np.nan
    reward = Rewarded.of(early, late, quality[0], quality[1] + 2.0)
    return reward, Rewarded.of(early, late, *gold)


def test_gold_that_follows_is_no_alarm_and_gold_that_does_not_is() -> None:
    good = divergence(*_judges(1.0), share=0.5, seed=0)
    bad = divergence(*_judges(0.0), share=0.5, seed=0)
    assert good is not None
    assert bad is not None
    assert good.p > 0.5
    assert abs(good.difference.mean) < 0.4
    assert bad.p < 1e-6
    assert bad.difference.low > 1.5
    assert bad.gold == pytest.approx(0.0, abs=0.4)


def test_gold_of_a_few_replies() -> None:
    found = divergence(*_judges(0.0, judged=30), share=0.5, seed=0)
    assert found is not None
    assert found.difference.n == 60
    assert divergence(*_judges(0.0, judged=5), share=0.5, seed=0) is None


def test_a_reward_that_did_not_rise_diverges_from_nothing() -> None:
    early, late = window([5] * 100), window([5] * 100, name="l")
    scores = np.random.default_rng(1).normal(size=(4, 100))
    reward = Rewarded.of(early, late, *scores[:2])
    falling = Rewarded.of(early, late, scores[2], scores[3] - 5.0)
    found = divergence(reward, falling, share=0.5, seed=0)
    assert found is not None
    assert found.difference.low > 3
    assert found.p > 0.01
