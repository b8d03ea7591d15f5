"""Painted masks agree with their track file, whatever the links; missed cells are drawn where there is room."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.data.synthetic import SyntheticSpec, make_movie
from celltrack_jax.metrics.ctc import ctc_measures, overlap
from celltrack_jax.tracking.features import detections_from_masks
from celltrack_jax.tracking.graph import true_parents
from celltrack_jax.tracking.tracks import TrackPainter

SPACING = np.array([1.0, 0.5, 0.5])


@st.composite
def linked_movies(draw):
    """Masks (6, 8) of random pixels, and random links of which none merges."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    numbers = draw(st.lists(st.integers(2, 9), max_size=6, unique=True))
    masks = {
        frame: rng.choice(5, (6, 8), p=[0.6, 0.1, 0.1, 0.1, 0.1]).astype(np.uint16)
        for frame in sorted(numbers)
    }
    found = detections_from_masks(masks.items(), SPACING)
    parent = np.full(len(found.frame), -1)
    for node in range(len(found.frame)):
        if rng.random() < 0.8 and (found.frame < found.frame[node]).any():
            parent[node] = rng.choice(np.flatnonzero(found.frame < found.frame[node]))
    return masks, found, parent


def paint(masks, found, parent, fill_gaps=True, min_length=1):
    """Returns the painted masks and the painter."""
    painter = TrackPainter(found, parent, masks, SPACING, fill_gaps=fill_gaps, min_length=min_length)
    return {frame: painter.paint(frame, mask) for frame, mask in masks.items()}, painter


@settings(deadline=None)
@given(linked_movies(), st.booleans(), st.integers(1, 3))
def test_the_track_file_says_what_the_masks_show(movie, fill_gaps, min_length):
    masks, found, parent = movie
    painted, painter = paint(masks, found, parent, fill_gaps=fill_gaps, min_length=min_length)
    rows = {row[0]: row for row in painter.lineage().rows().tolist()}
    shown: dict[int, list[int]] = {}
    for frame, mask in painted.items():
        for label in np.unique(mask[mask > 0]).tolist():
            shown.setdefault(label, []).append(frame)
    assert shown == {label: list(range(begin, end + 1)) for label, begin, end, _ in rows.values()}
    for _, begin, _, mother in rows.values():
        assert mother == 0 or rows[mother][2] < begin
    cells = painter.cells()
    assert sorted(zip(cells.label.tolist(), cells.frame.tolist(), strict=True)) == sorted(
        (label, frame) for label, frames in shown.items() for frame in frames
    )


@settings(deadline=None)
@given(linked_movies())
def test_without_filling_masks_are_only_renamed(movie):
    painted, _ = paint(*movie, fill_gaps=False)
    for frame, mask in movie[0].items():
        renamed = {(one, two) for one, two in zip(mask.flat, painted[frame].flat, strict=True)}
        assert len(renamed) == len(np.unique(mask))
        np.testing.assert_array_equal(painted[frame] > 0, mask > 0)


@settings(deadline=None)
@given(linked_movies())
def test_filling_changes_no_pixel_that_is_taken(movie):
    plain, _ = paint(*movie, fill_gaps=False)
    filled, _ = paint(*movie)
    for frame, mask in plain.items():
        np.testing.assert_array_equal(filled[frame][mask > 0] > 0, True)


@settings(deadline=None)
@given(linked_movies(), st.sampled_from([np.uint32, np.int64]))
def test_the_size_of_ids_does_not_matter(movie, dtype):
    masks, found, parent = movie
    ids = np.array([0, 7, 2**31 - 1, 2**31 + 5, 2**32 - 1], dtype)
    large = {frame: ids[mask] for frame, mask in masks.items()}
    painted, painter = paint(masks, found, parent)
    tracemalloc.start()
    try:
        again, painter_again = paint(large, found._replace(label=ids[found.label].astype(np.int64)), parent)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    for frame, mask in painted.items():
        assert again[frame].dtype == np.uint32
        np.testing.assert_array_equal(again[frame], mask)
    np.testing.assert_array_equal(painter.lineage().rows(), painter_again.lineage().rows())


def gap(frames: Sequence[int] = range(5), blocker: tuple[int, ...] = ()):
    """A 2 x 2 cell that moves by 2 in x from frame 0 to 3 and is missed in between, and lives on to frame 4.

    Args:
      frames: of the movie.
      blocker: frames in which another cell covers its way.
    """
    masks = {frame: np.zeros((4, 9), np.uint16) for frame in frames}
    for frame, x in ((0, 1), (3, 4), (4, 4)):
        if frame in masks:
            masks[frame][1:3, x : x + 2] = 3
    for frame in blocker:
        masks[frame][:, 1:8] = 8
    found = detections_from_masks(masks.items(), SPACING)
    parent = np.full(len(found.frame), -1)
    cell = np.flatnonzero(found.label == 3)
    parent[cell[1:]] = cell[:-1]
    return masks, found, parent


def test_a_missed_cell_is_drawn_on_its_way():
    painted, painter = paint(*gap())
    assert painter.lineage().rows().tolist() == [[1, 0, 4, 0]]
    for frame, x in ((1, 2), (2, 3)):
        np.testing.assert_array_equal(
            np.argwhere(painted[frame]), [(y, a) for y in (1, 2) for a in (x, x + 1)]
        )
    assert painter.cells().frame.tolist() == [0, 1, 2, 3, 4]


def test_without_filling_a_track_ends_at_the_gap():
    painted, painter = paint(*gap(), fill_gaps=False)
    assert painter.lineage().rows().tolist() == [[1, 0, 0, 0], [2, 3, 4, 0]]
    assert not painted[1].any()


@pytest.mark.parametrize(("blocked", "last"), [(1, 0), (2, 1)])
def test_a_track_ends_where_others_leave_no_room_for_it(blocked, last):
    painted, painter = paint(*gap(blocker=(blocked,)))
    rows = painter.lineage().rows().tolist()
    assert [rows[0], rows[2]] == [[1, 0, last, 0], [3, 3, 4, 0]]
    assert set(np.unique(painted[blocked])) == {0, rows[1][0]}


def test_daughters_keep_their_mother_when_her_track_is_split():
    masks, found, parent = gap(blocker=(1,))
    masks[5] = np.zeros((4, 9), np.uint16)
    masks[5][1, 4], masks[5][1, 6] = 1, 2
    found = detections_from_masks(masks.items(), SPACING)
    mother = np.flatnonzero((found.frame == 4) & (found.label == 3))[0]
    painted, painter = paint(masks, found, np.concatenate([parent, [mother, mother]]))
    rows = {row[0]: row for row in painter.lineage().rows().tolist()}
    last = [row for row in rows.values() if row[1] == 5]
    assert {rows[row[3]][1] for row in last} == {3}
    assert set(np.unique(painted[5])) == {0, *(row[0] for row in last)}


def test_a_link_over_a_frame_that_the_movie_lacks_is_a_parent_link():
    _, painter = paint(*gap(frames=(0, 1, 3, 4)))
    assert painter.lineage().rows().tolist() == [[1, 0, 0, 0], [2, 3, 4, 1]]


def division(first: int, second: int, blocker: tuple[int, ...] = ()):
    """A cell of frame 0 divides; one daughter is seen from frame `first` on, the other from `second` on, up to 5."""
    masks = {frame: np.zeros((6, 20), np.uint16) for frame in range(6)}
    masks[0][1:5, 8:12] = 1
    for frame in range(1, 6):
        masks[frame][1:5, 5:8] = 2 * (frame >= first)
        masks[frame][1:5, 12:15] = 3 * (frame >= second)
    for frame in blocker:
        masks[frame][:, 8:] = 4
    found = detections_from_masks(masks.items(), SPACING)
    parent = np.full(len(found.frame), -1)
    for label in (2, 3):
        cell = np.flatnonzero(found.label == label)
        parent[cell[0]], parent[cell[1:]] = 0, cell[:-1]
    return masks, found, parent


def test_a_daughter_is_drawn_from_birth_on():
    painted, painter = paint(*division(1, 3))
    assert painter.lineage().rows().tolist() == [[1, 0, 0, 0], [2, 1, 5, 1], [3, 1, 5, 1]]
    for frame, x in ((1, 10), (2, 11)):  # 2/3 and 5/6 of 3.5 voxels, as large as her mother
        np.testing.assert_array_equal(np.unique(np.nonzero(painted[frame] == 3)[1]), range(x, x + 4))
    assert painter.cells().frame.tolist() == [0, *(frame for frame in range(1, 6) for _ in range(2))]


@pytest.mark.parametrize(("blocker", "begin", "mother"), [((1,), 3, 1), ((2,), 3, 0), ((), 1, 1)])
def test_a_daughter_without_room_begins_behind_the_gap(blocker, begin, mother):
    _, painter = paint(*division(1, 3, blocker))
    rows = [row for row in painter.lineage().rows().tolist() if row[2] == 5 and row[1:] != [1, 5, 1]]
    assert [1, 0, 0, 0] in painter.lineage().rows().tolist()
    assert rows == ([[rows[0][0], begin, 5, mother]] if blocker else [])


@pytest.mark.parametrize("fill_gaps", [True, False])
def test_daughters_that_both_skip_frames_keep_parent_links(fill_gaps):
    painted, painter = paint(*division(2, 3), fill_gaps=fill_gaps)
    assert painter.lineage().rows().tolist() == [[1, 0, 0, 0], [2, 2, 5, 1], [3, 3, 5, 1]]
    assert not painted[1].any()
    _, painter = paint(*division(1, 3), fill_gaps=False)
    assert painter.lineage().rows().tolist() == [[1, 0, 0, 0], [2, 1, 5, 1], [3, 3, 5, 1]]


@pytest.mark.parametrize("missed", [1, 2])
def test_drawing_daughters_from_birth_on_costs_less_than_leaving_them_out(missed):
    """AOGM of a movie in which one daughter of each division is missed after her birth, drawn and not."""
    movie = make_movie(SyntheticSpec(frames=16, shape=(128, 128), cells=10, cell_cycle_frames=6), 0)
    families: dict[int, list[int]] = {}
    for label, begin, end, parent in movie.lineage.rows().tolist():
        if parent and end > begin + missed:
            families.setdefault(parent, []).append(label)
    begin = dict(zip(movie.lineage.label.tolist(), movie.lineage.begin.tolist(), strict=True))
    late = [daughters[0] for daughters in families.values() if len(daughters) == 2]
    assert len(late) > 5
    truth = dict(enumerate(movie.labels))
    seen = {
        frame: np.where(np.isin(mask, [one for one in late if frame - begin[one] in range(missed)]), 0, mask)
        for frame, mask in truth.items()
    }
    found = detections_from_masks(seen.items(), SPACING)
    parent = true_parents(found, found.label, movie.lineage)
    costs = []
    for fill_gaps in (True, False):
        painted, painter = paint(seen, found, parent, fill_gaps=fill_gaps)
        overlaps = [overlap(truth[frame], painted[frame], frame) for frame in truth]
        costs.append(ctc_measures(overlaps, movie.lineage, painter.lineage(), None)["AOGM"])
    drawn, left_out = costs
    # Each misses cells at 10, links at 1.5, and has a link too many at 1.
    assert left_out == len(late) * (10 * missed + 1.5 * (missed + 1) + 1)
    assert drawn < 0.1 * left_out


def test_nothing_is_drawn_for_a_track_that_is_too_short():
    masks = {frame: np.zeros((1, 6, 6), np.uint16) for frame in range(5)}
    for frame in (0, 2, 4):
        masks[frame][0, 1:3, 1:3] = 1
    found = detections_from_masks(masks.items(), SPACING)
    painted, painter = paint(masks, found, np.array([-1, 0, 1]), min_length=6)
    assert not any(mask.any() for mask in painted.values())
    assert len(painter.lineage().label) == len(painter.cells().frame) == 0
    painted, painter = paint(masks, found, np.array([-1, 0, 1]), min_length=5)
    assert painter.lineage().rows().tolist() == [[1, 0, 4, 0]]
    assert all(mask.any() for mask in painted.values())


def test_short_tracks_without_relatives_are_left_out():
    masks = {frame: np.array([[1, 0, 2, 0, 0]], np.uint16) for frame in range(3)}
    masks[1] = np.array([[1, 0, 2, 0, 7]], np.uint16)
    found = detections_from_masks(masks.items(), SPACING)
    parent = np.array([-1, -1, 0, 1, -1, 2, 3])
    painted, painter = paint(masks, found, parent, min_length=2)
    assert painter.lineage().rows().tolist() == [[1, 0, 2, 0], [2, 0, 2, 0]]
    assert painted[1].tolist() == [[1, 0, 2, 0, 0]]


def test_a_movie_without_cells():
    masks = {frame: np.zeros((3, 3), np.uint16) for frame in range(2)}
    painted, painter = paint(masks, detections_from_masks(masks.items(), SPACING), np.zeros(0, np.int64))
    assert painter.lineage().rows().shape == (0, 4)
    assert not any(mask.any() for mask in painted.values())
