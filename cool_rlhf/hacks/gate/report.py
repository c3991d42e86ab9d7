"""What each test of the gate found, and the verdict of all of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reward.intervals import Interval
from reward.verdicts import Verdict, values_needed

Status = Verdict | Literal["not run"]


@dataclass(frozen=True)
class Outcome:
    """One test: its verdict, what was seen in words, and why it did not pass or what would help.

    `hack`: the pattern it is about, if it is about one. `measured`: the intervals by name.
    """

    name: str
    verdict: Status
    statement: str
    reason: str = ""
    hack: str | None = None
    measured: Mapping[str, Interval] = field(default_factory=dict)
    required: bool = True

    @property
    def title(self) -> str:
        """The test with the hack it is about."""
        return f"{self.name}: {self.hack}" if self.hack else self.name

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form; intervals as {mean, low, high, n, confidence}."""
        return {
            "name": self.name,
            "hack": self.hack,
            "verdict": self.verdict,
            "statement": self.statement,
            "reason": self.reason,
            "required": self.required,
            "measured": {
                name: {
                    "mean": found.mean,
                    "low": found.low,
                    "high": found.high,
                    "n": found.n,
                    "confidence": found.confidence,
                }
                for name, found in self.measured.items()
            },
        }


@dataclass(frozen=True)
class GateReport:
    """All tests of one child."""

    tests: Sequence[Outcome]

    @property
    def counted(self) -> list[Outcome]:
        """The tests that decide."""
        return [test for test in self.tests if test.required or test.verdict != "not run"]

    @property
    def verdict(self) -> Verdict:
        """`pass` only if every required test passed: not having seen harm is not enough."""
        counted = self.counted
        found = {test.verdict for test in counted}
        if "fail" in found:
            return "fail"
        return "undecided" if not counted or found != {"pass"} else "pass"

    @property
    def uncured(self) -> dict[str, str]:
        """The hacks whose own tests alone keep the child from passing, each with a reason.

        None where another test keeps it too, one was not run, or no hack would be left.
        """
        short = [test for test in self.counted if test.verdict != "pass"]
        hacks = {test.hack for test in self.counted if test.hack is not None}
        found = {test.hack: test.reason for test in short if test.hack is not None}
        alone = all(test.hack is not None and test.verdict != "not run" for test in short)
        return found if alone and len(found) < len(hacks) else {}

    @property
    def reasons(self) -> list[str]:
        """Why it did not pass, the failures first."""
        return list(self._reasons())

    def _reasons(self) -> Iterator[str]:
        for verdict in ("fail", "undecided", "not run"):
            for test in self.tests:
                if test.verdict == verdict and (test.required or verdict != "not run"):
                    yield f"{test.title}: {verdict}: {test.reason}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"verdict": self.verdict, "tests": [test.as_dict() for test in self.tests]}

    def rows(self) -> list[list[str]]:
        """The tests as rows of a table, the header first."""
        header = ["test", "verdict", "seen", "why"]
        return [header, *([t.title, t.verdict, t.statement, t.reason] for t in self.tests)]


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """One failure fails, else one that is undecided leaves all so."""
    if "fail" in verdicts:
        return "fail"
    return "undecided" if "undecided" in verdicts else "pass"


def would_decide(found: Interval, what: str, **limits: float) -> str:
    """The way out of an undecided test, in words."""
    needed = values_needed(found, **limits)
    if needed is None:
        return f"it lies so near the limit that no number of {what} would decide"
    return f"{found.n} {what} do not decide; about {needed:,} would, if the mean stays"
