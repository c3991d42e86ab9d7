"""Charts and pages: deterministic, self-contained, everything escaped."""

import math
import re
from xml.etree import ElementTree

import pytest

from pretrain_core.runs.figures import interval_chart, line_chart
from pretrain_core.runs.html import Markup, Section, page, samples_table, table

EVIL = "<script>alert(1)</script>&\"'"
SERIES = {"a": [(0.0, 1.0), (1.0, math.nan), (2.0, 3.0)], "_b $x_1$": [(0.0, 0.5), (2.0, math.inf)]}


def test_a_chart_is_the_same_every_time_and_one_element() -> None:
    first = line_chart(SERIES, EVIL, "step", "nats", {"a": [(0.0, 0.5, 1.5), (2.0, 2.0, 4.0)]})
    assert first == line_chart(
        SERIES, EVIL, "step", "nats", {"a": [(0.0, 0.5, 1.5), (2.0, 2.0, 4.0)]}
    )
    root = ElementTree.fromstring(first)
    texts = {element.text for element in root.iter("text")}
    assert {EVIL, "step", "nats", "b $x_1$"} <= texts
    assert "currentColor" in first
    assert "http" not in first
    assert "<style" not in first
    assert not re.search(r"\d{4}-\d\d-\d\d", first)


def test_a_legend_of_long_names_stays_inside() -> None:
    names = [f"a name of some length, {number}" for number in range(6)]
    chart = line_chart({name: [(0.0, 1.0), (1.0, 2.0)] for name in names}, "title")
    root = ElementTree.fromstring(chart)
    width = float(root.attrib["viewBox"].split()[2])
    starts = [float(e.attrib["x"]) for e in root.iter("text") if e.text in names]
    assert len(starts) == 6
    assert min(starts) > 0
    assert max(starts) + 4 * len(names[0]) < width


def test_charts_of_other_data_share_no_ids() -> None:
    charts = [line_chart({"a": [(0, 1), (1, y)]}, "same title") for y in (2, 3)]
    ids = [set(re.findall(r'id="([^"]+)"', chart)) for chart in charts]
    assert ids[0]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(0.0, math.nan)]}])
def test_a_chart_without_points_says_so(series: dict[str, list[tuple[float, float]]]) -> None:
    assert "no data" in line_chart(series, "empty")


def test_tables_escape_and_align() -> None:
    text = table([[EVIL, 0.123456, None], [Markup("<b>x</b>"), 1234, 5]], ["a<", "n", "m"])
    assert "<script" not in text
    assert "<b>x</b>" in text
    assert '<td class="number">0.1235</td>' in text
    assert '<td class="number">1,234</td>' in text
    assert "<th>a&lt;</th>" in text
    with pytest.raises(ValueError, match="row 1 has 1 cells, the header has 2"):
        table([[1, 2], [3]], ["a", "b"])


def test_samples_escape_and_mark_what_is_new() -> None:
    sample = {
        "prompt": EVIL,
        "condition": EVIL,
        "before": "the year was dull",
        "after": "the year was <i>good</i>",
        "score_before": 0.5,
        "score_after": 0.25,
    }
    text = samples_table([sample, {"prompt": "only a prompt"}])
    assert "<script" not in text
    assert "<i>" not in text
    assert "<mark>" in text
    assert 'class="worse">0.25' in text
    assert "the year was <mark>" in text


def test_a_page_needs_nothing_from_elsewhere() -> None:
    text = page(EVIL, [Section(EVIL, "<p>x</p>"), Section("b", "")])
    assert "<script" not in text
    assert not re.search(r"https?:|src=|url\(", text)
    assert "prefers-color-scheme" in text
    assert 'href="#part-1"' in text


def test_intervals_stand_by_their_names() -> None:
    series = {"a": {"x": (0.5, 0.4, 0.7), "y": (0.2, 0.2, 0.2)}, "b": {"y": (0.9, 0.8, 1.0)}}
    first = interval_chart(series, EVIL, "share", reference=0.5)
    assert first == interval_chart(series, EVIL, "share", reference=0.5)
    texts = {element.text for element in ElementTree.fromstring(first).iter("text")}
    assert {EVIL, "share", "x", "y", "a", "b"} <= texts
    assert first != interval_chart(series, EVIL, "share")
    ElementTree.fromstring(interval_chart({"": {}}, "nothing"))
