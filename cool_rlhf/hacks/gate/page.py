"""The gate's report as a section of a page that a person reads."""

from cool_rlhf.hacks.gate.accuracy import LEGITIMATE, OLD
from cool_rlhf.hacks.gate.gain import NAME as GAIN
from cool_rlhf.hacks.gate.report import GateReport
from cool_rlhf.hacks.page import short
from pretrain_core.runs.figures import Band, interval_chart
from pretrain_core.runs.html import Section, charts, heading, paragraph, table

VERDICTS = {
    "pass": "every required test passed: the child may replace its parent",
    "fail": "the child surely does harm, or did not learn: it may not replace its parent",
    "undecided": "harm is not excluded: the parent stays until there is more evidence",
}


def gate_section(report: GateReport) -> Section:
    """Verdict, reasons, pictures of what was measured, and every test."""
    header, *rows = report.rows()
    text = heading(report.verdict) + paragraph(VERDICTS[report.verdict])
    text += "".join(paragraph(reason) for reason in report.reasons)
    return Section("The gate", text + charts(_pictures(report)) + table(rows, header))


def _pictures(report: GateReport) -> list[str]:
    gains: dict[str, Band] = {}
    differences: dict[str, Band] = {}
    for test in report.tests:
        for name, found in test.measured.items():
            band = found.mean, found.low, found.high
            if test.name == GAIN and test.hack:
                gains[short(test.hack)] = band
            elif test.name in (OLD, LEGITIMATE):
                differences[test.name if name == "difference" else f"{test.name}, {name}"] = band
    pictures = []
    if gains:
        pictures.append(
            interval_chart(
                {"child": gains}, "paid for the pattern", "standard deviations", reference=0.0
            )
        )
    if differences:
        pictures.append(
            interval_chart(
                {"child": differences}, "accuracy, child − parent", "share", reference=0.0
            )
        )
    return pictures
