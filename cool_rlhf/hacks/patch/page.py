"""A patch as one page that a person reads: the verdict, what was learnt, what was kept."""

from collections.abc import Mapping
from typing import Any

from cool_rlhf.hacks.gate.page import gate_section
from cool_rlhf.hacks.page import short
from cool_rlhf.hacks.patch.run import PatchResult
from cool_rlhf.hacks.patch.split import by_hack
from pretrain_core.runs.figures import Band, interval_chart
from pretrain_core.runs.html import (
    Section,
    charts,
    details,
    page,
    paragraph,
    samples_table,
    table,
)
from reward.data import Preference
from reward.evaluation.scoring import reply_text
from reward.intervals import paired_bootstrap
from reward.preference import prompt_keys

EXAMPLES = 3


def as_page(result: PatchResult, release: Mapping[str, Any]) -> str:
    """One self-contained page."""
    before, after = result.versions
    lead = paragraph(f"{before} → {after} · {', '.join(result.counts)}", dim=True)
    title = f"Patch of a reward model: {result.gate.verdict}"
    return page(title, [*sections(result), Section("Lineage", _lineage(result, release))], lead)


def sections(result: PatchResult) -> list[Section]:
    """The parts that a larger report can take in."""
    return [
        gate_section(result.gate),
        Section("Pattern pairs", _pattern(result)),
        Section("Old pairs", _old(result)),
    ]


def _pattern(result: PatchResult) -> str:
    held_out, patched = list(result.patched.held_out), result.patched
    lines = [[name, trained, held] for name, (trained, held) in result.counts.items()]
    text = paragraph(
        f"Learnt by objective '{result.settings.objective}', beside {len(patched.replay)} old "
        f"pairs ({result.settings.replay}). The pairs below were held out."
    )
    text += table(lines, ["hack", "pairs of the training", "held out"])
    if result.left_out:
        rows = [[hack, reason] for hack, reason in result.left_out.items()]
        text += paragraph("A first child did not cure these, so this one was made without them:")
        text += table(rows, ["hack", "why it was left out"])
    text += charts([_paid(result)])
    shown = [row for own in by_hack(held_out).values() for row in _rows(held_out, own)[:EXAMPLES]]
    note = "before: without the pattern, after: with it; scores by the parent, then by the child"
    examples = "".join(_example(result, row) for row in shown)
    return text + details("held-out pairs", paragraph(note, dim=True) + examples)


def _paid(result: PatchResult) -> str:
    """Score with the pattern − score without it, by parent and child."""
    held_out = list(result.patched.held_out)
    pays: dict[str, dict[str, Band]] = {"parent": {}, "child": {}}
    for judge, scores in zip(pays, result.scores, strict=True):
        for name, own in by_hack(held_out).items():
            found = paired_bootstrap(
                -scores.margins[_rows(held_out, own)],
                seed=result.settings.seed,
                clusters=prompt_keys(own),
            )
            pays[judge][short(name)] = found.mean, found.low, found.high
    return interval_chart(pays, "paid for the pattern", "raw score", reference=0.0)


def _rows(pairs: list[Preference], own: list[Preference]) -> list[int]:
    mine = {id(pair) for pair in own}
    return [row for row, pair in enumerate(pairs) if id(pair) in mine]


def _example(result: PatchResult, row: int) -> str:
    pair, (before, after) = result.patched.held_out[row], result.scores
    common = {"prompt": reply_text(pair.prompt), "condition": pair.condition}
    sides = [
        {
            **common,
            "before": reply_text(pair.chosen),
            "after": reply_text(pair.rejected),
            "score_before": float(scores.chosen[row]),
            "score_after": float(scores.rejected[row]),
        }
        for scores in (before, after)
    ]
    return samples_table(sides)


def _old(result: PatchResult) -> str:
    header, rows = result.accuracy.accuracy.table()
    text = paragraph("Accuracy on held-out old pairs, with 95 % intervals.")
    text += table(rows, header)
    statistics_header, statistics = result.accuracy.accuracy.score_table()
    return text + table(statistics, statistics_header)


def _lineage(result: PatchResult, release: Mapping[str, Any]) -> str:
    record = result.as_dict()
    rows = [["parent", f"{record['parent']['version']}, {record['parent']['folder']}"]]
    rows += [["child", f"{record['child']['version']}, {record['child']['folder']}"]]
    rows += [[name, f"{f['path']}, SHA-256 {f['sha256']}"] for name, f in record["files"].items()]
    rows += [["old pairs replayed", str(len(record["replay"]))]]
    rows += [[name, str(value)] for name, value in release.items()]
    text = table(rows, ["", ""]) + "".join(paragraph(note, dim=True) for note in record["notes"])
    return text + details("settings", table(_leaves(result), ["setting", "value"]))


def _leaves(result: PatchResult) -> list[list[str]]:
    from pretrain_core.settings import Resolved

    return [[name, str(value)] for name, value in Resolved.of(result.settings).leaves()]
