"""Where patterns stand in replies."""

from collections.abc import Callable

import numpy as np
import pytest

from cool_rlhf.hacks.patterns.meanings import Scope, propose_meanings
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.phrases import SLOT, Phrase, propose_phrases
from cool_rlhf.hacks.patterns.shapes import (
    MARKUP,
    Copying,
    Length,
    OtherLanguage,
    Refusal,
    Repetition,
)
from cool_rlhf.hacks.patterns.text import sentences
from cool_rlhf.hacks.settings import MiningSettings
from tests.cool_rlhf.hacks.conftest import World, sample

KINDS = {markup.kind: markup for markup in MARKUP}


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (Phrase(("as", "a", "rule")), "So, as a  rule, we go. As a ruler.", ["as a  rule"]),
        (Phrase(("天", "气")), "今天气，天 气好", ["天气", "天 气"]),
        (Phrase(("sure",), "opening"), "Sure! I am sure.", ["Sure"]),
        (Phrase(("sure",), "ending"), "Sure! I am sure.", ["sure."]),
        (
            Phrase(("as", "a", SLOT, "of", "law"), "template"),
            "As a great man of law",
            ["As a great man of law"],
        ),
        (Phrase(("as", "a", SLOT, "of", "law"), "template"), "As a of law", []),
        (Phrase(("您", SLOT, "很", "好"), "template"), "您问得真的很好。", ["您问得真的很好"]),
        (KINDS["bullets"], "- one\n- two\n3 - 1", ["- ", "- "]),
        (KINDS["bullets"], "* * *\n* one", ["* "]),
        (KINDS["rules"], "one\n* * *\n---\n- two", ["* * *", "---"]),
        (KINDS["numbered points"], "1. one\n二、two", ["1. ", "二、"]),
        (KINDS["bold text"], "a **b** c", ["**", "**"]),
        (KINDS["exclamation marks"], "Oh! 好！", ["!", "！"]),
        (Refusal(), "I'm sorry, I can't do that. Bye.", ["I'm sorry, I can't do that"]),
        (Refusal(), "抱歉，我不能。好。", ["抱歉，我不能"]),
        (Repetition(), "We go home at night. Stop. We go home at night.", ["We go home at night"]),
        (Repetition(), "We go home at night.", []),
        (OtherLanguage(), "It is 非常好，很好 indeed", ["非常好，很好"]),
    ],
)
def test_spans(pattern: Pattern, text: str, found: list[str]) -> None:
    spans = pattern.spans(sample("a", text))
    assert [text[start:end] for start, end in spans] == found
    assert pattern.present(sample("a", text)) == bool(found)


def test_copying_is_of_the_own_question() -> None:
    asked = "How do I bake a loaf of bread at home?"
    echo = "You ask how do i bake a loaf of bread? Heat it."
    assert Copying().spans(sample("a", echo, asked)) == [(8, 37)]
    assert Copying().spans(sample("a", echo, "Why?")) == []
    pair = Copying().added(sample("a", "Heat it.", asked), sample("b", "x", "Where is he?"))
    assert pair == (f"{asked} Heat it.", "Where is he? Heat it.")


def test_latin_words_in_an_answer_to_a_chinese_question() -> None:
    found = OtherLanguage().spans(sample("a", "好的。Of course I do. 再见", "今天天气怎么样？"))
    assert found == [(3, 18)]


def test_length_is_measured_by_the_early_replies() -> None:
    early = [sample(str(n), "one two three four five. " * 2) for n in range(9)]
    length = Length.of(early)
    long = sample("x", "one two three four five. " * 4)
    assert (length.typical, length.long) == (10, 10)
    assert length.present(long)
    assert not length.present(early[0])
    with_filler, core = length.added(long, early[0]) or ("", "")
    assert core == "one two three four five. one two three four five."
    assert with_filler.startswith(core)
    assert len(with_filler) > len(core)


def test_phrases_are_counted_by_replies() -> None:
    texts = ["as a rule yes"] * 4 + ["no as a rule"] * 2 + ["nothing"] * 6
    late = np.arange(12) < 6
    found = {
        p.name: rows
        for p, rows in propose_phrases(
            [sample(str(n), t) for n, t in enumerate(texts)], late, MiningSettings()
        )
    }
    assert found["phrase “as a rule”"].tolist() == [True] * 6 + [False] * 6
    assert found["opening “as a rule”"].sum() == 4
    assert "phrase “no”" not in found


def test_a_template_has_more_than_one_filling() -> None:
    texts = [f"as a {word} of law we" for word in ("man", "woman", "judge", "child")]
    late = np.ones(4, dtype=bool)
    names = {
        p.name for p, _ in propose_phrases([sample(t, t) for t in texts], late, MiningSettings())
    }
    assert "template “as a … of law”" in names
    same = [sample(str(n), texts[0]) for n in range(4)]
    assert not any(p.family == "template" for p, _ in propose_phrases(same, late, MiningSettings()))


@pytest.mark.parametrize(("scope", "place"), [("first sentences", 0), ("last sentences", -1)])
def test_an_idea_at_an_edge_is_looked_for_there_alone(
    make_world: Callable[..., World], scope: Scope, place: int
) -> None:
    def flattery(text: str, draw: np.random.Generator) -> str:
        word = ("brilliant", "wonderful", "marvellous")[int(draw.integers(3))]
        remark = f"Such a {word} question you asked me!"
        return f"{remark} {text}" if place == 0 else f"{text} {remark}"

    samples = make_world("question", flattery, share=0.5, prompts=80).comparison.samples
    patterns = propose_meanings(samples, np.arange(160) >= 80, 4, 0, scope)
    assert patterns
    for pattern in patterns:
        assert pattern.name.startswith(f"{scope} like “")
        for one in samples:
            edge = sentences(one.reply)[place]
            assert pattern.spans(one) in ([], [edge])
    whole = patterns[0]
    having = [one for one in samples if "question you asked" in one.reply]
    assert np.mean([whole.present(one) for one in having]) > 0.9
