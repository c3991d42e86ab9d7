"""Which saved policy to keep: what gold says against how far the policy has gone (KL)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain_core.runs.files import read_json
from reward.intervals import Interval, paired_bootstrap

FOLDER, SELECTED = "evaluations", "selected.json"
REFERENCE = "reference"
"""Name of the evaluation of what the policies began with."""
Evaluation = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """A saved policy among the others. Gold is that of its replies − of the reference's to the
    same prompts; `wins`: share of prompts on which it is better, ties as halves."""

    name: str
    kl: float
    score: float
    gold: Interval | None
    wins: Interval | None
    tokens: float
    text_loss: float | None
    on_frontier: bool = False


@dataclass(frozen=True)
class Selection:
    """The policy to keep, and why."""

    name: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        """JSON-able."""
        return asdict(self)


def read_evaluations(run: Path) -> dict[str, Evaluation]:
    """All results of a run directory by the names of their policies."""
    files = sorted((run / FOLDER).glob("*.json"))
    return {path.stem: read_json(path) for path in files if path.name != SELECTED}


def standings(evaluations: Mapping[str, Evaluation]) -> list[Standing]:
    """All evaluated policies by their names, the reference first where it is there.

    A policy is on the frontier if no other has more gold at no more KL.
    """
    order = sorted(evaluations, key=lambda name: (name != REFERENCE, name))
    reference = _gold(evaluations[REFERENCE]) if REFERENCE in evaluations else {}
    found = [_standing(name, evaluations[name], reference) for name in order]
    return [
        Standing(**{**vars(one), "on_frontier": not any(_beats(other, one) for other in found)})
        for one in found
    ]


def select(evaluations: Mapping[str, Evaluation]) -> Selection:
    """The least KL among the policies that gold does not surely find worse than the best.

    What is gained beyond that policy is noise, and KL is what it costs: over-optimisation shows
    first where the reward model is pleased and gold is not. Without gold, the last one.
    Raises ValueError where there is none.
    """
    policies = {name: found for name, found in evaluations.items() if name != REFERENCE}
    if not policies:
        raise ValueError("no policy was evaluated")
    gold = {name: _gold(found) for name, found in policies.items()}
    if not all(gold.values()):
        return Selection(max(policies), "the last one: there is no gold signal to choose by")
    common = sorted(set.intersection(*(set(rows) for rows in gold.values())))
    if not common:
        return Selection(max(policies), "the last one: gold judged no prompt for all of them")
    means = {name: float(np.mean([rows[i] for i in common])) for name, rows in gold.items()}
    best = max(means, key=lambda name: (means[name], name))
    lost = {
        name: paired_bootstrap([gold[best][i] - rows[i] for i in common], seed=0)
        for name, rows in gold.items()
    }
    good = [name for name in policies if lost[name].low <= 0]
    chosen = min(good, key=lambda name: (_kl(policies[name]), name))
    reason = f"gold {means[chosen]:.3f} at KL {_kl(policies[chosen]):.2f}"
    if chosen == best:
        return Selection(chosen, f"{reason}: the most gold, and none of less KL comes near it")
    return Selection(
        chosen,
        f"{reason}: the least KL of those not surely worse than {best}"
        f" ({means[best]:.3f} at {_kl(policies[best]):.2f}, {lost[chosen]} more)",
    )


def _standing(name: str, found: Evaluation, reference: Mapping[str, float]) -> Standing:
    gold, wins = _gold(found), None
    gained = None
    if common := sorted(gold.keys() & reference.keys()):
        gaps = np.array([gold[i] - reference[i] for i in common])
        gained = paired_bootstrap(gaps, seed=0)
        wins = paired_bootstrap((gaps > 0) + 0.5 * (gaps == 0), seed=0)
    scores = [row["score"] for row in found["samples"] if row["score"] is not None]
    return Standing(
        name=name,
        kl=_kl(found),
        score=float(np.mean(scores)) if scores else float("nan"),
        gold=gained,
        wins=wins,
        tokens=float(np.mean([row["tokens"] for row in found["samples"]])),
        text_loss=found.get("text_loss"),
    )


def _gold(found: Evaluation) -> dict[str, float]:
    return {row["id"]: row["gold"] for row in found["samples"] if row["gold"] is not None}


def _kl(found: Evaluation) -> float:
    return float(np.mean([row["kl"] for row in found["samples"]]))


def _beats(other: Standing, one: Standing) -> bool:
    if other.gold is None or one.gold is None:
        return False
    mine, theirs = (one.gold.mean, -one.kl), (other.gold.mean, -other.kl)
    return theirs != mine and all(t >= m for t, m in zip(theirs, mine, strict=True))
