"""Is the reply's final answer mathematically equal to the reference?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from pretrain_core.chat import Message
from pretrain_core.sandbox import Answer, ForkServerPool, Limits
from pretrain_core.settings import Settings
from reward.verifiers.verdict import Verdict, right, unjudged, wrong

_JUDGE = Path(__file__).parent / "judges" / "maths.py"


class MathsSettings(Settings):
    """LaTeX or plain expressions, compared by math-verify."""

    kind: Literal["maths"] = "maths"
    digits: int = Field(6, ge=1, le=15, description="decimals that floating-point answers share")
    seconds: float = Field(5.0, gt=0, le=60, description="for one comparison")
    memory_mib: int = Field(1024, ge=256, description="of one process")
    servers: int = Field(2, ge=1, description="processes at the same time")
    max_characters: int = Field(20_000, gt=0, description="of the reply's end that are read")


class MathsVerifier:
    """Compares inside a fork server, so that no expression hangs or exhausts the caller."""

    def __init__(self, settings: MathsSettings) -> None:
        self.settings = settings
        limits = Limits(memory_mib=settings.memory_mib)
        self._judges = ForkServerPool(_JUDGE, settings.servers, limits)

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        """1 if equal, else 0; unjudged without a reference that is an answer itself.

        A reply that takes too long to compare is wrong: else monstrous expressions would pay.
        """
        if reference is None or not reference.strip():
            return unjudged("no reference answer")
        answer = self._compare(reply[-self.settings.max_characters :], reference)
        if answer.problem:
            # Whose fault? A harmless reply tells.
            alone = self._compare("$0$", reference)
            if alone.problem or alone.value["equal"] is None:
                return unjudged(f"the reference cannot be compared: {alone.reason}")
            return wrong(f"the answer cannot be compared: {answer.reason}")
        equal, found = answer.value["equal"], answer.value["found"]
        if equal is None:
            return unjudged(f"the reference {reference[:60]!r} is no mathematical answer")
        if found is None:
            return wrong("no mathematical answer found")
        return right(f"{found} is right") if equal else wrong(f"{found}, expected {reference[:60]}")

    def close(self) -> None:
        """End the fork servers."""
        self._judges.close()

    def _compare(self, reply: str, reference: str) -> Answer:
        argument = {"reply": reply, "reference": reference, "digits": self.settings.digits}
        return self._judges.call(argument, self.settings.seconds)
