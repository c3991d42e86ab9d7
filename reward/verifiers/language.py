"""Is the reply written in the expected language?"""

from collections.abc import Sequence
from typing import Literal

import regex
from pydantic import Field

from pretrain_core.chat import Message
from pretrain_core.settings import Settings
from reward.verifiers.fences import without_fences
from reward.verifiers.verdict import Verdict, unjudged

_NOT_PROSE = regex.compile(r"`[^`\n]*`|\$[^$\n]*\$|https?://\S+|[\p{C}--\s]", regex.VERSION1)
_LETTER = regex.compile(r"\p{L}")
_WIDE_LETTER = regex.compile(r"\p{Han}|\p{Hiragana}|\p{Katakana}|\p{Hangul}")
_WIDE_WEIGHT = 3
_MAX_CHARACTERS = 20_000


class LanguageSettings(Settings):
    """Languages by ISO 639-1 code, told by CLD2 from the prose outside code and formulas."""

    kind: Literal["language"] = "language"
    expected: str = Field(
        "prompt",
        pattern=r"^([a-z]{2,3}|prompt)$",
        description="code such as en, zh, de; `prompt`: that of the last user turn",
    )
    min_share: float = Field(0.8, gt=0, le=1, description="of the prose, to pass")
    min_letters: int = Field(
        12, ge=1, description="shorter texts are not judged; a Chinese sign counts as three letters"
    )


class LanguageVerifier:
    """Score = share of the prose in the expected language."""

    def __init__(self, settings: LanguageSettings) -> None:
        self.settings = settings

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        """Judge the reply's prose; unjudged where there is too little of it."""
        expected = self.settings.expected
        if expected == "prompt":
            asked = next((m.content for m in reversed(prompt) if m.role == "user"), "")
            shares = self._shares(asked)
            if not shares:
                return unjudged("the language of the prompt is not clear")
            expected = max(shares, key=lambda language: shares[language])
        prose = _prose(reply)
        if _weight(prose) < self.settings.min_letters:
            return unjudged("too little prose to tell its language")
        shares = self._shares(reply)
        share = shares.get(expected, 0.0)
        found = ", ".join(f"{name} {part:.0%}" for name, part in shares.items()) or "none known"
        return Verdict(share, share >= self.settings.min_share, f"expected {expected}: {found}")

    def close(self) -> None:
        """Nothing to end."""

    def _shares(self, text: str) -> dict[str, float]:
        """Language → share of the recognised prose."""
        import pycld2

        prose = _prose(text)
        if _weight(prose) < self.settings.min_letters:
            return {}
        _, _, details = pycld2.detect(prose, isPlainText=True, bestEffort=True)
        shares: dict[str, float] = {}
        for _, code, percent, _ in details:
            if code != "un" and percent:
                # Script variants (zh-Hant) are one language here.
                language = code.partition("-")[0]
                shares[language] = min(1.0, shares.get(language, 0.0) + percent / 100)
        return shares


def _prose(text: str) -> str:
    return _NOT_PROSE.sub(" ", without_fences(text[:_MAX_CHARACTERS]))


def _weight(prose: str) -> int:
    wide = len(_WIDE_LETTER.findall(prose))
    return len(_LETTER.findall(prose)) + (_WIDE_WEIGHT - 1) * wide
