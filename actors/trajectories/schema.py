"""The trajectory of one sample: what was said, who chose each token, and under which policy."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pretrain_core.chat import Message

FinishReason = Literal["stop", "length", "abort"]
NOT_AN_ACTION = -1
REWARD = "reward_model"
"""Name of the scores that the reward model gave."""
# A log-prob may exceed zero by the rounding of an fp32 log-softmax, not by more.
ROUNDING = 1e-4


class Score(BaseModel):
    """One reward of a trajectory and the version of the reward model that gave it.

    `spread`: how far the model's heads are apart; None where it has one head, or did not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    rm_version: str
    spread: float | None = None


class Trajectory(BaseModel):
    """One sample, from day one multi-turn; every per-token list has the length of `tokens`.

    `tokens` is the whole packed conversation: prompt, replies, environment turns. At tokens that
    the policy did not sample, `is_action` is False, `policy_version` -1 and log-probs 0.
    `behaviour_logprobs` belong to the distribution really sampled from (after temperature, top-p
    and minimum length), `raw_logprobs` to the model's own; None where the engine gives none.
    The first `given_messages` messages are the prompt, the others were sampled or came from the
    environment: each sampled assistant turn is exactly one run of action tokens, so environment
    tokens can never pass as actions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str = Field(min_length=1)
    iteration: int = Field(ge=0)
    sample: int = Field(ge=0)
    prompt_id: str
    messages: tuple[Message, ...]
    given_messages: int = Field(ge=1)
    tokens: list[int] = Field(min_length=1)
    is_action: list[bool]
    policy_version: list[int]
    behaviour_logprobs: list[float]
    raw_logprobs: list[float] | None = None
    finish_reason: FinishReason
    condition: str = Field(min_length=1)
    seed: int = Field(ge=0)
    engine: str
    scores: dict[str, Score] = {}

    @model_validator(mode="before")
    @classmethod
    def _single_turn_by_default(cls, data: Any) -> Any:
        if isinstance(data, dict) and "given_messages" not in data and "messages" in data:
            return {**data, "given_messages": len(data["messages"]) - 1}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> "Trajectory":
        self._same_lengths()
        self._tokens_agree()
        self._turns_are_runs()
        return self

    def _same_lengths(self) -> None:
        per_token: dict[str, Sequence[Any] | None] = {
            "is_action": self.is_action,
            "policy_version": self.policy_version,
            "behaviour_logprobs": self.behaviour_logprobs,
            "raw_logprobs": self.raw_logprobs,
        }
        for name, values in per_token.items():
            if values is not None and len(values) != len(self.tokens):
                raise ValueError(f"{name} has {len(values)} entries for {len(self.tokens)} tokens")

    def _tokens_agree(self) -> None:
        action = np.asarray(self.is_action, dtype=bool)
        version = np.asarray(self.policy_version)
        _refuse(np.asarray(self.tokens) < 0, "is negative")
        _refuse(~action & (version != NOT_AN_ACTION), "is no action, its policy_version must be -1")
        _refuse(action & (version < 0), "is an action without a policy version")
        for name, values in (("behaviour", self.behaviour_logprobs), ("raw", self.raw_logprobs)):
            if values is not None:
                logprobs = np.asarray(values)
                _refuse(~action & (logprobs != 0), f"is no action, its {name} log-prob must be 0")
                _refuse(logprobs > ROUNDING, f"has a {name} log-prob above 0")

    def _turns_are_runs(self) -> None:
        if self.given_messages > len(self.messages):
            raise ValueError(
                f"given_messages is {self.given_messages} of {len(self.messages)} messages"
            )
        if self.is_action[0]:
            raise ValueError("token 0 is an action: a sample needs a prompt")
        roles = [message.role for message in self.messages[self.given_messages :]]
        if not set(roles) <= {"assistant", "environment", "user"}:
            raise ValueError(f"after the prompt no system turns: {roles}")
        sampled = roles.count("assistant")
        runs = sum(1 for action, _ in groupby(self.is_action) if action)
        # An aborted turn may have ended before its first token.
        least = sampled - 1 if self.finish_reason == "abort" else sampled
        if not least <= runs <= sampled or sampled == 0:
            raise ValueError(
                f"{sampled} sampled assistant turns, but {runs} runs of action tokens: environment "
                "and prompt tokens are never actions, and every sampled turn has some"
            )

    @property
    def actions(self) -> int:
        """Number of tokens that the policy sampled."""
        return sum(self.is_action)

    @property
    def prompt_tokens(self) -> list[int]:
        """Tokens before the first action: what the policy was asked."""
        first = self.is_action.index(True) if any(self.is_action) else len(self.tokens)
        return self.tokens[:first]

    @property
    def reply_tokens(self) -> list[int]:
        """Tokens of the last sampled turn, its stop token included."""
        reply: list[int] = []
        for token, action in zip(reversed(self.tokens), reversed(self.is_action), strict=True):
            if action:
                reply.append(token)
            elif reply:
                break
        return reply[::-1]

    def with_scores(self, scores: dict[str, Score]) -> "Trajectory":
        """The same trajectory with scores added; a score of the same name is replaced."""
        return self.model_copy(update={"scores": {**self.scores, **scores}})


def _refuse(wrong: npt.NDArray[np.bool_], what: str) -> None:
    if wrong.any():
        raise ValueError(f"token {int(wrong.argmax())} {what}")
