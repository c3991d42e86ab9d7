"""The early warning's part of a PPO report: its newest look, and gains against √KL."""

from pathlib import Path

from pretrain_core.runs.figures import Point, line_chart
from pretrain_core.runs.files import RunError, read_json
from pretrain_core.runs.html import charts, details, paragraph, preformatted, table
from pretrain_core.runs.run import read_metrics

GAINS = {"hack/reward_gain": "reward model", "hack/gold_gain": "gold"}


def early_warning(run: Path) -> str:
    """What rose by the newest look, whether that is alarming, and what tells more."""
    look = read_json(run / "hacks" / "look.json")
    if not isinstance(look, dict):
        raise RunError(f"{run / 'hacks' / 'look.json'}: expected an object")
    seen, replies = look["iterations"], look["replies"]
    text = paragraph(
        f"Newest look: {replies['recent']} replies of iterations {_span(seen['recent'])} against "
        f"{replies['baseline']} of {_span(seen['baseline'])}."
    )
    text += "".join(paragraph(f"Alarm: {alarm}.") for alarm in look["alarms"])
    rows = [
        [
            risen["name"],
            f"{risen['early']:.0%} → {risen['late']:.0%}",
            f"{risen['p']:.2g}",
            risen["reward"] or "-",
            risen["gold"] or "-",
            "yes" if risen["alarm"] else "no",
        ]
        for risen in look["risen"]
    ]
    header = ["pattern", "replies", "p", "model pays", "gold pays", "alarm"]
    text += table(rows, header) if rows else paragraph("No pattern surely rose.")
    text += details("tell hacks from improvements", preformatted(look["command"]))
    return text + _against_kl(run)


def _against_kl(run: Path) -> str:
    rows = [row for row in read_metrics(run) if "hack/sqrt_kl" in row]
    lines: dict[str, list[Point]] = {
        name: sorted((row["hack/sqrt_kl"], row[metric]) for row in rows if metric in row)
        for metric, name in GAINS.items()
    }
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return ""
    return charts([line_chart(lines, "gain over the baseline", "√KL", "standard deviations")])


def _span(iterations: list[int]) -> str:
    first, last = min(iterations), max(iterations)
    return f"{first}" if first == last else f"{first}-{last}"
