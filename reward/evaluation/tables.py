"""The parts of an evaluation as tables of text, for the terminal and for the HTML page."""

from collections.abc import Iterator
from dataclasses import dataclass

from reward.evaluation.evaluate import Evaluation
from reward.intervals import Interval


@dataclass(frozen=True)
class TextTable:
    """A titled table of text with one sentence on how to read it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def tables(evaluation: Evaluation) -> Iterator[TextTable]:
    """Every part that has something to say, most important first."""
    yield TextTable("accuracy, 95 % interval", *evaluation.accuracy.table())
    if evaluation.rewordings:
        yield TextTable(
            "other wording of the conditions",
            ["system prompts", "n", "accuracy", "− as trained", "preferences changed"],
            [
                [r.name, str(r.accuracy.n), str(r.accuracy), str(r.difference), str(r.flipped)]
                for r in evaluation.rewordings
            ],
        )
    if evaluation.conflicts:
        yield TextTable(
            "conflicts between conditions",
            ["conditions", "pairs", "labels differ", "model differs"],
            [
                [f"{c.first} × {c.second}", str(c.labels.n), str(c.labels), str(c.model)]
                for c in evaluation.conflicts
            ],
            "On pairs judged under both. A model that reads its conditions differs as often as the "
            "labels do.",
        )
    yield TextTable(
        "calibration of P(chosen) = σ(margin)",
        ["scores", "calibration error", "by chance", "log loss"],
        [
            [name, str(r.error), f"{r.noise:.3f}", str(r.log_loss)]
            for name, r in evaluation.reliability.items()
        ],
        "By chance: the error that a perfectly calibrated model shows on so many pairs.",
    )
    yield TextTable(
        "length bias",
        ["model", "longer chosen", "longer rejected", "margin × length", "“longer wins”"],
        [
            [
                name,
                _shown(bias.longer_chosen),
                _shown(bias.longer_rejected),
                _shown(bias.correlation),
                str(bias.longer_wins),
            ]
            for name, bias in evaluation.length.items()
        ],
        "Accuracy where the chosen or the rejected reply is longer; correlation of margin and "
        "length difference through the origin.",
    )
    yield TextTable("raw scores", *evaluation.accuracy.score_table())
    if evaluation.probes:
        yield TextTable(
            "robustness probes",
            [
                "edit",
                "expected",
                "verdict",
                "score change",
                "in std",
                "raised",
                "order flips",
                "out",
            ],
            [
                [
                    p.name,
                    p.expected,
                    p.verdict,
                    *map(_shown, (p.change, p.relative_change, p.raised, p.flipped)),
                    str(p.left_out),
                ]
                for p in evaluation.probes
            ],
            "Each edit on one side at a time. “Same” means within a tenth of the scores' standard "
            "deviation. Out: replies that the edit could not change or that became too long.",
        )


def _shown(interval: Interval | None) -> str:
    return "–" if interval is None else str(interval)
