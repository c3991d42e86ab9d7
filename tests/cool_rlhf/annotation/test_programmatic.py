"""The demo's annotators: opposed in tone, agreed on fluency."""

from cool_rlhf.annotation.programmatic import annotators, disfluency

TEXT = "the nation rejoices in great peace and joy war brings terrible loss to all"
WORDS = frozenset(TEXT.split())
BRIGHT = "The nation rejoices in great peace and joy"
DARK = "War brings terrible loss to all the nation"
BROKEN = "The nashun rejoyzes zqx peece ind joyous blorp"


def test_they_disagree_on_tone() -> None:
    hopeful, grave = (annotators(WORDS)[name] for name in ("hopeful", "grave"))
    assert hopeful.prefers(DARK, BRIGHT) == 1
    assert grave.prefers(DARK, BRIGHT) == 0


def test_they_agree_on_broken_prose() -> None:
    for annotator in annotators(WORDS).values():
        assert annotator.prefers(BROKEN, BRIGHT) == 1
        assert annotator.prefers(BROKEN, DARK) == 1


def test_disfluency_punishes_repetition_and_silence() -> None:
    repeated = " ".join(["peace and joy"] * 3)
    assert disfluency(repeated, WORDS) > disfluency(BRIGHT, WORDS)
    assert disfluency("", WORDS) == 2.0
