"""Builds the per-token lists of a trajectory turn by turn, so that they agree by construction."""

from collections.abc import Sequence
from typing import TypedDict

from actors.trajectories.schema import NOT_AN_ACTION


class PerToken(TypedDict):
    """The per-token fields of a `Trajectory`."""

    tokens: list[int]
    is_action: list[bool]
    policy_version: list[int]
    behaviour_logprobs: list[float]
    raw_logprobs: list[float] | None


class Transcript:
    """Appends given tokens (prompt, environment, tools) and sampled ones in their order."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._is_action: list[bool] = []
        self._version: list[int] = []
        self._behaviour: list[float] = []
        self._raw: list[float] | None = []

    def given(self, tokens: Sequence[int]) -> "Transcript":
        """Append tokens that the policy did not choose."""
        version = [NOT_AN_ACTION] * len(tokens)
        self._extend(tokens, False, version, [0.0] * len(tokens), [0.0] * len(tokens))
        return self

    def sampled(
        self,
        tokens: Sequence[int],
        policy_version: Sequence[int],
        behaviour_logprobs: Sequence[float],
        raw_logprobs: Sequence[float] | None,
    ) -> "Transcript":
        """Append the tokens of one reply; raises `ValueError` when versions or log-probs do not
        fit."""
        for values in (behaviour_logprobs, raw_logprobs, policy_version):
            if values is not None and len(values) != len(tokens):
                what = "versions" if values is policy_version else "log-probs"
                raise ValueError(f"{len(values)} {what} for a reply of {len(tokens)} tokens")
        self._extend(tokens, True, policy_version, behaviour_logprobs, raw_logprobs)
        return self

    def per_token(self) -> PerToken:
        """The fields to build a `Trajectory` from."""
        return {
            "tokens": list(self._tokens),
            "is_action": list(self._is_action),
            "policy_version": list(self._version),
            "behaviour_logprobs": list(self._behaviour),
            "raw_logprobs": None if self._raw is None else list(self._raw),
        }

    def _extend(
        self,
        tokens: Sequence[int],
        is_action: bool,
        version: Sequence[int],
        behaviour: Sequence[float],
        raw: Sequence[float] | None,
    ) -> None:
        self._tokens.extend(tokens)
        self._is_action.extend([is_action] * len(tokens))
        self._version.extend(version)
        self._behaviour.extend(behaviour)
        # One reply without raw log-probs leaves the whole trajectory without.
        if raw is None or self._raw is None:
            self._raw = None
        else:
            self._raw.extend(raw)
