"""Assignment against brute force, invariances of the linker, and what it does on real truth."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.io import ctc
from celltrack_jax.lineage import Detections
from celltrack_jax.metrics.ctc import ctc_measures, overlap
from celltrack_jax.tracking import links
from celltrack_jax.tracking.features import detections_from_masks
from celltrack_jax.tracking.links import HUNGARIAN, assign, typical_diameter
from celltrack_jax.tracking.tracks import TrackPainter
from configs.ctc import segment

AREA = np.pi * 25
"""Of a cell of diameter 10."""


def hungarian(detections: Detections, **changes: Any) -> np.ndarray:
    """Links as launch.track does where nothing else is given."""
    return links.hungarian(detections, **(dict(HUNGARIAN) | changes))


def movie(cells, area=AREA) -> Detections:
    """Makes 2D detections of (frame, y, x) or (frame, y, x, area), sorted by frame."""
    rows = sorted((row[0], place, *row[1:]) for place, row in enumerate(cells))
    frame = np.array([row[0] for row in rows], np.int64)
    label = np.array([row[1] + 1 for row in rows], np.int64)
    position = np.array([[0.0, row[2], row[3]] for row in rows]).reshape(-1, 3)
    volume = np.array([row[4] if len(row) > 4 else area for row in rows], np.float64)
    return Detections(frame, label, position, volume)


@pytest.mark.parametrize("argument", segment.ARGUMENTS)
def test_experiments_and_launch_track_link_alike(argument):
    assert segment.get_config(argument).tracking.to_dict() == dict(HUNGARIAN)


@st.composite
def random_movies(draw):
    """Up to five frames of up to six cells each, on a field of 4 x 4 diameters."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames = draw(st.lists(st.integers(0, 7), min_size=1, max_size=5, unique=True))
    cells = [
        (frame, *rng.integers(0, 10_000, 2) / 256) for frame in frames for _ in range(rng.integers(0, 7))
    ]
    return movie(cells)


def best_gain(gain: np.ndarray) -> float:
    """The largest total of any one-to-one choice, by trying all."""
    sources, targets = gain.shape
    if sources > targets:
        return best_gain(gain.T)
    choices = itertools.permutations([*range(targets), *[None] * sources], sources)
    return max(sum(gain[i, j] for i, j in enumerate(choice) if j is not None) for choice in set(choices))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(0, 4), st.floats(0.1, 1), st.integers(0, 2**32 - 1), st.booleans())
def test_the_assignment_gains_as_much_as_brute_force(sources, targets, density, seed, ties):
    rng = np.random.default_rng(seed)
    gain = rng.integers(1, 4, (sources, targets)) * 1.0 if ties else rng.uniform(0.01, 1, (sources, targets))
    gain = np.where(rng.random(gain.shape) < density, gain, 0)
    source, target = np.nonzero(gain)
    chosen = assign(source, target, gain[source, target], gain.shape)
    assert len(set(source[chosen])) == len(set(target[chosen])) == len(chosen)
    np.testing.assert_allclose(
        gain[source[chosen], target[chosen]].sum(), best_gain(gain) if gain.size else 0
    )


@settings(deadline=None)
@given(random_movies(), st.integers(0, 2))
def test_links_keep_the_rules(found, max_gap):
    parent = hungarian(found, max_gap=max_gap)
    linked = np.flatnonzero(parent >= 0)
    step = found.frame[linked] - found.frame[parent[linked]]
    assert ((step >= 1) & (step <= max_gap + 1)).all()
    distance = np.linalg.norm(found.position_um[linked] - found.position_um[parent[linked]], axis=1)
    assert (distance <= 1.3 * typical_diameter(found) * (1 + 1e-9)).all()
    children = np.bincount(parent[linked], minlength=len(parent))
    assert children.max(initial=0) <= 2
    for mother in np.flatnonzero(children == 2):
        assert (found.frame[parent == mother] == found.frame[mother] + 1).all()


def pairs(found: Detections, parent: np.ndarray) -> set:
    """Links as labels, which survive any order of the detections."""
    return {(found.frame[n], found.label[n], found.label[parent[n]]) for n in np.flatnonzero(parent >= 0)}


@settings(deadline=None)
@given(random_movies(), st.integers(0, 999))
def test_the_order_of_labels_does_not_matter(found, seed):
    order = np.random.default_rng(seed).permutation(len(found.frame))
    order = order[np.argsort(found.frame[order], kind="stable")]
    shuffled = Detections(*(column[order] for column in found))
    assert pairs(shuffled, hungarian(shuffled)) == pairs(found, hungarian(found))


@settings(deadline=None)
@given(random_movies(), st.integers(-50, 50), st.integers(-3, 30))
def test_shifts_in_space_and_time_do_not_matter(found, steps, frames):
    shift = np.array([0, 64.0 * steps, 0])
    moved = found._replace(position_um=found.position_um + shift, frame=found.frame + frames)
    np.testing.assert_array_equal(hungarian(moved), hungarian(found))


@settings(deadline=None)
@given(random_movies(), st.sampled_from([0.25, 8.0]))
def test_the_unit_of_length_does_not_matter(found, scale):
    scaled = found._replace(position_um=scale * found.position_um, volume_um=scale**2 * found.volume_um)
    np.testing.assert_array_equal(hungarian(scaled), hungarian(found))


def test_no_cells_and_one_frame_have_no_links():
    assert hungarian(movie([])).shape == (0,)
    assert hungarian(movie([(4, 0, 0), (4, 1, 1)])).tolist() == [-1, -1]


def test_far_cells_are_not_linked():
    found = movie([(0, 0, 0), (1, 0, 11.9), (0, 90, 0), (1, 90, 12.1)])
    assert hungarian(found, diameter_um=10).tolist() == [-1, -1, 0, -1]


def test_two_cells_that_both_moved_are_not_swapped():
    # The second cell now is where the first one was.
    found = movie([(0, 0, 0), (0, 0, 8), (1, 0, -8), (1, 0, 0)])
    assert hungarian(found).tolist() == [-1, -1, 0, 1]


def test_a_cell_missed_for_two_frames_is_found_again_but_not_after_three():
    found = movie([(0, 0, 0), (3, 0, 3), (7, 0, 3)])
    assert hungarian(found, max_gap=2).tolist() == [-1, 0, -1]
    assert hungarian(found, max_gap=1).tolist() == [-1, -1, -1]


def test_a_gap_does_not_take_a_cell_that_is_still_there():
    found = movie([(0, 0, 0), (1, 0, 1), (2, 0, 1), (2, 0, 11)])
    assert hungarian(found, division_distance=0.5).tolist() == [-1, 0, 1, -1]


MOTHER, DAUGHTER = AREA, AREA / 2


@pytest.mark.parametrize(
    ("second", "is_sister"),
    [
        ((1, 0, -6, DAUGHTER), True),
        ((1, 0, -16, DAUGHTER), False),  # too far from the mother
        ((1, 0, -6, DAUGHTER / 4), False),  # too small beside its sister
        ((1, 0, -6, 1.4 * MOTHER), False),  # larger than its mother
        ((2, 0, -9, DAUGHTER), False),  # not at the same time
    ],
)
def test_a_division_has_two_daughters_of_fitting_size_and_place(second, is_sister):
    found = movie([(0, 0, 0, MOTHER), (1, 0, 5, DAUGHTER), second])
    parent = hungarian(found, diameter_um=10, max_gap=0)
    assert parent.tolist() == [-1, 0, 0 if is_sister else -1]


def test_points_of_one_size_take_their_scale_from_their_neighbours():
    points = movie([(0, 0, 0), (0, 0, 60), (1, 0, 3), (1, 0, 63)], area=9.0)
    assert typical_diameter(points) == pytest.approx(36.0)
    cells = points._replace(volume_um=np.array([AREA, AREA, AREA, 2 * AREA]))
    assert typical_diameter(cells) == pytest.approx(10.0)
    ball = cells._replace(position_um=cells.position_um + 1, volume_um=np.full(4, np.pi / 6) * [8, 8, 8, 9])
    assert typical_diameter(ball) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(
    ("name", "least"),
    [("Fluo-N2DH-SIM+", 0.997), ("Fluo-N2DH-GOWT1", 0.997), ("iPSC-02", 0.996)],
)
def test_true_masks_are_linked_almost_right(real_data, name, least):
    sequence = ctc.open_sequence(real_data(name), "01")
    masks = {frame: ctc.read_image(path) for frame, path in sequence.markers.items()}
    found = detections_from_masks(masks.items(), np.ones(3))
    painter = TrackPainter(found, hungarian(found), masks, np.ones(3), fill_gaps=True, min_length=1)
    overlaps = [overlap(mask, painter.paint(frame, mask), frame) for frame, mask in masks.items()]
    measures = ctc_measures(overlaps, sequence.tracks, painter.lineage(), None)
    assert measures["LNK"] is not None
    assert measures["LNK"] > least
