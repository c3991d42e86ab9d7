"""The best-of-n probe: does the child now pick another hack, which its parent did not?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cool_rlhf.hacks.confirmation import prompts_needed
from cool_rlhf.hacks.detect import Finding, detect
from cool_rlhf.hacks.gate.report import Outcome, worst
from cool_rlhf.hacks.gate.settings import GateSettings
from cool_rlhf.hacks.judges import Judge
from cool_rlhf.hacks.samples import Comparison, Sample
from pretrain_core.draws import rng
from reward.intervals import Interval
from reward.score_intervals import difference_interval
from reward.verdicts import Verdict, verdict

NAME = "no neighbour hack"


@dataclass(frozen=True)
class Neighbour:
    """A hack among the child's picks; `more`: how much oftener than the parent it picks it.

    Measured on prompts that did not propose the pattern: what a half proposes is what the child
    happened to pick there.
    """

    finding: Finding
    more: Interval
    verdict: Verdict

    def __str__(self) -> str:
        return f"{self.finding.pattern.name} (picked {self.more} more often than by the parent)"


def probe(
    comparison: Comparison | None,
    child: Judge,
    parent: Judge,
    gold: Judge | None,
    settings: GateSettings,
) -> Outcome:
    """Patterns that rise from a reply drawn at random to the one that the child picks.

    One that the child pays for, gold does not, and the parent picks less often is a neighbour: what
    the next policy would find. Hacks that the parent picks as often are not the patch's doing.
    """
    if comparison is None or gold is None:
        lacking = "early and late samples" if comparison is None else "a gold signal"
        return _not_run(f"there is no probe without {lacking}", f"give {lacking}", settings)
    pools = replies_to_pick_from(comparison, settings)
    needed = prompts_needed(settings.probe.detector)
    if len(pools) < needed:
        few = f"{len(pools)} prompts have two different replies or more"
        return _not_run(few, f"{needed} such prompts are needed: give more samples", settings)
    picks = picked(pools, child, settings.seed)
    found = detect(picks, child, gold, settings.probe.detector)
    theirs = best(pools, parent)
    neighbours = [
        neighbour_of(finding, picks.late, theirs, settings)
        for finding in found.findings
        if finding.verdict == "hack"
    ]
    decided = worst([neighbour.verdict for neighbour in neighbours])
    if found.stopped and decided != "fail":
        decided = "undecided"
    rose = f"{len(found.findings)} patterns rise in the child's picks"
    hacks = "; ".join(map(str, neighbours)) or "none"
    return Outcome(
        NAME,
        decided,
        f"best of up to {settings.probe.replies} replies to {len(pools)} prompts: {rose}, hacks "
        f"among them: {hacks}",
        _reason(neighbours, decided, found.stopped),
        measured={n.finding.pattern.name: n.more for n in neighbours},
    )


def replies_to_pick_from(comparison: Comparison, settings: GateSettings) -> list[list[Sample]]:
    """Per prompt two different replies or more, of both policies; prompts and replies drawn."""
    by_prompt: dict[str, list[Sample]] = {}
    for sample in dict.fromkeys(comparison.samples):
        by_prompt.setdefault(sample.id, []).append(sample)
    pools = [pool for pool in by_prompt.values() if len(pool) > 1]
    order = rng(settings.seed, "gate/prompts").permutation(len(pools))
    chosen = [pools[int(row)] for row in order[: settings.probe.prompts]]
    return [_drawn(pool, settings) for pool in chosen]


def _drawn(pool: list[Sample], settings: GateSettings) -> list[Sample]:
    order = rng(settings.seed, "gate/replies", 0, pool[0].id).permutation(len(pool))
    return [pool[int(row)] for row in order[: settings.probe.replies]]


def picked(pools: Sequence[list[Sample]], judge: Judge, seed: int) -> Comparison:
    """Early: another reply drawn from each pool; late: the one that the judge scores highest."""
    late = best(pools, judge)
    early = []
    for pool, pick in zip(pools, late, strict=True):
        others = [sample for sample in pool if sample != pick]
        early.append(others[int(rng(seed, "gate/draw", 0, pick.id).integers(len(others)))])
    return Comparison(tuple(early), tuple(late))


def best(pools: Sequence[list[Sample]], judge: Judge) -> list[Sample]:
    """The reply of each pool that the judge scores highest."""
    scores = judge([sample for pool in pools for sample in pool])
    ends = np.cumsum([len(pool) for pool in pools])
    parts = np.split(scores, ends[:-1])
    return [pool[int(part.argmax())] for pool, part in zip(pools, parts, strict=True)]


def neighbour_of(
    finding: Finding, mine: Sequence[Sample], theirs: Sequence[Sample], settings: GateSettings
) -> Neighbour:
    """How a hack's share among the child's picks differs from that among the parent's."""
    has = finding.pattern.present
    differences = [
        float(has(own)) - float(has(other))
        for own, other in zip(mine, theirs, strict=True)
        if own.id in finding.rise.prompts
    ]
    more = difference_interval(differences, confidence=settings.confidence)
    return Neighbour(finding, more, verdict(more, most=settings.probe.most_rise))


def _not_run(statement: str, reason: str, settings: GateSettings) -> Outcome:
    return Outcome(NAME, "not run", statement, reason, required=settings.require_probe)


def _reason(neighbours: Sequence[Neighbour], decided: Verdict, stopped: str | None) -> str:
    if decided == "fail":
        new = [n.finding.pattern.name for n in neighbours if n.verdict == "fail"]
        return f"the child now pays for {'; '.join(new)}: make pairs of that too, and patch again"
    if stopped:
        return f"the probe stopped: {stopped}"
    for neighbour in neighbours:
        if neighbour.verdict == "undecided":
            return f"{neighbour}: more prompts would tell whether that is new"
    return ""
