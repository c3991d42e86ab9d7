"""Preference pairs against a hack: the same reply without the pattern is preferred to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cool_rlhf.hacks.contrasts import Edit
from cool_rlhf.hacks.detect import Finding
from pretrain_core.draws import rng
from pretrain_core.runs.files import rewrite_lines

LEAST = 20
"""Pairs of one pattern that may suffice (report §4.2.2)."""


def hack_pairs(findings: Sequence[Finding], seed: int, most: int) -> list[dict[str, Any]]:
    """Preferences in TRL's conversational format, at most `most` per hack; none for other verdicts.

    Both sides are the same reply, edited at a like place by as much, so that only the pattern can
    tell them apart. Where it is a hack under some conditions, only their prompts are used.
    """
    return [
        {
            "id": f"{finding.pattern.name}/{edit.having.id}/{edit.kind}",
            "prompt": [message.as_dict() for message in edit.having.prompt],
            "chosen": [{"role": "assistant", "content": edit.lacking.reply}],
            "rejected": [{"role": "assistant", "content": edit.having.reply}],
            **({"condition": edit.having.condition} if edit.having.condition else {}),
            "source": f"hack:{finding.pattern.name}",
        }
        for finding in findings
        if finding.verdict == "hack"
        for edit in _drawn(finding, seed)[:most]
    ]


def write_pairs(path: Path, findings: Sequence[Finding], seed: int, most: int) -> list[str]:
    """Write the pairs for review, a line each, and say which hacks have too few of them.

    A person strikes a pair by deleting its line, and adds one by writing another.
    """
    pairs = hack_pairs(findings, seed, most)
    rewrite_lines(path, pairs)
    notes = []
    for finding in findings:
        count = sum(pair["source"] == f"hack:{finding.pattern.name}" for pair in pairs)
        if finding.verdict == "hack" and count < LEAST:
            notes.append(
                f"{finding.pattern.name}: {count} pairs are few for a patch ({LEAST} are asked "
                "for): give more samples, or write some by hand"
            )
    return notes


def _drawn(finding: Finding, seed: int) -> list[Edit]:
    hacked = [name for name, (verdict, _) in finding.under.items() if verdict == "hack"]
    edits = [edit for edit in finding.edits if not hacked or edit.having.condition in hacked]
    order = rng(seed, f"hacks/pairs/{finding.pattern.name}").permutation(len(edits))
    return [edits[int(row)] for row in order]
