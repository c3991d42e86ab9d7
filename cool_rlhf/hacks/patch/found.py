"""The hacks as the detector found them: what else has the pattern, rightly or not."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cool_rlhf.hacks.gate import legitimate_uses
from cool_rlhf.hacks.gate.evidence import HACK, sides
from cool_rlhf.hacks.patch.settings import PatchError
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.specification import SpecificationError, pattern_of
from pretrain_core.runs import read_json
from reward.data import Preference


@dataclass(frozen=True)
class FoundHack:
    """A pattern, and the conditions under which it is a hack; none stands for all."""

    name: str
    pattern: Pattern
    conditions: frozenset[str] = frozenset()

    def taints(self, pair: Preference) -> bool:
        """Whether a side has the pattern where that is a hack, and so may have been overpaid."""
        here = not self.conditions or pair.condition in self.conditions
        return here and any(self.pattern.present(side) for side in sides(pair))


def read_hacks(path: Path, names: Collection[str]) -> list[FoundHack]:
    """The hacks of these names in a `hacks.json`; PatchError for a file that is none."""
    try:
        return [
            FoundHack(
                finding["name"],
                pattern_of(finding["pattern"]),
                frozenset(n for n, part in finding["under"].items() if part["verdict"] == "hack"),
            )
            for finding in read_json(path)["findings"]
            if finding["name"] in names
        ]
    except (KeyError, TypeError, AttributeError, SpecificationError) as error:
        raise PatchError(f"{path}: not as `hacks detect` writes it: {error!r}") from error


def rightful(hacks: Sequence[FoundHack], pairs: Sequence[Preference]) -> list[Preference]:
    """Pairs whose better side alone has a pattern where it is no hack; their source names it."""
    return [
        replace(pair, source=HACK + hack.name)
        for hack in hacks
        for pair in legitimate_uses(hack.pattern, pairs, hack.conditions)
    ]
