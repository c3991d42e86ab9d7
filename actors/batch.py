"""What travels between driver and actors: packed sequences and the experience made of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


class BatchError(ValueError):
    """A batch that cannot be trained on or cut as asked; names the sequence and the way out."""


@dataclass(frozen=True)
class Sequences:
    """Sequences one after the other, on the CPU: `tokens` and `is_action` `[tokens]`,
    `cu_seqlens` `[n + 1]` starting at 0.

    `is_action` marks the tokens that are predicted: sampled ones in PPO, targets in pre-training.
    Raises BatchError when the parts do not fit, or when a sequence starts with an action.
    """

    tokens: Tensor
    cu_seqlens: Tensor
    is_action: Tensor

    def __post_init__(self) -> None:
        ends = self.cu_seqlens
        if len(ends) == 0 or int(ends[0]) != 0 or int(ends[-1]) != len(self.tokens):
            raise BatchError(f"cu_seqlens must run from 0 to {len(self.tokens)} tokens, is {ends}")
        if self.is_action.shape != self.tokens.shape or self.is_action.dtype != torch.bool:
            raise BatchError("is_action must be a bool for each token")
        empty = (self.lengths <= 0).nonzero().flatten().tolist()
        if empty:
            raise BatchError(f"sequence {empty[0]} is empty: leave it out")
        bad = self.is_action[ends[:-1].long()].nonzero().flatten().tolist()
        if bad:
            raise BatchError(
                f"sequence {bad[0]} starts with an action: no token before it to predict it from;"
                " set is_action of its first token to False"
            )

    @classmethod
    def pack(cls, sequences: Iterable[tuple[Sequence[int], Sequence[bool]]]) -> "Sequences":
        """Pack pairs (tokens, is_action)."""
        tokens: list[int] = []
        actions: list[bool] = []
        ends = [0]
        for index, (part, is_action) in enumerate(sequences):
            if len(part) != len(is_action):
                raise BatchError(f"sequence {index}: {len(part)} tokens, {len(is_action)} flags")
            tokens += part
            actions += is_action
            ends.append(len(tokens))
        return cls(
            torch.tensor(tokens, dtype=torch.int64),
            torch.tensor(ends, dtype=torch.int64),
            torch.tensor(actions, dtype=torch.bool),
        )

    @classmethod
    def join(cls, parts: Sequence["Sequences"]) -> "Sequences":
        """All of them, one after the other."""
        lengths = torch.cat([torch.zeros(1, dtype=torch.int64), *(part.lengths for part in parts)])
        return cls(
            torch.cat([part.tokens for part in parts]),
            lengths.cumsum(0),
            torch.cat([part.is_action for part in parts]),
        )

    @property
    def n(self) -> int:
        """Number of sequences."""
        return len(self.cu_seqlens) - 1

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each sequence, `[n]`."""
        return self.cu_seqlens.diff()

    @property
    def actions(self) -> int:
        """Number of predicted tokens."""
        return int(self.is_action.sum())

    def positions(self, indices: Sequence[int]) -> Tensor:
        """Positions in `tokens` of the named sequences, in that order, `[selected tokens]`."""
        ends = self.cu_seqlens.tolist()
        parts = [torch.arange(ends[i], ends[i + 1]) for i in indices]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def select(self, indices: Sequence[int]) -> "Sequences":
        """The named sequences, in that order."""
        at = self.positions(indices)
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), self.lengths[list(indices)].cumsum(0)])
        return Sequences(self.tokens[at], ends, self.is_action[at])

    def behind(self, contexts: Sequence[Sequence[int]]) -> "tuple[Sequences, Tensor]":
        """Each sequence behind tokens of its own, and where its tokens are then, `[tokens]`."""
        added = torch.tensor([len(context) for context in contexts])
        at = torch.arange(len(self.tokens)) + added.cumsum(0).repeat_interleave(self.lengths)
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), (self.lengths + added).cumsum(0)])
        own = torch.zeros(int(ends[-1]), dtype=torch.bool)
        own[at] = True
        tokens, is_action = torch.zeros(len(own), dtype=torch.int64), torch.zeros_like(own)
        tokens[at], is_action[at] = self.tokens, self.is_action
        tokens[~own] = torch.tensor([t for context in contexts for t in context], dtype=torch.int64)
        return Sequences(tokens, ends, is_action), at


@dataclass(frozen=True)
class Experience:
    """Samples to learn from; per-token arrays fp32 `[tokens]`, aligned with the tokens.

    `returns` and `old_values`: what a critic learns from, None without one. `behaviour_logprobs`
    (of the distribution sampled from) and `reference_logprobs`: where the policy's loss asks.
    `contexts`: tokens that the critic alone reads before each sample.
    """

    ids: tuple[str, ...]
    sequences: Sequences
    old_logprobs: Tensor
    advantages: Tensor
    returns: Tensor | None = None
    old_values: Tensor | None = None
    behaviour_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None
    contexts: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        if len(self.ids) != self.sequences.n:
            raise BatchError(f"{len(self.ids)} ids for {self.sequences.n} sequences")
        if self.contexts is not None and len(self.contexts) != self.sequences.n:
            raise BatchError(f"{len(self.contexts)} contexts for {self.sequences.n} sequences")
        for name, values in self._per_token().items():
            if values is not None and values.shape != self.sequences.tokens.shape:
                raise BatchError(f"{name} must have one value for each token")

    def _per_token(self) -> dict[str, Tensor | None]:
        others = ("ids", "sequences", "contexts")
        named = (field.name for field in fields(self))
        return {name: getattr(self, name) for name in named if name not in others}

    @classmethod
    def join(cls, parts: Sequence["Experience"]) -> "Experience":
        """All of them, one after the other; each array is in all parts or in none."""
        arrays: dict[str, Any] = {}
        for name in parts[0]._per_token():
            values = [getattr(part, name) for part in parts]
            arrays[name] = None if values[0] is None else torch.cat(values)
        ids = tuple(name for part in parts for name in part.ids)
        if parts[0].contexts is not None:
            arrays["contexts"] = tuple(one for part in parts for one in part.contexts or ())
        return cls(ids, Sequences.join([part.sequences for part in parts]), **arrays)

    def select(self, indices: Sequence[int]) -> "Experience":
        """The named samples, in that order."""
        at = self.sequences.positions(indices)
        arrays: dict[str, Any] = {
            name: None if values is None else values[at]
            for name, values in self._per_token().items()
        }
        ids = tuple(self.ids[i] for i in indices)
        if self.contexts is not None:
            arrays["contexts"] = tuple(self.contexts[i] for i in indices)
        return Experience(ids, self.sequences.select(indices), **arrays)

    def behind_contexts(self) -> "Experience":
        """What the critic reads: each sample behind its context, every array moved with it."""
        if self.contexts is None:
            return self
        sequences, at = self.sequences.behind(self.contexts)
        arrays: dict[str, Any] = {}
        for name, values in self._per_token().items():
            if values is not None:
                arrays[name] = values.new_zeros(len(sequences.tokens))
                arrays[name][at] = values
        return Experience(self.ids, sequences, **arrays)


@dataclass(frozen=True)
class Totals:
    """Denominators of one optimiser step, over all ranks and micro-batches."""

    actions: int
    sequences: int
    pretrain_tokens: int = 0

    @classmethod
    def of(cls, *samples: Sequences, text: Sequences | None = None) -> "Totals":
        """Those of a step on all of these samples, and pre-training windows."""
        actions = sum(part.actions for part in samples)
        return cls(actions, sum(part.n for part in samples), 0 if text is None else text.actions)

    def check(self, samples: Sequences, text: Sequences | None = None) -> None:
        """Raises BatchError when they do not cover a part of the step."""
        part = Totals.of(samples, text=text)
        if any(getattr(part, field.name) > getattr(self, field.name) for field in fields(self)):
            raise BatchError(f"{self} is less than what the batch itself holds: {part}")


def micro_batches(lengths: Sequence[int] | Tensor, max_tokens: int) -> list[list[int]]:
    """Cut sequences into micro-batches of at most `max_tokens` tokens, padding counted.

    A function of the lengths alone: sequences of like length lie together, longest first.
    Raises BatchError for a sequence longer than `max_tokens`.
    """
    sizes = [int(length) for length in lengths]
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    if order and sizes[order[0]] > max_tokens:
        raise BatchError(
            f"sequence {order[0]} has {sizes[order[0]]} tokens, more than micro_batch_tokens"
            f" {max_tokens}: raise it or shorten the sequence"
        )
    batches: list[list[int]] = []
    for index in order:
        if batches and sizes[batches[-1][0]] * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def partition(lengths: Sequence[int] | Tensor, parts: int) -> list[list[int]]:
    """Deal sequences to `parts` ranks so that tokens are balanced; indices ascend in each.

    Longest first, each to the rank that has the fewest tokens: a function of the lengths alone.
    """
    sizes = [int(length) for length in lengths]
    shares: list[list[int]] = [[] for _ in range(parts)]
    tokens = [0] * parts
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        lightest = min(range(parts), key=lambda rank: (tokens[rank], rank))
        shares[lightest].append(index)
        tokens[lightest] += sizes[index]
    return [sorted(share) for share in shares]


def scatter_back(
    shards: Sequence[Tensor], shares: Sequence[Sequence[int]], like: Sequences
) -> Tensor:
    """Undo `partition` for a per-token array: the ranks' `[shard tokens]` → `[tokens]`."""
    whole = torch.zeros(len(like.tokens), dtype=shards[0].dtype)
    for values, indices in zip(shards, shares, strict=True):
        whole[like.positions(indices)] = values
    return whole
