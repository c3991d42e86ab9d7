"""The evaluations' part of a PPO report: every saved policy, and gold against √KL."""

from math import sqrt
from pathlib import Path

from cool_rlhf.ppo.evaluation.frontier import (
    FOLDER,
    REFERENCE,
    SELECTED,
    Standing,
    read_evaluations,
    standings,
)
from pretrain_core.runs.figures import line_chart
from pretrain_core.runs.files import read_json
from pretrain_core.runs.html import charts, paragraph, table


def evaluations(run: Path) -> str:
    """A row for each policy with its gain over the reference; the kept one is named first."""
    found = standings(read_evaluations(run))
    text = ""
    if (selected := run / FOLDER / SELECTED).exists():
        kept = read_json(selected)
        text += paragraph(f"Kept: {kept['name']}, {kept['reason']}.")
    base = next((one.text_loss for one in found if one.name == REFERENCE), None)
    header = ["policy", "√KL", "gold over the reference", "better on", "reward model", "tokens"]
    rows = [_row(one, base) for one in found]
    text += table(rows, [*header, "alignment tax", "frontier"])
    return text + _against_kl(found)


def _row(one: Standing, base: float | None) -> list[str]:
    tax = None if base is None or one.text_loss is None else one.text_loss - base
    return [
        one.name,
        f"{_distance(one):.2f}",
        str(one.gold) if one.gold else "-",
        f"{one.wins.mean:.0%} [{one.wins.low:.0%}, {one.wins.high:.0%}]" if one.wins else "-",
        f"{one.score:.3f}",
        f"{one.tokens:.1f}",
        "-" if tax is None else f"{tax:+.3f} nats",
        "yes" if one.on_frontier else "",
    ]


def _against_kl(found: list[Standing]) -> str:
    """Both gains over the reference: where they part, the reward model is exploited."""
    start = next((one for one in found if one.name == REFERENCE), None)
    if start is None or len(found) < 3:
        return ""
    # Several may be at no distance: the estimate of a small KL can be negative.
    ordered = sorted(found, key=_distance)
    scored = [(_distance(one), one.score - start.score) for one in ordered]
    gold = [(_distance(one), one.gold) for one in ordered if one.gold is not None]
    lines = {"reward model": scored, "gold": [(x, gain.mean) for x, gain in gold]}
    bands = {"gold": [(x, gain.low, gain.high) for x, gain in gold]}
    return charts([line_chart(lines, "gain over the reference", "√KL", "score", bands)])


def _distance(one: Standing) -> float:
    return sqrt(max(0.0, one.kl))
