"""Is the reply as long as it should be?"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import regex
from pydantic import Field, model_validator

from pretrain_core.cache import InputPath
from pretrain_core.chat import Message
from pretrain_core.settings import Settings
from reward.verifiers.verdict import Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORD = regex.compile(r"\p{Han}|\p{Hiragana}|\p{Katakana}|[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*")


class LengthSettings(Settings):
    """A window; outside it the score falls in a straight line."""

    kind: Literal["length"] = "length"
    unit: Literal["words", "tokens", "characters"] = Field(
        "words", description="a sign of Chinese or Japanese writing is a word"
    )
    least: int = Field(0, ge=0)
    most: int = Field(gt=0)
    fall: int = Field(
        50, ge=1, description="units outside the window at which the score has come down to 0"
    )
    tokenizer: InputPath | None = Field(None, description="folder; needed to count tokens")

    @model_validator(mode="after")
    def _window(self) -> "LengthSettings":
        if self.least > self.most:
            raise ValueError(f"least {self.least} is above most {self.most}")
        if (self.unit == "tokens") != (self.tokenizer is not None):
            raise ValueError("a tokenizer is given if, and only if, the unit is tokens")
        return self


class LengthVerifier:
    """1 inside the window, falling to 0 outside it."""

    def __init__(self, settings: LengthSettings) -> None:
        self.settings = settings

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        """Judge by length alone; needs no reference."""
        rules = self.settings
        count = self._count(reply)
        outside = max(rules.least - count, count - rules.most, 0)
        score = max(0.0, 1 - outside / rules.fall)
        reason = f"{count} {rules.unit}, expected {rules.least} to {rules.most}"
        return Verdict(score, outside == 0, reason)

    def close(self) -> None:
        """Nothing to end."""

    def _count(self, reply: str) -> int:
        if self.settings.unit == "tokens":
            return len(self._tokenizer.encode(reply, add_special_tokens=False))
        if self.settings.unit == "characters":
            return len(reply)
        return sum(1 for _ in _WORD.finditer(reply))

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.settings.tokenizer)
