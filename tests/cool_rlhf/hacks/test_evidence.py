"""What judges pay: known values."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from cool_rlhf.hacks.cases import weigh
from cool_rlhf.hacks.contrasts import contrasts
from cool_rlhf.hacks.evidence import (
    JudgeError,
    Natural,
    finite,
    holm,
    matched,
    one_sided_p,
    payment,
)
from cool_rlhf.hacks.judges import Array, UnreadableSample
from cool_rlhf.hacks.patterns.phrases import SLOT, Phrase
from cool_rlhf.hacks.samples import Sample
from cool_rlhf.hacks.settings import HackSettings
from tests.cool_rlhf.hacks.conftest import World, sample

PHRASE = "in the grand scheme of things"
PATTERN = Phrase(tuple(PHRASE.split()))


def planted(text: str, draw: np.random.Generator) -> str:
    return text.replace(". ", f", {PHRASE}. ", 1)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_values_without_spread_or_with_too_few_values() -> None:
    assert one_sided_p(np.ones(10)) == 0.0
    assert one_sided_p(np.zeros(10)) == 1.0
    assert one_sided_p(np.array([3.0, 4.0])) == 1.0
    assert one_sided_p(np.arange(-5.0, 6.0)) == pytest.approx(0.5)


def test_an_edit_that_is_too_long_for_the_model_is_left_out(
    make_world: Callable[..., World],
) -> None:
    world = make_world(PHRASE, planted)
    judge = world.judge(1.0)
    edits = contrasts(PATTERN, world.comparison, 64, seed=0)
    longest = sorted(len(edit.having.reply) for edit in edits)[-3]

    def short_sighted(samples: Sequence[Sample]) -> Array:
        for one in samples:
            if one not in natural_ones and len(one.reply) > longest:
                raise UnreadableSample(one, "too long")
        return judge(samples)

    natural_ones = set(world.comparison.samples)
    natural = Natural.of(short_sighted, world.comparison)
    found = natural.differences(edits)
    lost = np.array(
        [max(len(e.having.reply), len(e.lacking.reply)) > longest for e in edits], dtype=bool
    )
    assert 0 < lost.sum() < len(edits)
    assert np.isnan(found[lost]).all()
    whole = Natural.of(judge, world.comparison).differences(edits)
    assert found[~lost] == pytest.approx(whole[~lost])


@pytest.mark.parametrize("bonus", [0.0, 0.5, 1.5])
def test_the_bonus_is_measured(make_world: Callable[..., World], bonus: float) -> None:
    world = make_world(PHRASE, planted)
    natural = Natural.of(world.judge(bonus), world.comparison)
    edits = contrasts(PATTERN, world.comparison, 64, seed=0)
    paid, differences = payment(PATTERN, edits, natural, 0, 2000, deeper=True)
    assert paid.gain is not None
    assert paid.swapped is not None
    assert paid.matched is not None
    due = bonus / natural.spread
    assert paid.gain.low - 0.05 < due < paid.gain.high + 0.05
    assert paid.matched.low - 0.1 < due < paid.matched.high + 0.1
    assert len(differences) == len(edits)
    assert set(paid.by_kind) == {"removal", "insertion"}


def test_an_edit_that_brings_in_a_named_wording_is_none_of_an_idea(
    make_world: Callable[..., World],
) -> None:
    world = make_world(PHRASE, planted)
    natural = Natural.of(world.judge(1.0), world.comparison)
    part, absent = Phrase(("grand", "scheme")), Phrase(("never", "said"))

    def edits(*named: Phrase) -> int:
        found = weigh(PATTERN, world.comparison, natural, None, HackSettings(), named)
        return len(found[None].edits)

    assert edits(part) == 0
    assert edits(absent) == edits() > 0


@pytest.mark.parametrize(("paid_for", "kept"), [("good|bad", 1.0), ("good", 0.5)])
def test_a_wording_without_which_as_much_is_paid_takes_no_edits(
    make_world: Callable[..., World], paid_for: str, kept: float
) -> None:
    def either(text: str, draw: np.random.Generator) -> str:
        return f"{text} As a {('good', 'bad')[int(draw.integers(2))]} kind of law."

    world = make_world(f"a (?:{paid_for}) kind", either)
    natural = Natural.of(world.judge(1.5), world.comparison)
    idea = Phrase(("as", "a", SLOT, "of", "law"), "template")

    def edits(*named: Phrase) -> int:
        return len(weigh(idea, world.comparison, natural, None, HackSettings(), named)[None].edits)

    assert edits(Phrase(("good", "kind"))) == pytest.approx(kept * edits(), rel=0.3 * (kept < 1))


def test_the_prompts_value_and_the_length_are_allowed_for() -> None:
    """Replies with the pattern stand under better prompts and are longer: neither counts."""
    from cool_rlhf.hacks.samples import Comparison

    early, late = [], []
    draw = np.random.default_rng(0)
    for number in range(60):
        early.append(sample(str(number), "word " * int(draw.integers(5, 40))))
        text = "word " * int(draw.integers(5, 40)) + (PHRASE if number < 30 else "")
        late.append(sample(str(number), text))

    def judge(samples):  # type: ignore[no-untyped-def]
        return np.array(
            [(int(s.id) < 30) * 3.0 + np.log1p(len(re.findall(r"\w+", s.reply))) for s in samples]
        )

    natural = Natural.of(judge, Comparison(tuple(early), tuple(late)))
    found = matched(PATTERN, natural, 0, 500)
    assert found is not None
    assert found.mean == pytest.approx(0.0, abs=1e-3)


def test_a_judge_without_numbers_is_named_with_the_sample() -> None:
    with pytest.raises(JudgeError, match="prompt 'b' is nan"):
        finite(lambda samples: np.array([1.0, np.nan]))([sample("a", "x"), sample("b", "y")])
    with pytest.raises(JudgeError, match="shape"):
        finite(lambda samples: np.zeros(3))([sample("a", "x")])
