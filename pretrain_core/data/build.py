"""From texts to token stores: a document is its text between the tokenizer's bos and eos."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pretrain_core.chat import IM_START
from pretrain_core.data.store import TokenStore, write_store
from pretrain_core.draws import seed_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

_TEXTS_AT_ONCE = 64


def document_tokens(
    tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]
) -> Iterator[list[int]]:
    """Token ids of each text as a document; text that looks like a special token stays text."""
    # Chat models such as SmolLM2 declare the opening of a turn as bos: no start of a document.
    bos = tokenizer.bos_token_id if tokenizer.bos_token != IM_START else None
    eos = tokenizer.eos_token_id
    source = iter(texts)
    while batch := list(islice(source, _TEXTS_AT_ONCE)):
        for ids in tokenizer(batch, add_special_tokens=False, split_special_tokens=True).input_ids:
            start = [] if bos is None else [int(bos)]
            end = [] if eos is None else [int(eos)]
            yield start + list(ids) + end


def build_store(
    texts: Iterable[str], tokenizer: "PreTrainedTokenizerBase", path: Path
) -> TokenStore:
    """Tokenise texts into a store; raises `StoreError` if there are none."""
    return write_store(path, document_tokens(tokenizer, texts), len(tokenizer))


def split_held_out(items: Iterable[T], share: float, seed: int) -> tuple[list[T], list[T]]:
    """(kept, held out): each item is drawn by its place, so that the split is repeatable."""
    kept: list[T] = []
    held_out: list[T] = []
    for index, item in enumerate(items):
        drawn = seed_of(seed, "held-out", 0, index) / (1 << 63)
        (held_out if drawn < share else kept).append(item)
    return kept, held_out
