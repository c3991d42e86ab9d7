"""JSON, format, language and length: verifiers that need no sandbox."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pretrain_core.chat import Message
from reward.verifiers.language import LanguageSettings, LanguageVerifier
from reward.verifiers.length import LengthSettings, LengthVerifier
from reward.verifiers.structure import FormatSettings, FormatVerifier, JsonSettings, JsonVerifier

SCHEMA = {
    "type": "object",
    "required": ["age"],
    "properties": {"age": {"$ref": "#/$defs/age"}},
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}


@pytest.mark.parametrize(
    ("reply", "passed"),
    [
        ('{"age": 3}', True),
        ('Here:\n```json\n{"age": 3}\n```\nas you asked', True),
        ('{"age": -3}', False),
        ('{"age": 3} and more', False),
        ('{"age": NaN}', False),
        ("[" * 100_000, False),
        ('{"age": ' + "9" * 5000 + "}", False),
        ("", False),
        ("x" * 200_001, False),
    ],
)
def test_json(reply: str, passed: bool) -> None:
    verdict = JsonVerifier(JsonSettings(json_schema=SCHEMA)).verify([], reply, None)
    assert verdict.passed == passed
    assert len(verdict.reason) < 250


def test_json_says_where_the_schema_is_broken() -> None:
    verdict = JsonVerifier(JsonSettings(json_schema=SCHEMA)).verify([], '{"age": "old"}', None)
    assert verdict.reason == "$.age: 'old' is not of type 'integer'"
    assert JsonVerifier(JsonSettings()).verify([], "[1]", None).passed


@pytest.mark.parametrize(
    ("schema", "reason"),
    [({"type": "objekt"}, "no JSON schema"), ({"$ref": "https://x.org/s"}, "nothing is fetched")],
)
def test_unusable_schemas_are_refused(schema: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        JsonSettings(json_schema=schema)


def test_format_scores_the_share_of_rules() -> None:
    settings = FormatSettings(
        pattern=r"Sources?:",
        forbidden=r"(?i)as an ai",
        sections=("Summary", "Details"),
        bullets=(2, 3),
        code_block=False,
    )
    format_ = FormatVerifier(settings)
    good = "# Summary\n- a\n- b\n## Details ##\n1. c\nSource: x"
    assert format_.verify([], good, None).score == 1.0
    bad = "# Details\n- a\n# Summary\n```\n- not an item\n```\nAs an AI"
    verdict = format_.verify([], bad, None)
    assert (verdict.score, verdict.passed) == (0.0, False)
    assert "no section 'Details' in its place" in verdict.reason
    assert "1 list items" in verdict.reason
    assert format_.verify([], good + "\nas an AI", None).score == pytest.approx(0.8)


def test_a_pattern_that_explodes_is_stopped() -> None:
    settings = FormatSettings(pattern=r"(.*a){25}(.*b){25}c$")
    verdict = FormatVerifier(settings).verify([], "ab" * 400, None)
    assert not verdict.passed
    assert "longer than 1 s" in verdict.reason


@pytest.mark.parametrize("rules", [{}, {"pattern": "("}, {"bullets": (3, 2)}])
def test_unusable_formats_are_refused(rules: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FormatSettings.model_validate(rules)


ENGLISH = "Bake the bread at two hundred degrees for forty minutes, then let it cool."
CHINESE = "先把面团揉好，再放进烤箱里烤四十分钟，最后放凉。"
GERMAN = "Backe das Brot vierzig Minuten lang bei zweihundert Grad und lass es abkühlen."


@pytest.mark.parametrize(("reply", "name"), [(ENGLISH, "en"), (CHINESE, "zh"), (GERMAN, "de")])
def test_language(ask: Callable[[str], list[Message]], reply: str, name: str) -> None:
    for expected in ("en", "zh", "de"):
        verdict = LanguageVerifier(LanguageSettings(expected=expected)).verify([], reply, None)
        assert verdict.passed == (expected == name), verdict.reason
    same = LanguageVerifier(LanguageSettings())
    assert same.verify(ask(reply), reply, None).passed
    assert not same.verify(ask(ENGLISH if name != "en" else GERMAN), reply, None).passed


def test_language_looks_at_prose_only() -> None:
    german = LanguageVerifier(LanguageSettings(expected="de"))
    code = "```python\n# the quick brown fox jumps over the lazy dog\nreturn the_answer\n```"
    assert german.verify([], f"{GERMAN}\n{code}\n$the + answer$", None).passed
    mixed = german.verify([], f"{GERMAN} {ENGLISH}", None)
    assert mixed.score is not None
    assert 0.2 < mixed.score < 0.8
    assert german.verify([], "42", None).score is None
    assert german.verify([], code, None).score is None
    assert german.verify([], "\x00\x1b\ud800 " + GERMAN, None).passed


def test_language_of_an_unclear_prompt_is_not_judged(ask: Callable[[str], list[Message]]) -> None:
    verdict = LanguageVerifier(LanguageSettings()).verify(ask("2+2?"), ENGLISH, None)
    assert (verdict.score, verdict.reason) == (None, "the language of the prompt is not clear")


@pytest.mark.parametrize(
    ("reply", "score"),
    [("a b c", 1.0), ("a", 0.75), ("", 0.5), ("one " * 6, 0.5), ("你好 world it's", 1.0)],
)
def test_length_falls_in_a_line(reply: str, score: float) -> None:
    verdict = LengthVerifier(LengthSettings(least=2, most=4, fall=4)).verify([], reply, None)
    assert verdict.score == score
    assert verdict.passed == (score == 1.0)


@given(st.integers(0, 300))
def test_length_is_best_inside_and_never_leaves_its_range(count: int) -> None:
    settings = LengthSettings(least=50, most=100, fall=30, unit="characters")
    verdict = LengthVerifier(settings).verify([], "x" * count, None)
    assert verdict.score is not None
    assert 0 <= verdict.score <= 1
    assert (verdict.score == 1) == (50 <= count <= 100) == verdict.passed


def test_length_in_tokens(tokenizer_folder: Path) -> None:
    settings = LengthSettings(most=1, unit="tokens", tokenizer=tokenizer_folder)
    assert LengthVerifier(settings).verify([], "e", None).passed
    assert not LengthVerifier(settings).verify([], "the tree and the river", None).passed
    for bad in ({"most": 1, "unit": "tokens"}, {"most": 1, "least": 2}):
        with pytest.raises(ValidationError):
            LengthSettings.model_validate(bad)
