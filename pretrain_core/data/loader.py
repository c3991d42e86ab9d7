"""Batches in one global order that depends on seed, store and shape only, never on the ranks.

An epoch is a permutation of the documents, cut into blocks of a fixed number of documents; each
block is packed into rows, the rows are shuffled inside their block, and a step takes the next
`sequences` rows. The state is therefore a position in that order.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from pretrain_core.data.packing import Piece, Row, pack
from pretrain_core.data.store import TokenStore
from pretrain_core.draws import rng

IGNORED = -100


@dataclass(frozen=True)
class Position:
    """Next row to read: block (counted over epochs) and row in it."""

    block: int = 0
    row: int = 0


@dataclass(frozen=True)
class Batch:
    """Packed rows of one micro-batch; a target is the next token of the document or -100."""

    tokens: Tensor
    """`[tokens]` int64."""
    targets: Tensor
    """`[tokens]` int64, aligned with `tokens`."""
    cu_seqlens: Tensor
    """`[segments + 1]` int32."""
    pieces: tuple[Piece, ...]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each segment."""
        return [piece.length for piece in self.pieces]


@dataclass(frozen=True)
class Step:
    """What one rank computes in one step, and the global counts that every rank agrees on."""

    batches: list[Batch]
    tokens: int
    targets: int
    lengths: list[int]
    documents: list[list[list[int]]]
    """Document indices per rank and micro-batch: whom to name when a loss is not finite."""


class Loader:
    """Endless deterministic stream of steps; `position` is its whole state.

    `sequences` rows of at most `length` tokens make a step, split evenly over `ranks` and then
    into micro-batches of `micro_sequences`. Raises ValueError where they do not divide.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        sequences: int,
        length: int,
        seed: int,
        micro_sequences: int | None = None,
        block_documents: int = 1024,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if sequences % ranks:
            raise ValueError(f"batch.sequences {sequences} is not a multiple of {ranks} ranks")
        self.store = store
        self.sequences, self.length, self.seed = sequences, length, seed
        self.block_documents = block_documents
        self.rank, self.ranks = rank, ranks
        self.per_rank = sequences // ranks
        self.micro = min(micro_sequences or self.per_rank, self.per_rank)
        self.position = Position()
        self._rows: tuple[int, list[Row]] | None = None
        self._order: tuple[int, list[int]] | None = None

    @property
    def blocks_per_epoch(self) -> int:
        """Blocks that make one pass over the store."""
        return -(-self.store.documents // self.block_documents)

    @property
    def epoch(self) -> int:
        """Passes over the store that are complete."""
        return self.position.block // self.blocks_per_epoch

    def rows_in_epoch(self, epoch: int = 0) -> int:
        """Rows that one epoch is packed into."""
        first = epoch * self.blocks_per_epoch
        return sum(len(self._block(first + i)) for i in range(self.blocks_per_epoch))

    def step(self) -> Step:
        """Read the next step and move `position` behind it."""
        rows = [self._next_row() for _ in range(self.sequences)]
        shards = [rows[rank :: self.ranks] for rank in range(self.ranks)]
        micro = [
            [shard[i : i + self.micro] for i in range(0, self.per_rank, self.micro)]
            for shard in shards
        ]
        return Step(
            batches=[self._batch(part) for part in micro[self.rank]],
            tokens=sum(piece.length for row in rows for piece in row),
            targets=sum(self._target_count(piece) for row in rows for piece in row),
            lengths=[piece.length for row in rows for piece in row],
            documents=[
                [sorted({piece.document for row in part for piece in row}) for part in shard]
                for shard in micro
            ],
        )

    def state(self) -> dict[str, int]:
        """JSON-able state."""
        return asdict(self.position)

    def load_state(self, state: dict[str, int]) -> None:
        """Continue where a state was taken."""
        self.position = Position(**state)

    def _next_row(self) -> Row:
        rows = self._block(self.position.block)
        row = rows[self.position.row]
        last = self.position.row + 1 == len(rows)
        self.position = (
            Position(self.position.block + 1)
            if last
            else Position(self.position.block, self.position.row + 1)
        )
        return row

    def _block(self, block: int) -> list[Row]:
        if self._rows is None or self._rows[0] != block:
            epoch, index = divmod(block, self.blocks_per_epoch)
            start = index * self.block_documents
            documents = self._documents(epoch)[start : start + self.block_documents]
            lengths = [int(self.store.lengths[document]) for document in documents]
            rows = pack(documents, lengths, self.length)
            order = rng(self.seed, "rows", block).permutation(len(rows))
            self._rows = (block, [rows[i] for i in order])
        return self._rows[1]

    def _documents(self, epoch: int) -> list[int]:
        if self._order is None or self._order[0] != epoch:
            order = rng(self.seed, "documents", epoch).permutation(self.store.documents)
            self._order = (epoch, [int(document) for document in order])
        return self._order[1]

    def _target_count(self, piece: Piece) -> int:
        ends = piece.stop == self.store.lengths[piece.document]
        if not self.store.masked:
            return piece.length - int(ends)
        return int(self.store.loss_mask(piece.document, piece.start + 1, piece.stop + 1).sum())

    def _batch(self, rows: Sequence[Row]) -> Batch:
        return collate(self.store, [piece for row in rows for piece in row])


def collate(store: TokenStore, pieces: Sequence[Piece]) -> Batch:
    """Put pieces into one packed batch; the last token of a document has no target."""
    # Longest first: neighbours of equal length are attended to as one dense batch.
    pieces = sorted(pieces, key=lambda piece: -piece.length)
    tokens, targets = [], []
    for piece in pieces:
        span = store.document(piece.document, piece.start, piece.stop + 1)
        learn = store.loss_mask(piece.document, piece.start, piece.stop + 1)
        tokens.append(span[: piece.length])
        following = np.where(learn[1:], span[1:], IGNORED)
        missing = piece.length - len(following)
        targets.append(np.pad(following, (0, missing), constant_values=IGNORED))
    bounds = np.cumsum([0, *(piece.length for piece in pieces)], dtype=np.int32)
    return Batch(
        tokens=torch.from_numpy(np.concatenate(tokens)),
        targets=torch.from_numpy(np.concatenate(targets)),
        cu_seqlens=torch.from_numpy(bounds),
        pieces=tuple(pieces),
    )
