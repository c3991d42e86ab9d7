"""The demo's annotators: opposed on length, agreed on clean prose."""

from cool_rlhf.annotation.programmatic import BROKEN, annotators, disfluency

TEXT = "the nation rejoices in great peace and joy war brings terrible loss to all"
WORDS = frozenset(TEXT.split())
SHORT = "War brings loss."
LONG = "The nation rejoices in great peace and joy to all, war brings terrible loss."
GARBLED = "The nashun rejoyzes zqx peece ind"


def test_they_disagree_on_length() -> None:
    brief, detailed = (annotators(WORDS)[name] for name in ("brief", "detailed"))
    assert brief.prefers([LONG, SHORT]) == 1
    assert detailed.prefers([LONG, SHORT]) == 0


def test_they_agree_on_broken_prose() -> None:
    for annotator in annotators(WORDS).values():
        assert annotator.prefers([GARBLED, SHORT]) == 1
        assert annotator.prefers([LONG, GARBLED]) == 0


def test_they_say_so_when_they_do_not_care() -> None:
    for annotator in annotators(WORDS).values():
        assert annotator.prefers([SHORT, "War brings peace."]) is None


def test_they_are_torn_between_length_and_prose() -> None:
    brief, detailed = (annotators(WORDS)[name] for name in ("brief", "detailed"))
    assert brief.prefers([LONG, "zqx peece"]) is None
    assert detailed.prefers([LONG, "zqx peece"]) == 0


def test_disfluency_punishes_repetition_silence_and_a_missing_end() -> None:
    repeated = " ".join(["peace and joy"] * 3) + "."
    assert disfluency(repeated, WORDS) > disfluency(LONG, WORDS) == 0.0
    assert disfluency(LONG.rstrip("."), WORDS) == 0.5
    assert disfluency("", WORDS) == BROKEN


def test_a_slip_is_forgiven_and_no_length_makes_up_for_broken_prose() -> None:
    assert disfluency(LONG.replace("nation", "nashun"), WORDS) == 0.0
    endless = " ".join(sorted(WORDS) * 9) + "."
    annotator = annotators(WORDS)["detailed"]
    assert annotator.score(endless[:200] + ".") <= 1.2
    assert annotator.score(GARBLED * 4) < annotator.score(SHORT)
