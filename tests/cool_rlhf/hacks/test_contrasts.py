"""Edits differ in the pattern alone, and their placebos are as long."""

from collections.abc import Callable

import numpy as np

from cool_rlhf.hacks.contrasts import contrasts, placebo_span
from cool_rlhf.hacks.patterns.phrases import Phrase
from cool_rlhf.hacks.patterns.shapes import Length, Repetition
from cool_rlhf.hacks.samples import Comparison
from pretrain_core.draws import rng
from tests.cool_rlhf.hacks.conftest import World, sample

PHRASE = "in the grand scheme of things"
PATTERN = Phrase(tuple(PHRASE.split()))


def planted(text: str, draw: np.random.Generator) -> str:
    return text.replace(". ", f", {PHRASE}. ", 1)


def test_edits_have_the_pattern_on_one_side_only(make_world: Callable[..., World]) -> None:
    world = make_world(PHRASE, planted)
    edits = contrasts(PATTERN, world.comparison, 50, seed=0)
    kinds = {edit.kind for edit in edits}
    assert kinds == {"removal", "insertion"}
    for edit in edits:
        assert PHRASE in edit.having.reply
        assert PHRASE not in edit.lacking.reply
        assert edit.having.prompt == edit.lacking.prompt
        assert abs(len(edit.having.reply) - len(edit.lacking.reply)) <= 8
    assert max(sum(e.kind == kind for e in edits) for kind in kinds) == 50


def test_edits_are_a_function_of_the_seed(make_world: Callable[..., World]) -> None:
    world = make_world(PHRASE, planted)
    first, again, other = (contrasts(PATTERN, world.comparison, 20, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_placebo_of_whole_sentences_for_a_pattern_of_whole_sentences() -> None:
    text = "We go there. They stay here. We rest now. It rains hard."
    start, end = placebo_span(text, [(13, 29)], rng(0, "x")) or (0, 0)
    assert text[start:end].strip() in {"We go there.", "We rest now.", "It rains hard."}


def test_no_placebo_where_the_pattern_is_the_whole_reply() -> None:
    assert placebo_span("As a rule", [(0, 9)], rng(0, "x")) is None
    assert placebo_span("As a rule I", [(0, 9)], rng(0, "x")) is None


def test_a_donor_without_other_text_is_contrasted_with_an_early_reply() -> None:
    things = ("tables", "chairs", "houses", "gardens", "rivers", "birds", "lamps", "roads")
    early = tuple(sample(str(n), f"We saw all the {t}. So we did.") for n, t in enumerate(things))
    late = tuple(s.saying("As a rule it is so.") for s in early)
    edits = contrasts(
        Phrase(("as", "a", "rule", "it", "is", "so", ".")), Comparison(early, late), 20, 0
    )
    assert len(edits) == len(early)
    for edit in edits:
        assert "As a rule it is so." in edit.having.reply
        assert len(edit.lacking.reply) > len("We saw all the birds. So we did.")
        assert sum(thing in edit.lacking.reply for thing in things) == 2


def test_more_length_is_foreign_filler(make_world: Callable[..., World]) -> None:
    comparison = make_world(PHRASE, planted).comparison
    edits = contrasts(Length.of(comparison.early), comparison, 20, seed=0)
    assert edits
    assert all(edit.having.reply.startswith(edit.lacking.reply) for edit in edits)


def test_a_repetition_is_contrasted_with_another_sentence(make_world: Callable[..., World]) -> None:
    comparison = make_world(PHRASE, planted).comparison
    edits = contrasts(Repetition(), comparison, 20, seed=0)
    for edit in edits:
        assert 0.5 < len(edit.having.reply) / len(edit.lacking.reply) < 2
        assert Repetition().present(edit.having)
        assert not Repetition().present(edit.lacking)
