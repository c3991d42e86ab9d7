"""Token store: one file of documents, memory-mapped, checked by its hash when opened.

Layout: 4,096 bytes of JSON header padded with spaces, the tokens, then the document offsets
(int64). A store with a loss mask keeps tokens as int32 and writes an unlearned token t as
~t (InternEvo marks such tokens by their sign, facts E1; the complement keeps id 0 distinct).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pretrain_core.errors import InputError

HEADER_BYTES = 4096
FORMAT = "cool-rlhf tokens 1"


class StoreError(InputError):
    """A token store that cannot be written or must not be read; names the file."""


@dataclass(frozen=True)
class Document:
    """Tokens of one document; `loss_mask[t]` False: token t is context, never a target."""

    tokens: Sequence[int]
    loss_mask: Sequence[bool] | None = None


class TokenStore:
    """Read-only view of a token store.

    `documents` and `size` count documents and tokens, `lengths` `[documents]` is tokens of each,
    `masked` says whether some tokens are context only, `sha256` identifies the content.
    """

    def __init__(self, path: Path, header: dict[str, object]) -> None:
        self.path = path
        self.vocab_size = int(str(header["vocab_size"]))
        self.documents = int(str(header["documents"]))
        self.size = int(str(header["tokens"]))
        self.masked = bool(header["masked"])
        self.sha256 = str(header["sha256"])
        dtype = np.dtype(str(header["dtype"]))
        after = HEADER_BYTES + self.size * dtype.itemsize
        self._tokens = np.memmap(path, dtype, "r", HEADER_BYTES, (self.size,))
        self._offsets = np.memmap(path, "<i8", "r", after, (self.documents + 1,))
        self.lengths: NDArray[np.int64] = np.diff(self._offsets)

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> "TokenStore":
        """Open a store; `verify` reads it whole against its hash.

        Raises `StoreError` for a missing, foreign, truncated or altered file.
        """
        if not path.is_file():
            raise StoreError(f"{path}: no such token store")
        with path.open("rb") as file:
            header = _header(path, file.read(HEADER_BYTES))
            if verify and _sha256(file) != header["sha256"]:
                raise StoreError(f"{path}: its content does not match its hash; build it again")
        return cls(path, header)

    @property
    def tokens(self) -> NDArray[np.integer[Any]]:
        """All token ids `[size]`, documents one after the other; unmasked stores stay on disk."""
        return (
            np.where(self._tokens < 0, ~self._tokens, self._tokens) if self.masked else self._tokens
        )

    def document(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """Token ids `[stop - start]` of one document or a part of it."""
        raw = self._slice(index, start, stop)
        return np.where(raw < 0, ~raw, raw) if self.masked else raw

    def loss_mask(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.bool_]:
        """True where a token is to be learned, `[stop - start]`; all True in an unmasked store."""
        return self._slice(index, start, stop) >= 0

    def _slice(self, index: int, start: int, stop: int | None) -> NDArray[np.int64]:
        first, end = int(self._offsets[index]), int(self._offsets[index + 1])
        last = end if stop is None else min(first + stop, end)
        return np.asarray(self._tokens[first + start : last], dtype=np.int64)


def write_store(
    path: Path, documents: Iterable[Document | Sequence[int]], vocab_size: int, masked: bool = False
) -> TokenStore:
    """Stream documents into a new store, atomically: the file appears whole or not at all.

    Raises `StoreError` on an empty document, an id outside the vocabulary, or no documents.
    """
    dtype = np.dtype("<i4" if masked or vocab_size > 1 << 16 else "<u2")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    offsets = [0]
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:
            file.write(b" " * HEADER_BYTES)
            for values in _checked(path, documents, vocab_size, masked):
                _append(file, digest, values.astype(dtype).tobytes())
                offsets.append(offsets[-1] + len(values))
            if len(offsets) == 1:
                raise StoreError(f"{path}: there are no documents to store")
            _append(file, digest, np.asarray(offsets, dtype="<i8").tobytes())
            header = {
                "format": FORMAT,
                "dtype": dtype.str,
                "vocab_size": vocab_size,
                "documents": len(offsets) - 1,
                "tokens": offsets[-1],
                "masked": masked,
                "sha256": digest.hexdigest(),
            }
            file.seek(0)
            file.write(json.dumps(header).encode().ljust(HEADER_BYTES))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return TokenStore.open(path, verify=False)


def _append(file: BinaryIO, digest: "hashlib._Hash", data: bytes) -> None:
    file.write(data)
    digest.update(data)


def _checked(
    path: Path, documents: Iterable[Document | Sequence[int]], vocab_size: int, masked: bool
) -> Iterator[NDArray[np.int64]]:
    for index, item in enumerate(documents):
        document = item if isinstance(item, Document) else Document(item)
        tokens = np.asarray(document.tokens, dtype=np.int64)
        if not len(tokens):
            raise StoreError(f"{path}: document {index} is empty")
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise StoreError(
                f"{path}: document {index} has token id {int(tokens.max())}, "
                f"outside the vocabulary of {vocab_size}"
            )
        if not masked:
            if document.loss_mask is not None:
                raise StoreError(f"{path}: document {index} has a loss mask; pass masked=True")
            yield tokens
            continue
        mask = np.ones(len(tokens), dtype=bool)
        if document.loss_mask is not None:
            mask = np.asarray(document.loss_mask, dtype=bool)
        if len(mask) != len(tokens):
            raise StoreError(
                f"{path}: document {index} has {len(tokens)} tokens, {len(mask)} mask values"
            )
        yield np.where(mask, tokens, ~tokens)


def _header(path: Path, raw: bytes) -> dict[str, object]:
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise StoreError(f"{path}: not a token store (no readable header)") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StoreError(f"{path}: not a token store of format {FORMAT!r}")
    size = np.dtype(header["dtype"]).itemsize
    expected = HEADER_BYTES + header["tokens"] * size + 8 * (header["documents"] + 1)
    if path.stat().st_size != expected:
        raise StoreError(
            f"{path}: {path.stat().st_size} bytes instead of {expected}; build it again"
        )
    return header


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
