"""Conversations to masked documents: only what the assistant says is learned."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain_core.chat import ChatError, PolicyChat, conversation
from pretrain_core.data.readers import Quarantine, read_jsonl
from pretrain_core.data.store import Document, TokenStore, write_store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Record = tuple[Path, int, Mapping[str, Any]]


def read_conversations(paths: Sequence[Path], quarantine: Quarantine) -> Iterator[Record]:
    """(file, line, record) of JSONL files; what is no JSON object is quarantined."""
    for path in paths:
        for number, record in read_jsonl(path, quarantine):
            yield path, number, record


def sft_documents(
    records: Iterable[Record], tokenizer: "PreTrainedTokenizerBase", quarantine: Quarantine
) -> Iterator[Document]:
    """One masked document per usable `{"messages": [...]}`, in the tokenizer's own template."""
    chat = PolicyChat(tokenizer)
    for path, line, record in records:
        try:
            encoded = chat.encode(conversation(_messages(record)))
        except ChatError as error:
            quarantine.add(path, line, str(error))
            continue
        if any(encoded.loss_mask):
            yield Document(encoded.tokens, encoded.loss_mask)
        else:
            quarantine.add(path, line, "no assistant turn to learn from")


def build_sft_store(
    records: Iterable[Record],
    tokenizer: "PreTrainedTokenizerBase",
    path: Path,
    quarantine: Quarantine,
) -> TokenStore:
    """Masked token store of conversations; raises `StoreError` if none is usable."""
    documents = sft_documents(records, tokenizer, quarantine)
    return write_store(path, documents, len(tokenizer), masked=True)


def _messages(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    messages = record.get("messages")
    if not isinstance(messages, list):
        raise ChatError("no list under 'messages'")
    return messages
