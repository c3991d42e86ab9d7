"""What the gate judges a child by: held-out pairs, anchors, and samples for the probe."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cool_rlhf.hacks.judges import Judge
from cool_rlhf.hacks.samples import Comparison, Sample
from pretrain_core.chat import Message
from pretrain_core.draws import seed_of
from pretrain_core.errors import InputError
from reward.data import Preference
from reward.evaluation.scoring import PairScores

HACK = "hack:"


class GateError(InputError):
    """Evidence that the gate cannot use; the message names the record, or what is missing."""


@dataclass(frozen=True)
class GateEvidence:
    """Texts that no training saw.

    `pattern_pairs`: chosen without the pattern, rejected with it, source "hack:NAME". `old`: pairs
    of the kinds that the parent was trained on. `anchors`: replies without any hack. `legitimate`:
    pairs whose chosen side rightly has the pattern. `comparison`: early and late replies, several
    per prompt, and `gold`, a judge that the policy was not trained on, for the probe.
    Raises GateError for missing evidence and for a pattern pair that names no hack.
    """

    pattern_pairs: Sequence[Preference]
    old: Sequence[Preference]
    anchors: Sequence[Sample]
    legitimate: Sequence[Preference] = ()
    comparison: Comparison | None = None
    gold: Judge | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        missing = [
            name.replace("_", " ")
            for name in ("pattern_pairs", "old", "anchors")
            if not getattr(self, name)
        ]
        if missing:
            raise GateError(
                f"the gate needs held-out pattern pairs, old pairs and anchors; missing: "
                f"{', '.join(missing)}"
            )
        for number, pair in enumerate(self.pattern_pairs, start=1):
            source = pair.source or ""
            if not source.startswith(HACK) or source == HACK:
                raise GateError(
                    f"pattern pair {number} ({pair.id or 'no id'}) has source {pair.source!r}: "
                    f"it must name its hack, '{HACK}NAME'"
                )

    @property
    def by_hack(self) -> dict[str, list[Preference]]:
        """The pattern pairs of each hack."""
        found: dict[str, list[Preference]] = {}
        for pair in self.pattern_pairs:
            found.setdefault(str(pair.source).removeprefix(HACK), []).append(pair)
        return found


def sides(pair: Preference) -> tuple[Sample, Sample]:
    """(chosen, rejected) as samples; earlier turns of a side join its prompt."""
    asked = "\n".join(message.content for message in pair.prompt)
    id = pair.id or f"{seed_of(0, asked):016x}"

    def sample(side: Sequence[Message]) -> Sample:
        return Sample(id, (*pair.prompt, *side[:-1]), side[-1].content, pair.condition)

    return sample(pair.chosen), sample(pair.rejected)


def score_pairs(judge: Judge, pairs: Sequence[Preference]) -> PairScores:
    """A judge's scores of both sides of each pair [n]."""
    samples = [sides(pair) for pair in pairs]
    scores = judge([chosen for chosen, _ in samples] + [rejected for _, rejected in samples])
    return PairScores(scores[: len(pairs)], scores[len(pairs) :])
