"""Tracks made of links keep the rules of CTC track files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.lineage import Lineage, lineage_from_links


@st.composite
def links(draw):
    """Frames of up to 12 detections in any order, and a predecessor for some of them."""
    frame = np.array(draw(st.lists(st.integers(3, 9), max_size=12)), np.int64)
    parent = np.full(len(frame), -1)
    for node in range(len(frame)):
        earlier = np.flatnonzero(frame < frame[node]).tolist()
        parent[node] = draw(st.sampled_from([-1, *earlier]))
    return frame, parent


@settings(deadline=None)
@given(links())
def test_each_track_has_one_detection_in_each_of_its_frames(movie):
    frame, parent = movie
    lineage, track = lineage_from_links(frame, parent)
    for label, begin, end, _ in lineage.rows():
        assert sorted(frame[track == label]) == list(range(begin, end + 1))
    assert sorted(set(track)) == list(lineage.label) == list(range(1, len(lineage.label) + 1))


@settings(deadline=None)
@given(links())
def test_every_link_is_a_step_of_a_track_or_a_parent_and_nothing_else_is(movie):
    frame, parent = movie
    lineage, track = lineage_from_links(frame, parent)
    linked = np.flatnonzero(parent >= 0)
    first = np.full(len(lineage.label) + 1, -1)
    for node in np.argsort(-frame, kind="stable"):
        first[track[node]] = node
    steps = {(track[parent[n]], track[n]) for n in linked if track[parent[n]] != track[n]}
    rows = {(row[3], row[0]) for row in lineage.rows() if row[3]}
    assert rows == steps
    assert all(first[child] in linked for _, child in rows)
    inner = sum(end - begin for _, begin, end, _ in lineage.rows())
    assert inner + len(rows) == len(linked)


@settings(deadline=None)
@given(links())
def test_a_parent_ends_before_its_children_begin(movie):
    rows = {row[0]: row for row in lineage_from_links(*movie)[0].rows().tolist()}
    for _, begin, _, parent in rows.values():
        assert parent == 0 or rows[parent][2] < begin


def test_only_children_in_the_next_frame_continue_a_track():
    # 0 -> 1 -> 2 skips a frame after 2; 4 and 5 are sisters.
    frame = np.array([0, 1, 2, 4, 5, 5])
    lineage, track = lineage_from_links(frame, np.array([-1, 0, 1, 2, 3, 3]))
    assert lineage.rows().tolist() == [[1, 0, 2, 0], [2, 4, 4, 1], [3, 5, 5, 2], [4, 5, 5, 2]]
    assert track.tolist() == [1, 1, 1, 2, 3, 4]


def test_a_link_back_in_time_is_refused():
    with pytest.raises(ValueError, match="earlier frame"):
        lineage_from_links(np.array([1, 1]), np.array([-1, 0]))


def test_rows_are_sorted_by_label_and_survive_a_round_trip():
    rows = [[7, 0, 2, 0], [3, 1, 1, 0], [5, 2, 2, 3]]
    assert Lineage.from_rows(rows).rows().tolist() == sorted(rows)
    assert Lineage.from_rows([]).rows().shape == (0, 4)
