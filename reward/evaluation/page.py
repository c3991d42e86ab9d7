"""An evaluation as one self-contained HTML page with pictures."""

from collections.abc import Callable

from pretrain_core.runs.figures import interval_chart, line_chart
from pretrain_core.runs.html import Section, charts, page, paragraph, table
from reward.evaluation.evaluate import Evaluation
from reward.evaluation.tables import tables


def evaluation_sections(evaluation: Evaluation) -> list[Section]:
    """The parts of an evaluation as sections: pictures, then the numbers behind them."""
    sections = []
    for part in tables(evaluation):
        draw = PICTURES.get(part.title)
        text = charts(draw(evaluation)) if draw else ""
        text += paragraph(part.note) if part.note else ""
        title = part.title[0].upper() + part.title[1:]
        sections.append(Section(title, text + table(part.rows, part.header)))
    return sections


def evaluation_page(evaluation: Evaluation, title: str) -> str:
    """A page that needs nothing beside it."""
    pairs = next(iter(evaluation.accuracy.accuracy["all"].values()))
    lead = f"{evaluation.version} · {pairs.n} preferences on {pairs.clusters} judged pairs"
    if evaluation.left_out:
        lead += f" · {evaluation.left_out} left out (too long)"
    return page(title, evaluation_sections(evaluation), lead=paragraph(lead, dim=True))


def _accuracy(evaluation: Evaluation) -> list[str]:
    by_model = {
        model: {
            group: (found[model].mean, found[model].low, found[model].high)
            for group, found in evaluation.accuracy.accuracy.items()
        }
        for model in evaluation.accuracy.scores
    }
    return [interval_chart(by_model, "accuracy", "share of pairs", reference=0.5)]


def _rewordings(evaluation: Evaluation) -> list[str]:
    found = {
        r.name: (r.difference.mean, r.difference.low, r.difference.high)
        for r in evaluation.rewordings
    }
    return [interval_chart({"": found}, "accuracy − as trained", "share of pairs", reference=0.0)]


def _conflicts(evaluation: Evaluation) -> list[str]:
    found = {
        kind: {
            f"{c.first} × {c.second}": (interval.mean, interval.low, interval.high)
            for c in evaluation.conflicts
            for interval in [c.labels if kind == "labels" else c.model]
        }
        for kind in ("labels", "model")
    }
    return [interval_chart(found, "opposite verdicts", "share of pairs")]


def _calibration(evaluation: Evaluation) -> list[str]:
    series = {"perfect": [(50.0, 50.0), (100.0, 100.0)]}
    series |= {
        name: [(100 * b.confidence, 100 * b.accuracy) for b in found.bins]
        for name, found in evaluation.reliability.items()
    }
    return [line_chart(series, "reliability", "confidence, %", "right, %")]


def _length(evaluation: Evaluation) -> list[str]:
    series = {name: list(bias.curve) for name, bias in evaluation.length.items()}
    return [line_chart(series, "margin by length difference", "characters", "mean margin")]


def _scores(evaluation: Evaluation) -> list[str]:
    return [line_chart(evaluation.histograms, "raw scores", "score", "share of replies")]


def _probes(evaluation: Evaluation) -> list[str]:
    found = {
        p.name: (p.relative_change.mean, p.relative_change.low, p.relative_change.high)
        for p in evaluation.probes
        if p.relative_change is not None
    }
    return [interval_chart({"": found}, "score change by edit", "standard deviations", reference=0)]


PICTURES: dict[str, Callable[[Evaluation], list[str]]] = {
    "accuracy, 95 % interval": _accuracy,
    "other wording of the conditions": _rewordings,
    "conflicts between conditions": _conflicts,
    "calibration of P(chosen) = σ(margin)": _calibration,
    "length bias": _length,
    "raw scores": _scores,
    "robustness probes": _probes,
}
