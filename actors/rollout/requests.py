"""What a rollout engine is asked and what it answers, the same for every engine."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, field_validator, model_validator

from actors.trajectories import FinishReason
from pretrain_core.errors import RunFailed
from pretrain_core.settings import Settings


class RolloutError(RunFailed):
    """The base of all errors of rollouts."""


class EngineStartError(RolloutError):
    """An engine that cannot start; the message holds the first real error."""


class RequestError(RolloutError, ValueError):
    """A request that no engine could serve, refused before any work starts; names its id."""


class StaleWeightsError(RolloutError):
    """Sampling was asked of an engine whose last weight push failed half-way."""


class SamplingSettings(Settings):
    """How replies are drawn; temperature 0 is greedy."""

    temperature: float = Field(default=1.0, ge=0, le=10)
    top_p: float = Field(
        default=0.9, gt=0, le=1, description="smallest mass of likeliest tokens kept"
    )
    max_new_tokens: int = Field(
        default=256, gt=0, description="tokens of a reply, its stop token counted"
    )
    min_new_tokens: int = Field(
        default=1, ge=0, description="tokens before a stop token may be drawn"
    )

    stop: tuple[str, ...] = Field(
        default=(), description="texts that end a reply, beside the end token; they stay in it"
    )

    @field_validator("stop")
    @classmethod
    def _texts(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty text would end every reply at once: leave it out")
        return stop

    @model_validator(mode="after")
    def _minimum_below_maximum(self) -> "SamplingSettings":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens {self.min_new_tokens} exceeds max_new_tokens {self.max_new_tokens}"
            )
        return self


@dataclass(frozen=True)
class Request:
    """One reply to sample, or to go on with: the prompt's tokens and the seed of its draws.

    `said`: what was sampled of the reply before; it counts as the reply's, and is not given again.
    """

    id: str
    tokens: Sequence[int]
    seed: int
    said: Sequence[int] = ()

    @property
    def context(self) -> list[int]:
        """All that stands before the next token."""
        return [*self.tokens, *self.said]


@dataclass(frozen=True)
class Finished:
    """A reply as sampled; `tokens` includes the stop token, all other lists are one per token.

    `behaviour_logprobs` belong to the distribution sampled from (after minimum length,
    temperature and top-p; for greedy replies that of temperature 1), `raw_logprobs` to the
    model's own at temperature 1; None where the engine does not give them.
    """

    id: str
    tokens: list[int]
    behaviour_logprobs: list[float]
    raw_logprobs: list[float] | None
    finish_reason: FinishReason
    policy_version: list[int]


@dataclass(frozen=True)
class EngineFacts:
    """What a started engine is: its name, precision, vocabulary, context length.

    `continuous`: it takes requests in while others are under way.
    """

    name: str
    dtype: str
    vocab_size: int
    max_model_len: int
    continuous: bool = False


def check_requests(
    requests: Sequence[Request], stop_token_ids: Sequence[int], facts: EngineFacts
) -> None:
    """Refuse what the engine could not serve; raises `RequestError` naming the request."""
    seen: set[str] = set()
    for request in requests:
        where = f"request {request.id!r}"
        if request.id in seen:
            raise RequestError(f"{where} is there twice: ids must differ")
        seen.add(request.id)
        if not request.tokens:
            raise RequestError(f"{where} has an empty prompt")
        if len(request.context) >= facts.max_model_len:
            raise RequestError(
                f"{where}: the prompt has {len(request.context)} tokens, the context "
                f"{facts.max_model_len} leaves no room for a reply: raise rollout.max_model_len "
                "or drop the prompt"
            )
        if not 0 <= request.seed < 2**63:
            raise RequestError(f"{where}: seed {request.seed} is not in [0, 2**63)")
        _check_tokens(request.context, facts.vocab_size, where)
    _check_tokens(stop_token_ids, facts.vocab_size, "stop_token_ids")


def room_for(request: Request, sampling: SamplingSettings, max_model_len: int) -> int:
    """Number of further tokens at most: the setting, cut to what the context leaves."""
    left = sampling.max_new_tokens - len(request.said)
    return min(left, max_model_len - len(request.context))


def _check_tokens(tokens: Sequence[int], vocab_size: int, where: str) -> None:
    low, high = min(tokens, default=0), max(tokens, default=0)
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise RequestError(
            f"{where}: token {bad} is outside the vocabulary of {vocab_size}: was it made with "
            "another tokenizer?"
        )
