"""Texts that end a reply: looked for as tokens come, the same way for every engine."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class StopStrings:
    """Whether a reply ends with its newest token, because a text is complete."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", strings: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.strings = tuple(strings)
        # A token adds at least one byte, so a text that has just become complete lies in so many.
        self._tail = max(len(text.encode()) for text in strings)

    def ended(self, tokens: Sequence[int]) -> bool:
        """Looks at the end only: a text that was complete earlier has ended the reply then."""
        tail = self.tokenizer.decode(
            list(tokens[-self._tail :]),
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        return any(text in str(tail) for text in self.strings)


@lru_cache(maxsize=4)
def stop_strings(folder: Path, strings: tuple[str, ...]) -> StopStrings | None:
    """Those of a model folder's tokenizer; None where there are no texts to look for."""
    if not strings:
        return None
    from transformers import AutoTokenizer

    return StopStrings(AutoTokenizer.from_pretrained(folder), strings)
