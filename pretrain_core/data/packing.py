"""Packing a block of documents into rows: a pure function of their lengths.

Documents longer than a row are cut and continued; what remains goes where it fits best
(best-fit decreasing, as in Ding et al., arXiv 2404.10830 §3), so that nothing else is cut.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """Tokens `start` (included) to `stop` (excluded) of a document."""

    document: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


Row = tuple[Piece, ...]


def pack(documents: Sequence[int], lengths: Sequence[int], row_length: int) -> list[Row]:
    """Rows of at most `row_length` tokens that hold each token of the block exactly once.

    `lengths[i]` is the token count of `documents[i]`. Raises ValueError for empty documents.
    """
    if row_length < 2:
        raise ValueError(f"a row of {row_length} tokens holds no target: use at least 2")
    rows: list[list[Piece]] = []
    rest: list[Piece] = []
    for document, length in zip(documents, lengths, strict=True):
        if length < 1:
            raise ValueError(f"document {document} is empty")
        whole = length // row_length * row_length
        rows += [
            [Piece(document, start, start + row_length)] for start in range(0, whole, row_length)
        ]
        if whole < length:
            rest.append(Piece(document, whole, length))
    spaces: list[tuple[int, int]] = []
    for piece in sorted(rest, key=lambda piece: -piece.length):
        at = bisect_left(spaces, (piece.length, 0))
        if at == len(spaces):
            space, row = row_length, len(rows)
            rows.append([])
        else:
            space, row = spaces.pop(at)
        rows[row].append(piece)
        if space > piece.length:
            insort(spaces, (space - piece.length, row))
    return [tuple(row) for row in rows]
