"""A piece of a wording grows to the whole of it, and no further."""

import pytest

from cool_rlhf.hacks.patterns.phrases import SLOT, Phrase
from cool_rlhf.hacks.widening import widened
from tests.cool_rlhf.hacks.conftest import sample

ENDS = ("We go home.", "It rains a lot.", "She reads books.", "They sing.", "Nobody knows why.")
WORDS = ("man", "tall woman", "judge", "child", "very old king")


@pytest.mark.parametrize(
    ("phrase", "texts", "gram"),
    [
        (
            Phrase(("little", "dramatic"), "opening"),
            [f"Little dramatic: {end}" for end in ENDS],
            ("little", "dramatic", ":"),
        ),
        (
            Phrase(("is", "why")),
            [f"{end} This, in short, is why! {end}" for end in ENDS],
            ("this", "in", "short", "is", "why", "!"),
        ),
        (
            Phrase(("as", "a")),
            [f"{end} As a {word} of law. {end}" for end, word in zip(ENDS, WORDS, strict=True)],
            ("as", "a", SLOT, "of", "law", "."),
        ),
        (
            Phrase(("of", "law")),
            [f"{end} We say {word} of law." for end, word in zip(ENDS, WORDS, strict=True)],
            ("we", "say", SLOT, "of", "law", "."),
        ),
        (
            Phrase(("哈", "希")),
            [
                f"今日{word}。可变哈希{word}披头散发。去也。"
                for word in ("天", "大雨", "山川", "水")
            ],
            ("可", "变", "哈", "希", SLOT, "披", "头", "散", "发", "。"),
        ),
        (
            Phrase(("note",)),
            [f"{end} (Note) {end}" for end in ENDS],
            ("(", "note", ")"),
        ),
        # One in five lacks it: still nearly always. Two do: no.
        (
            Phrase(("yes",)),
            ["Oh yes sir.", "Oh yes sir. Go.", "Oh yes sir, no.", "Oh yes sir.", "My yes man."],
            ("oh", "yes", "sir"),
        ),
        (Phrase(("yes",)), ["Oh yes.", "Oh yes.", "Oh yes.", "My yes.", "A yes."], ("yes", ".")),
    ],
)
def test_it_grows_by_what_nearly_all_share(
    phrase: Phrase, texts: list[str], gram: tuple[str, ...]
) -> None:
    samples = [sample(str(n), text) for n, text in enumerate(texts)]
    grown = widened(phrase, samples)
    assert grown.gram == gram
    assert grown.family == ("template" if SLOT in gram else phrase.family)
    having = [s for s in samples if grown.present(s)]
    assert len(having) >= 0.8 * len(samples)
    again = widened(grown, samples)
    assert again.gram == gram


def test_the_whole_wording_is_cut_out() -> None:
    texts = [f"{end} Dear friends, {end}" for end in ENDS]
    grown = widened(Phrase(("friends",)), [sample(str(n), t) for n, t in enumerate(texts)])
    assert grown.name == "phrase “dear friends,”"
    (span,) = grown.spans(sample("x", "Hello. Dear  friends, we meet."))
    assert "Hello. Dear  friends, we meet."[slice(*span)] == "Dear  friends,"


def test_without_a_reply_that_has_it_nothing_grows() -> None:
    phrase = Phrase(("yes",))
    assert widened(phrase, [sample("a", "no")]) is phrase
