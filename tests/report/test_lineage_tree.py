"""The layout of lineage trees: every track once, no crossings."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.lineage import Lineage
from celltrack_jax.report.lineage_tree import layout, nice_ticks, tree_svg


@st.composite
def lineages(draw) -> Lineage:
    """Forests with zero to three daughters per mother, gaps between some mothers and daughters."""
    count = draw(st.integers(0, 25))
    rows: list[list[int]] = []
    for label in range(1, count + 1):
        parent = draw(st.sampled_from([0, *(row[0] for row in rows)]))
        if sum(row[3] == parent for row in rows) >= 3:
            parent = 0
        begin = rows[parent - 1][2] + 1 + draw(st.integers(0, 2)) if parent else draw(st.integers(0, 9))
        rows.append([label, begin, begin + draw(st.integers(0, 5)), parent])
    return Lineage.from_rows(np.reshape(rows, (-1, 4)))


def svg_of(lineage: Lineage) -> ElementTree.Element:
    last = int(lineage.end.max(initial=0))
    return ElementTree.fromstring(tree_svg(lineage, range(last + 1), lambda i: "#123456", "A <tree> & more"))


@settings(max_examples=60, deadline=None)
@given(lineages())
def test_layout_of_forests(lineage):
    place = layout(lineage)
    labels = np.append(lineage.label, 0)
    np.testing.assert_array_equal(labels[place.parent], lineage.parent)
    # Every track has a place of its own, and mothers lie between their daughters.
    leaves = ~np.isin(np.arange(len(place.row)), place.parent)
    assert sorted(place.row[leaves]) == list(range(place.rows))
    for mother in set(place.parent.tolist()) - {-1}:
        rows = place.row[place.parent == mother]
        assert place.row[mother] == (rows.min() + rows.max()) / 2
        assert len(set(rows.tolist())) == len(rows)
    # No connector crosses a track: subtrees share no rows.
    families = [family_of(track, place.parent) for track in range(len(place.row))]
    for family in families:
        low, high = place.row[list(family)].min(), place.row[list(family)].max()
        outside = [i for i, other in enumerate(families) if not family & other]
        assert not any(low <= place.row[i] <= high for i in outside)


def family_of(track: int, parent: np.ndarray) -> set[int]:
    family = {track}
    for i in range(track + 1, len(parent)):  # daughters have higher labels here
        if parent[i] in family:
            family.add(i)
    return family


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 0, 1, 2], [2, 0, 1, 1]],  # each other's mother
        [[1, 0, 1, 1]],
        [[1, 0, 1, 7]],  # a mother that is not listed
        [[1, 0, 1, 0], [1, 3, 4, 0], [2, 5, 6, 1]],  # a label twice
        [[1, 0, 1, 2], [2, 2, 3, 3], [3, 4, 5, 1], [4, 6, 7, 3]],
    ],
)
def test_bad_lineages_are_drawn_as_far_as_they_can_be(rows):
    lineage = Lineage.from_rows(rows)
    place = layout(lineage)
    assert np.isfinite(place.row).all()
    assert len(set(place.row.tolist())) >= place.rows
    assert len(svg_of(lineage).findall(".//g")) == len(rows)


def test_deep_lineages_do_not_exhaust_the_stack():
    count = 5000
    label = np.arange(1, count + 1)
    chain = Lineage(label, label, label, label - 1)
    assert layout(chain).rows == 1


@settings(max_examples=30, deadline=None)
@given(lineages())
def test_svg_draws_each_track_once_with_its_division(lineage):
    svg = svg_of(lineage)
    drawn = svg.findall(".//g")
    assert [int(group.attrib["data-track"]) for group in drawn] == lineage.label.tolist()
    mothers = set(lineage.parent.tolist()) - {0}
    assert len(svg.findall(".//circle")) == len(mothers)
    for number in re.findall(r'x[12]="([\d.-]+)%', ElementTree.tostring(svg, "unicode")):
        assert 0 <= float(number) <= 100


def test_svg_says_where_a_track_comes_from():
    svg = svg_of(Lineage.from_rows([[1, 0, 3, 0], [2, 4, 9, 1], [3, 4, 9, 1], [4, 10, 11, 3]]))
    assert [title.text for title in svg.findall(".//title")] == [
        "track 1, frames 0 to 3, divides into 2, 3",
        "track 2, frames 4 to 9, from 1",
        "track 3, frames 4 to 9, from 1, continues as 4",
        "track 4, frames 10 to 11, from 3",
    ]
    assert svg.attrib["aria-label"].startswith("A <tree> & more: 4 tracks")


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_are_round_and_inside(low, span, wanted):
    ticks = np.array(nice_ticks(low, low + span, wanted))
    assert 1 <= len(ticks) <= 1.5 * wanted + 2
    slack = 1e-6 * (abs(low) + span)
    assert ticks.min() >= low - slack
    assert ticks.max() <= low + span + slack
    if len(ticks) > 1:
        np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-4, atol=slack)
