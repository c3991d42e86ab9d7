"""Token stores and the batches that are read from them."""

from pretrain_core.data.build import build_store, document_tokens
from pretrain_core.data.loader import IGNORED, Batch, Loader, collate
from pretrain_core.data.packing import Piece, pack
from pretrain_core.data.readers import Quarantine, SourceError, read_jsonl, read_texts
from pretrain_core.data.store import Document, StoreError, TokenStore, write_store

__all__ = [
    "IGNORED",
    "Batch",
    "Document",
    "Loader",
    "Piece",
    "Quarantine",
    "SourceError",
    "StoreError",
    "TokenStore",
    "build_store",
    "collate",
    "document_tokens",
    "pack",
    "read_jsonl",
    "read_texts",
    "write_store",
]
