"""A reward server that speaks OpenRLHF's remote reward request."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
from pydantic import Field

from pretrain_core.chat import Message, render
from pretrain_core.errors import InputError
from reward.verifiers.sample import GraderFailed, Sample, ScaleSettings, graded
from reward.verifiers.verdict import Verdict

_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class RemoteSettings(ScaleSettings):
    """`POST url {"query", "prompts", "labels", "conditions"}`, answered by `{"rewards": […]}`.

    Queries are prompt and reply in ChatML; a label is the reply's reference.
    """

    kind: Literal["remote"] = "remote"
    url: str = Field(pattern="^https?://", description="of the route, …/get_reward as a rule")
    token_env: str | None = Field(None, description="variable that holds a bearer token")
    batch: int = Field(32, ge=1, description="replies in one request")
    connections: int = Field(4, ge=1, description="requests under way at once")
    seconds: float = Field(300.0, gt=0, description="for all replies of an iteration, retries too")


class RemoteVerifier:
    """Asks in batches, again after failures that may pass, and never beyond the deadline.

    Raises InputError where the token's variable is empty.
    """

    def __init__(self, settings: RemoteSettings) -> None:
        self.settings = settings
        headers = {}
        if settings.token_env is not None:
            token = os.environ.get(settings.token_env, "").strip()
            if not token:
                raise InputError(f"{settings.url} needs its token in {settings.token_env}")
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx.Client(headers=headers)

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        """Judge one reply."""
        return self.grade([Sample(prompt, reply, reference=reference)])[0]

    def grade(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Judge all replies; raises GraderFailed."""
        return graded(self._ask, samples, self.settings)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, samples: Sequence[Sample]) -> Sequence[object]:
        deadline = time.monotonic() + self.settings.seconds
        size = self.settings.batch
        parts = [samples[at : at + size] for at in range(0, len(samples), size)]
        with ThreadPoolExecutor(self.settings.connections) as executor:
            answers = executor.map(lambda part: self._part(part, deadline), parts)
            return [reward for part in answers for reward in part]

    def _part(self, samples: Sequence[Sample], deadline: float) -> list[object]:
        body = _request(samples)
        pause = _PAUSE_S
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise GraderFailed(f"{self.settings.url}: no answer in {self.settings.seconds:g} s")
            problem = ""
            try:
                response = self._http.post(self.settings.url, json=body, timeout=left)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.status_code not in _PASSING:
                    return self._rewards(response, len(samples))
                problem = f"status {response.status_code}"
            if time.monotonic() + pause >= deadline:
                raise GraderFailed(
                    f"{self.settings.url}: {problem}, again and again for"
                    f" {self.settings.seconds:g} s"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _rewards(self, response: httpx.Response, count: int) -> list[object]:
        said = f"{response.status_code} {response.text[:200]}"
        if response.is_error:
            raise GraderFailed(f"{self.settings.url}: {said}")
        try:
            rewards = response.json()["rewards"]
        except (ValueError, KeyError, TypeError) as error:
            raise GraderFailed(f"{self.settings.url}: no `rewards` in {said}") from error
        if not isinstance(rewards, list) or len(rewards) != count:
            raise GraderFailed(f"{self.settings.url}: not {count} rewards in {said}")
        return list(rewards)


def _request(samples: Sequence[Sample]) -> dict[str, Any]:
    prompts = [render(s.prompt, generation_prompt=True) for s in samples]
    return {
        "query": [prompt + s.reply for prompt, s in zip(prompts, samples, strict=True)],
        "prompts": prompts,
        "labels": [s.reference for s in samples],
        "conditions": [s.condition for s in samples],
    }
