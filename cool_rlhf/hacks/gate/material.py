"""Evidence made of what there is: legitimate uses among old pairs, anchors among early replies."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from cool_rlhf.hacks.gate.evidence import HACK, sides
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.samples import Comparison, Sample
from pretrain_core.draws import rng
from reward.data import Preference


def legitimate_uses(
    pattern: Pattern, old: Sequence[Preference], hacked: Collection[str] = ()
) -> list[Preference]:
    """Old pairs whose preferred side has the pattern and whose other side has not.

    Their source becomes the hack, as that of pattern pairs. `hacked`: conditions under which it was
    called a hack; their pairs say nothing for it.
    """
    found = []
    for pair in old:
        chosen, rejected = sides(pair)
        if pair.condition in hacked:
            continue
        if pattern.present(chosen) and not pattern.present(rejected):
            found.append(replace(pair, source=HACK + pattern.name))
    return found


def anchors_of(
    comparison: Comparison, patterns: Sequence[Pattern], most: int, seed: int
) -> list[Sample]:
    """Early replies without any of the patterns, one per prompt, at most `most`, drawn."""
    clean = [s for s in comparison.early if not any(pattern.present(s) for pattern in patterns)]
    order = rng(seed, "gate/anchors").permutation(len(clean))
    by_prompt: dict[str, Sample] = {}
    for row in order:
        by_prompt.setdefault(clean[int(row)].id, clean[int(row)])
    return list(by_prompt.values())[:most]
