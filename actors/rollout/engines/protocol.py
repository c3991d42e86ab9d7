"""The protocol of a rollout engine, and the precision names shared by both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from actors.rollout.requests import EngineFacts, Request, SamplingSettings
from actors.rollout.weights.wire import Manifest, TransferAddress
from actors.trajectories import FinishReason

EngineName = Literal["vllm", "hf"]


@dataclass(frozen=True)
class Reply:
    """A sampled reply before the worker adds the policy version."""

    id: str
    tokens: list[int]
    behaviour_logprobs: list[float]
    raw_logprobs: list[float] | None
    finish_reason: FinishReason


class Engine(Protocol):
    """A model that samples; the weights change only through `reload` and `receive`."""

    facts: EngineFacts

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        stop_token_ids: Sequence[int],
    ) -> Iterator[list[Reply]]:
        """Yield replies as they end; what a request draws depends on its own seed alone."""
        ...

    def advance(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        stop_token_ids: Sequence[int],
        seconds: float,
    ) -> list[Reply]:
        """Take requests in and go on with all that are under way, until some end or time is up.

        Only engines that are `facts.continuous`; never while a `generate` is under way.
        """
        ...

    def interrupt(self) -> list[Reply]:
        """Drop all that `advance` has under way; what was sampled of each, reason "abort"."""
        ...

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Raw log-prob of each token given those before it, computed afresh; the first is 0."""
        ...

    def fits(self, folder: Path) -> bool:
        """Whether the folder holds a model of the same architecture and size."""
        ...

    def reload(self, folder: Path) -> None:
        """Take the weights of a Hugging Face folder that `fits`."""
        ...

    def receive(self, address: TransferAddress, rank: int) -> Manifest:
        """Take weights that a `WeightSender` sends; raises `WeightPushError`."""
        ...
