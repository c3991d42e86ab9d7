"""Places of tokens and sentences, and edits that keep a text readable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cool_rlhf.hacks.patterns.text import chinese_share, sentences, tokens, with_inserted, without


@given(st.text(alphabet='ab .!?\n1-。！天气"”', max_size=60))
def test_sentences_are_the_text(text: str) -> None:
    assert "".join(text[start:end] for start, end in sentences(text)) == text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It is 3.14 now! Isn't it?", ["It is 3.14 now! ", "Isn't it?"]),
        ("今天很好。我们走吧！好的", ["今天很好。", "我们走吧！", "好的"]),
        ("1. First thing.\n2. Second.", ["1. First thing.\n", "2. Second."]),
        ("We are\n2.", ["We are\n", "2."]),
        ("He said “go.” They went.", ["He said “go.” ", "They went."]),
        ("- one\n- two", ["- one\n", "- two"]),
    ],
)
def test_sentences_of_both_languages_and_of_lists(text: str, parts: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == parts


def test_tokens_are_words_and_single_chinese_characters() -> None:
    text = "Don't 走了 x2"
    assert [token for token, _, _ in tokens(text)] == ["don't", "走", "了", "x2"]
    assert all(text[start:end].lower() == token for token, start, end in tokens(text))


def test_cutting_leaves_no_double_spaces() -> None:
    text = "We hope that, as a rule, we go."
    assert without(text, [(14, 24)]) == "We hope that, we go."
    assert without("今天天气很好。", [(2, 4)]) == "今天很好。"
    assert without(text, [(0, len(text))]) == ""


def test_inserting_spaces_as_the_language_does() -> None:
    assert with_inserted("We go. We eat.", 7, "Sure!") == "We go. Sure! We eat."
    assert with_inserted("今天好。我们去", 4, "好的。") == "今天好。好的。我们去"
    assert with_inserted("We go.", 0, "Sure!") == "Sure! We go."
    assert with_inserted("", 0, "Sure!") == "Sure!"


def test_chinese_share() -> None:
    assert chinese_share("天气 ab") == 0.5
    assert chinese_share("123") == 0.0
