"""Patterns survive a round trip through JSON."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from cool_rlhf.hacks.patterns.meanings import propose_meanings
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.phrases import SLOT, Phrase
from cool_rlhf.hacks.patterns.shapes import shapes
from cool_rlhf.hacks.patterns.signs import Sign
from cool_rlhf.hacks.patterns.specification import SpecificationError, pattern_of, specification
from cool_rlhf.hacks.patterns.text import Span
from cool_rlhf.hacks.samples import Sample
from tests.cool_rlhf.hacks.conftest import World, sample, sentence

WORDINGS = [
    Phrase(("in", "the", "end")),
    Phrase(("当", "然")),
    Phrase(("as", "a", SLOT, "i", "know"), "template"),
    Phrase(("sure",), "opening"),
    Phrase(("ask", "me"), "ending"),
    Phrase(("dear", "friends", ",")),
    Sign.of(">", "line start"),
    Sign.of("~~", "anywhere"),
    Sign.of("~~", "around words"),
    Sign.of("---", "line"),
]


def again(pattern: Pattern) -> Pattern:
    return pattern_of(json.loads(json.dumps(specification(pattern))))


@pytest.mark.parametrize(
    "pattern", [*WORDINGS, *shapes([sample("a", "One two three. " * 5)])], ids=lambda p: p.name
)
def test_wordings_and_shapes_return_as_they_were(pattern: Pattern) -> None:
    assert again(pattern) == pattern
    assert again(pattern).name == pattern.name


def test_likeness_finds_the_same_sentences_again(make_world: Callable[..., World]) -> None:
    def flattery(text: str, draw: np.random.Generator) -> str:
        word = ("brilliant", "wonderful", "marvellous")[int(draw.integers(3))]
        return f"{text} Such a {word} question you asked me! {sentence(draw)}"

    world = make_world("question", flattery, share=0.5, prompts=80)
    samples = world.comparison.samples
    late = np.arange(len(samples)) >= len(world.comparison.early)
    patterns = propose_meanings(samples, late, 4, seed=0)
    assert patterns
    for pattern in patterns[:2]:
        rebuilt = again(pattern)
        assert rebuilt.name == pattern.name
        assert [rebuilt.spans(s) for s in samples] == [pattern.spans(s) for s in samples]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"kind": "melody"}, "'melody': known are phrase, opening"),
        ({"gram": ["a"]}, "lacks 'kind'"),
        ({"kind": "phrase", "gram": []}, "list of tokens"),
        ({"kind": "phrase", "gram": [1]}, "list of tokens"),
        ({"kind": "length", "typical": "many", "long": 3}, "kind 'length'"),
        ({"kind": "sign", "run": "", "place": "line"}, "a run at one of anywhere"),
        ({"kind": "sign", "run": ">", "place": "top"}, "a run at one of anywhere"),
        ({"kind": "markup", "marks": "runes"}, "'runes': known are bullets"),
        (
            {
                **{"kind": "sentences", "weights": "eJw=", "threshold": 0, "centres": []},
                **{"cues": [], "scope": "sentences"},
            },
            "kind 'sentences'",
        ),
        ({"kind": "sentences", "scope": "middle"}, "'middle': known are sentences, first"),
    ],
)
def test_what_cannot_be_read_is_named(found: dict[str, object], message: str) -> None:
    with pytest.raises(SpecificationError, match=message):
        pattern_of(found)


def test_a_class_of_ones_own_has_no_specification() -> None:
    class Stranger(Pattern):
        family = name = "own"

        def spans(self, sample: Sample) -> list[Span]:
            return []

    with pytest.raises(SpecificationError, match="class Stranger"):
        specification(Stranger())
