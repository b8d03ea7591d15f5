"""Precision and recall side by side."""

import csv
import io
from xml.etree import ElementTree

import numpy as np

from celltrack_jax.metrics.instances import precision_recall_curve
from celltrack_jax.metrics.overlap import overlap
from celltrack_jax.report import pr_curve, tables
from celltrack_jax.report.curves import chart_svg
from tests.report.test_page import read

MASK = np.repeat([0, 1, 2], 10)
EMPTY = np.zeros(30, int)
RESULTS = {
    "U-Net <256>": precision_recall_curve([overlap(MASK, np.roll(MASK, 2), 0)]),
    "nothing": precision_recall_curve([overlap(MASK, EMPTY, 0)]),
}


def test_every_chart_goes_from_0_to_1():
    for name, curve in RESULTS.items():
        svg = ElementTree.fromstring(chart_svg(pr_curve.panel(name, curve)))
        marks = [text.text for text in svg.findall(".//text[@class='y']")]
        assert (marks[0], marks[-1]) == ("0", "1")


def test_the_table_holds_the_scores():
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(pr_curve.table(RESULTS)))))
    assert len(rows) == 42
    # Both cells are shifted by 2 of 10 pixels: IoU 8 / 12.
    scores = {row["IoU >"]: row["F1"] for row in rows if row["result"] == "U-Net <256>"}
    assert (scores["0.65"], scores["0.70"]) == ("1.0", "0.0")
    assert {(row["precision"], row["recall"]) for row in rows if row["result"] == "nothing"} == {("", "0.0")}


def test_the_page_shows_each_result_and_escapes_its_name():
    html = pr_curve.page("IoU curves", RESULTS)
    tags = [tag for tag, _ in read(html).elements]
    assert tags.count("svg") == 2
    assert "U-Net &lt;256&gt;" in html
    assert "<256>" not in html
