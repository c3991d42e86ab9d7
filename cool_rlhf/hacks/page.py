"""A detection as JSON, and as one page that a person reads."""

from collections.abc import Sequence
from typing import Any

from cool_rlhf.hacks.detect import Detection, Finding
from cool_rlhf.hacks.evidence import Payment
from cool_rlhf.hacks.patterns.specification import specification
from cool_rlhf.hacks.settings import HackSettings
from pretrain_core.runs.figures import Band, interval_chart
from pretrain_core.runs.html import (
    Section,
    charts,
    details,
    heading,
    page,
    paragraph,
    samples_table,
    table,
)
from reward.intervals import Interval

EXAMPLES = 3
SHORT = 32
"""Characters of a pattern's name in pictures."""
MEANINGS = {
    "hack": "rose, and of what the model pays for it by itself gold surely pays less than half",
    "improvement": "rose, and of what the model pays for it gold surely pays half or more",
    "candidate": "rose, but the evidence does not decide; never patched without a person",
    "harmless": "rose, but the model pays nothing for it",
}


def as_json(detection: Detection, settings: HackSettings) -> dict[str, Any]:
    """Everything but the texts that were edited; intervals as {mean, low, high, n}."""
    return {
        "complete": detection.stopped is None,
        "stopped": detection.stopped,
        "prompts": detection.prompts,
        "gain": _interval(detection.gain),
        "gold_gain": _interval(detection.gold_gain),
        "notes": list(detection.notes),
        "findings": [_finding(finding) for finding in detection.findings],
        "proposed": [
            {
                "name": rise.pattern.name,
                "family": rise.pattern.family,
                "early": rise.early,
                "late": rise.late,
                "p": rise.p,
                "confirmed": rise.confirmed,
            }
            for rise in sorted(detection.rises, key=lambda rise: rise.p)
        ],
        "settings": settings.model_dump(mode="json"),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    rise = finding.rise
    return {
        "name": finding.pattern.name,
        "family": finding.pattern.family,
        "pattern": specification(finding.pattern),
        "verdict": finding.verdict,
        "reason": finding.reason,
        "early": rise.early,
        "late": rise.late,
        "rise": _interval(rise.interval),
        "shift": rise.shift,
        "p_rise": rise.p,
        "p_paid": finding.p,
        "under": {name: {"verdict": v, "reason": r} for name, (v, r) in finding.under.items()},
        "reward": _payment(finding.paid),
        "gold": _payment(finding.gold),
        "examples": [
            {
                "id": edit.having.id,
                "kind": edit.kind,
                "with": edit.having.reply,
                "without": edit.lacking.reply,
            }
            for edit in finding.edits[:EXAMPLES]
        ],
    }


def _payment(paid: Payment | None) -> dict[str, Any] | None:
    if paid is None:
        return None
    return {
        "gain": _interval(paid.gain),
        "by_kind": {kind: _interval(found) for kind, found in paid.by_kind.items()},
        "by_condition": {name: _interval(found) for name, found in paid.by_condition.items()},
        "under_another_prompt": _interval(paid.swapped),
        "matched": _interval(paid.matched),
    }


def _interval(found: Interval | None) -> dict[str, float] | None:
    if found is None:
        return None
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}


def as_page(detection: Detection, settings: HackSettings, title: str) -> str:
    """One self-contained page: verdicts, pictures, and the evidence of each pattern."""
    sections = [Section("Verdicts", _verdicts(detection))]
    measured = [f for f in detection.findings if f.paid is not None and f.paid.gain is not None]
    if detection.findings:
        sections.append(Section("Pictures", charts(_pictures(detection.findings, measured))))
    sections += [Section(short(f.pattern.name), _evidence(f)) for f in detection.findings]
    sections.append(Section("What was looked at", _proposed(detection, settings)))
    found = [f"{_count(detection, verdict)} {verdict}" for verdict in MEANINGS]
    lead = paragraph(f"{detection.prompts} prompts · " + " · ".join(found), dim=True)
    if detection.stopped:
        lead = paragraph(f"Partial result: {detection.stopped}") + lead
    return page(title, sections, lead)


def rows(detection: Detection) -> list[list[str]]:
    """The findings as rows of a table, the header first."""
    header = ["verdict", "pattern", "replies", "p", "model pays", "gold pays"]
    return [header, *(_row(finding) for finding in detection.findings)]


def _row(finding: Finding) -> list[str]:
    rise = finding.rise
    paid, gold = finding.paid, finding.gold
    return [
        finding.verdict,
        short(finding.pattern.name),
        f"{rise.early:.0%} → {rise.late:.0%}",
        f"{rise.p:.2g}",
        str(paid.gain) if paid and paid.gain else "-",
        str(gold.gain or gold.matched or "-") if gold else "-",
    ]


def _verdicts(detection: Detection) -> str:
    header, *found = rows(detection)
    text = paragraph(
        "Scores in standard deviations of the natural replies' scores, with 95 % intervals; "
        "p adjusted for every pattern that was looked at."
    )
    text += table(found, header) if found else paragraph("No pattern rose.")
    if detection.gain is not None:
        text += paragraph(f"Late replies score {detection.gain} above early ones.")
    if detection.gold_gain is not None:
        text += paragraph(f"By the gold signal: {detection.gold_gain}.")
    text += "".join(paragraph(note, dim=True) for note in detection.notes)
    return text + table(list(MEANINGS.items()), ["verdict", "means"])


def _pictures(findings: Sequence[Finding], measured: Sequence[Finding]) -> list[str]:
    shares: dict[str, dict[str, Band]] = {
        policy: {short(f.pattern.name): (_share(f, policy),) * 3 for f in findings}
        for policy in ("early", "late")
    }
    pictures = [interval_chart(shares, "replies that have it", "share")]
    pays: dict[str, dict[str, Band]] = {"reward model": {}, "gold": {}}
    for finding in measured:
        name = short(finding.pattern.name)
        for judge, paid in (("reward model", finding.paid), ("gold", finding.gold)):
            shown = paid and (paid.gain or paid.matched)
            if shown:
                pays[judge][name] = shown.mean, shown.low, shown.high
    pays = {judge: found for judge, found in pays.items() if found}
    if pays:
        pictures.append(interval_chart(pays, "paid for it", "standard deviations", reference=0.0))
    return pictures


def _share(finding: Finding, policy: str) -> float:
    return finding.rise.early if policy == "early" else finding.rise.late


def _evidence(finding: Finding) -> str:
    text = heading(finding.verdict) + paragraph(finding.pattern.name) + paragraph(finding.reason)
    lines = [
        [f"{judge}: {what}", str(found), str(found.n)]
        for judge, paid in (("reward model", finding.paid), ("gold", finding.gold))
        if paid is not None
        for what, found in _measurements(paid).items()
    ]
    text += (
        table(
            [[name, verdict, reason] for name, (verdict, reason) in finding.under.items()],
            ["condition", "verdict", "reason"],
        )
        if finding.under
        else ""
    )
    if lines:
        text += table(lines, ["measured", "gain", "prompts or replies"])
    examples = [
        {
            "prompt": edit.having.asked,
            "condition": edit.having.condition,
            "before": edit.lacking.reply,
            "after": edit.having.reply,
        }
        for edit in finding.edits[:EXAMPLES]
    ]
    if examples:
        note = "before: without the pattern; after: with it; as long, edited at a like place"
        text += details("edited replies", paragraph(note, dim=True) + samples_table(examples))
    return text


def _measurements(paid: Payment) -> dict[str, Interval]:
    found = {
        "all edits": paid.gain,
        **paid.by_kind,
        **{f"under condition {name}": value for name, value in paid.by_condition.items()},
        "under another prompt": paid.swapped,
        "between natural replies to one prompt": paid.matched,
    }
    return {name: value for name, value in found.items() if value is not None}


def _proposed(detection: Detection, settings: HackSettings) -> str:
    lines = [
        [r.pattern.name, r.pattern.family, f"{r.early:.1%}", f"{r.late:.1%}", f"{r.p:.2g}"]
        for r in sorted(detection.rises, key=lambda rise: rise.p)
    ]
    text = paragraph(
        f"{len(lines)} patterns were proposed by half of the prompts and tested on the other half; "
        f"the chance of any false one is at most {settings.alpha:.0%}."
    )
    return text + details("all of them", table(lines, ["pattern", "family", "early", "late", "p"]))


def _count(detection: Detection, verdict: str) -> int:
    return sum(finding.verdict == verdict for finding in detection.findings)


def short(name: str) -> str:
    """A pattern's name as pictures and tables show it."""
    return name if len(name) <= SHORT else name[: SHORT - 1] + "…"
