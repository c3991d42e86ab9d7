"""Documents as a model sees them, in runs of learned and unlearned text."""

from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain_core.chat import ChatError, PolicyChat, conversation
from pretrain_core.data.readers import Quarantine, read_jsonl
from pretrain_core.data.store import TokenStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Shown = tuple[str, list[tuple[str, bool]]]


def peek(
    source: Path, tokenizer: "PreTrainedTokenizerBase", first: int, count: int, tokens: int
) -> Iterator[Shown]:
    """(title, [(text, learned)]) of `count` documents of a store or of conversations in JSONL.

    A conversation that cannot be used is shown with its reason instead of its text.
    """
    if source.suffix == ".jsonl":
        yield from _conversations(source, tokenizer, first, count, tokens)
        return
    store = TokenStore.open(source)
    for index in range(first, min(first + count, store.documents)):
        ids = store.document(index, 0, tokens).tolist()
        mask = store.loss_mask(index, 0, tokens).tolist()
        # The first token of a document has nothing before it: it is never a target.
        title = f"document {index} of {store.documents}: {store.lengths[index]} tokens"
        yield title, _runs(tokenizer, ids, [False, *mask[1:]])


def _conversations(
    source: Path, tokenizer: "PreTrainedTokenizerBase", first: int, count: int, tokens: int
) -> Iterator[Shown]:
    chat = PolicyChat(tokenizer)
    quarantine = Quarantine()
    for line, record in islice(read_jsonl(source, quarantine), first, first + count):
        try:
            encoded = chat.encode(conversation(record.get("messages", [])))
        except ChatError as error:
            yield f"{source.name}:{line}: not usable: {error}", []
            continue
        ids, mask = encoded.tokens[:tokens], encoded.loss_mask[:tokens]
        title = (
            f"{source.name}:{line}: {len(encoded.tokens)} tokens, {sum(encoded.loss_mask)} learned"
        )
        yield title, _runs(tokenizer, ids, mask)


def _runs(
    tokenizer: "PreTrainedTokenizerBase", ids: list[int], mask: list[bool]
) -> list[tuple[str, bool]]:
    pairs = zip(ids, mask, strict=True)
    return [
        (str(tokenizer.decode([token for token, _ in group])), learn)
        for learn, group in groupby(pairs, key=lambda pair: pair[1])
    ]
