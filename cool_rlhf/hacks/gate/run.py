"""All tests of the gate on one patched reward model, and the verdict of all of them."""

from cool_rlhf.hacks.evidence import finite, remembering
from cool_rlhf.hacks.gate.accuracy import legitimate_accuracy, no_legitimate, old_accuracy
from cool_rlhf.hacks.gate.drift import drift
from cool_rlhf.hacks.gate.evidence import GateError, GateEvidence, score_pairs
from cool_rlhf.hacks.gate.flipped import flipped
from cool_rlhf.hacks.gate.gain import bonus, gain
from cool_rlhf.hacks.gate.probe import probe
from cool_rlhf.hacks.gate.report import GateReport, Outcome
from cool_rlhf.hacks.gate.settings import GateSettings
from cool_rlhf.hacks.judges import Judge


def gate(parent: Judge, child: Judge, evidence: GateEvidence, settings: GateSettings) -> GateReport:
    """May the child replace its parent?

    Each text is scored once by each model. Raises JudgeError naming the sample for a score that is
    no number, GateError for a child that scores all anchors alike.
    """
    parent = remembering(finite(parent, "the parent"))
    child = remembering(finite(child, "the child"))
    spread = float(child(evidence.anchors).std())
    if not spread:
        raise GateError(
            f"the child scores all {len(evidence.anchors)} anchors alike: nothing can be measured "
            "in standard deviations of its scores"
        )
    spreads = spread, float(parent(evidence.anchors).std())
    tests: list[Outcome] = []
    paid: dict[str | None, float] = {}
    for hack, pairs in evidence.by_hack.items():
        mine, theirs = score_pairs(child, pairs), score_pairs(parent, pairs)
        tests.append(flipped(hack, pairs, mine, theirs, spreads, settings))
        tests.append(gain(hack, pairs, mine, spread, settings))
        paid[hack] = bonus(pairs, theirs)
    old, anchors, uses = evidence.old, evidence.anchors, evidence.uses
    tests.append(old_accuracy(old, score_pairs(child, old), score_pairs(parent, old), settings))
    for which, pairs in uses.items():
        mine, theirs = score_pairs(child, pairs), score_pairs(parent, pairs)
        tests.append(
            legitimate_accuracy(which, pairs, mine, theirs, paid.get(which, 0.0), settings)
        )
    if None not in uses:
        tests += [no_legitimate(hack, settings) for hack in evidence.by_hack if hack not in uses]
    tests.append(drift(anchors, child(anchors), parent(anchors), settings))
    gold = remembering(evidence.gold) if evidence.gold is not None else None
    tests.append(probe(evidence.comparison, child, parent, gold, settings))
    return GateReport(tests)
