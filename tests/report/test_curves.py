"""Charts of a run's history."""

from xml.etree import ElementTree

import numpy as np
import pytest

from celltrack_jax.report.curves import MOST_POINTS, Curve, Panel, chart_svg, history_panels

HISTORY = [
    {"step": 10, "kind": "train", "seen": 1.0, "loss": 3.0, "input_wait": 0.1, "learning_rate": 1e-3},
    {"step": 20, "kind": "train", "seen": 2.0, "loss": None, "input_wait": 0.2, "learning_rate": 1e-3},
    {"step": 20, "kind": "eval", "SEG": 0.5, "loss": 2.0, "nothing": None},
    {"step": 30, "kind": "train", "seen": 3.0, "loss": 1.0, "input_wait": 0.3, "learning_rate": 1e-3},
]


def chart(*curves: Curve, from_zero: bool = False) -> ElementTree.Element:
    return ElementTree.fromstring(chart_svg(Panel("a < b & c", "step", list(curves), from_zero)))


def curve(y, x=None) -> Curve:
    y = np.asarray(y, float)
    return Curve("train", np.arange(len(y), dtype=float) if x is None else np.asarray(x, float), y)


def marks(svg: ElementTree.Element, axis: str) -> list[str]:
    return [str(text.text) for text in svg.findall(f".//text[@class='{axis}']")]


def test_history_is_sorted_into_panels():
    learned, machine = history_panels(HISTORY)
    assert [panel.title for panel in learned] == ["loss", "seen", "SEG"]
    assert [panel.title for panel in machine] == ["input wait (share of time)", "learning rate"]
    train, evaluated = learned[0].curves
    assert (train.name, evaluated.name) == ("train", "eval")
    np.testing.assert_array_equal(train.x, [10, 20, 30])
    np.testing.assert_array_equal(train.y, [3, np.nan, 1])
    np.testing.assert_array_equal(evaluated.y, [2])


def test_empty_history_has_no_panels():
    assert history_panels([]) == ([], [])


def test_values_that_are_not_finite_break_the_line():
    assert len(chart(curve([1, 2, 3, np.nan, 5, 6])).findall(".//polyline")) == 2
    assert chart_svg(Panel("", "step", [curve([np.nan, np.inf])])) == ""
    assert chart_svg(Panel("", "step", [])) == ""


def test_higher_values_are_drawn_higher():
    [line] = chart(curve([1, 4, 2])).findall(".//polyline")
    y = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert y[1] < y[2] < y[0]


def test_wide_ranges_are_logarithmic():
    svg = chart(curve([1, 10, 100, 1000]))
    assert marks(svg, "y") == ["1", "10", "100", "1000"]
    [line] = svg.findall(".//polyline")
    y = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    np.testing.assert_allclose(np.diff(y), np.diff(y)[0], atol=0.2)


def test_counts_have_whole_marks():
    assert marks(chart(curve([0, 1, 2, 1])), "y") == ["0", "1", "2"]


def test_axis_from_zero_begins_there():
    assert marks(chart(curve([0.5, 0.51, 0.52]), from_zero=True), "y")[0] == "0"
    assert marks(chart(curve([0.5, 0.51, 0.52])), "y")[0] != "0"


def test_given_limits_hold_whatever_the_values():
    for y in ([0.2, 0.3], [0.001, 0.9], [0.0, 0.0]):
        panel = Panel("share", "step", [curve(y)], limits=(0, 1))
        svg = ElementTree.fromstring(chart_svg(panel))
        assert marks(svg, "y")[:: len(marks(svg, "y")) - 1] == ["0", "1"]


@pytest.mark.parametrize("y", [[3.0], [0.0, 0.0], [-2.0, -2.0], [1e-9, 2e-9], [1e12, 3e12]])
def test_narrow_and_extreme_values_stay_inside_the_chart(y):
    svg = chart(curve(y))
    for circle in svg.findall(".//circle"):
        assert 0 <= float(circle.attrib["cx"]) <= 420
        assert 0 <= float(circle.attrib["cy"]) <= 230
    assert marks(svg, "y")


def test_long_curves_are_drawn_as_means():
    y = np.random.default_rng(0).normal(size=50 * MOST_POINTS)
    [line] = chart(curve(y)).findall(".//polyline")
    assert len(line.attrib["points"].split()) == MOST_POINTS


def test_text_is_escaped():
    title = chart(curve([1, 2])).find("title")
    assert title is not None
    assert title.text == "a < b & c over step"
