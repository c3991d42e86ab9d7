"""A reward function of the user's own, called as TRL calls its reward functions."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from pretrain_core.chat import Message
from pretrain_core.functions import FunctionFailed, FunctionProcess, FunctionSettings
from reward.verifiers.sample import GraderFailed, Sample, ScaleSettings, graded
from reward.verifiers.verdict import Verdict


class RewardFunctionSettings(FunctionSettings, ScaleSettings):
    """`prompts`, `completions` (lists of messages each), `condition` and `reference` in, a list of
    numbers out; None for a reply that it cannot judge."""

    kind: Literal["function"] = "function"
    name: str = Field("reward", description="of the function in it")


class FunctionVerifier:
    """Asks the function about all replies in one call.

    Raises InputError for a file or function that cannot be loaded.
    """

    def __init__(self, settings: RewardFunctionSettings) -> None:
        self.settings = settings
        self.function = FunctionProcess(settings)

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        """Judge one reply."""
        return self.grade([Sample(prompt, reply, reference=reference)])[0]

    def grade(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Judge all replies; raises GraderFailed."""
        return graded(self._call, samples, self.settings)

    def close(self) -> None:
        """End its process."""
        self.function.close()

    def _call(self, samples: Sequence[Sample]) -> Sequence[object]:
        try:
            return self.function(
                prompts=[[message.as_dict() for message in s.prompt] for s in samples],
                completions=[[{"role": "assistant", "content": s.reply}] for s in samples],
                condition=[s.condition for s in samples],
                reference=[s.reference for s in samples],
            )
        except FunctionFailed as failure:
            raise GraderFailed(str(failure)) from failure
