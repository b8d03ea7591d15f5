"""What was found, missed and false, drawn and listed."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.inference.match_volumes import (
    FALSE,
    FOUND,
    MISSED,
    TABLE_NAME,
    MatchedFrame,
    match_volume,
    write,
)
from celltrack_jax.io import tif
from celltrack_jax.metrics.localisation import error_measures
from celltrack_jax.metrics.points import match

SHAPE, SPACING = (8, 24, 24), np.array([0.3, 0.13, 0.13])


def movie(seed, shape=SHAPE, frames=2):
    """Found points near most of the cells, and some anywhere."""
    rng = np.random.default_rng(seed)
    size = np.array(shape)
    made = []
    for t in range(frames):
        truth = rng.uniform(0, size - 1, (rng.integers(0, 6), len(shape)))
        near = truth[rng.random(len(truth)) < 0.7]
        found = [near + rng.normal(0, 0.5, near.shape), rng.uniform(0, size - 1, (2, len(shape)))]
        label = rng.permutation(90)[: len(truth)]
        made.append(MatchedFrame(t, label, truth, np.clip(np.concatenate(found), 0, size - 1)))
    return made


def rows_of(folder):
    with (folder / TABLE_NAME).open(newline="") as file:
        return list(csv.DictReader(file))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), ball_radius=st.sampled_from([0.0, 0.3, 0.6]))
def test_each_voxel_is_of_the_nearest_point_that_reaches_it(seed, ball_radius):
    (one,) = movie(seed, frames=1)
    matched = match(one.truth * SPACING, one.found * SPACING, 0.5)
    volume = match_volume(one.truth, one.found, matched, SHAPE, SPACING, ball_radius)
    kind = [FOUND if i in matched.ref else MISSED for i in range(len(one.truth))]
    false = [point for j, point in enumerate(one.found) if j not in matched.found]
    kind += [FALSE] * len(false)
    points = np.array([*one.truth, *false]).reshape(-1, 3)
    voxels = np.moveaxis(np.indices(SHAPE), 0, -1)[..., None, :]
    far = np.linalg.norm((points - voxels) * SPACING, axis=-1)
    reach = np.where((far <= ball_radius) | (np.rint(points) == voxels).all(-1), far, np.inf)
    expected = np.where(np.isfinite(reach).any(-1), np.array(kind)[reach.argmin(-1)], 0)
    np.testing.assert_array_equal(volume, expected)


def test_a_frame_worked_out_by_hand(tmp_path):
    truth = np.array([[2.0, 5, 5], [6, 18, 18]])
    found = np.array([[4.0, 12, 12], [3, 5, 8]])
    one = MatchedFrame(7, np.array([31, 40]), truth, found)
    write(tmp_path, [one], SHAPE, SPACING, radius=0.6, ball_radius=0.0)
    volume = tif.read_tif(tmp_path / "match007.tif")
    assert {tuple(voxel): int(volume[tuple(voxel)]) for voxel in np.argwhere(volume)} == {
        (2, 5, 5): FOUND,
        (6, 18, 18): MISSED,
        (4, 12, 12): FALSE,
    }
    matched, missed, false = rows_of(tmp_path)
    assert (matched["frame"], matched["kind"], matched["label"], matched["point"]) == (
        "7",
        "found",
        "31",
        "1",
    )
    assert float(matched["distance"]) == pytest.approx(np.hypot(0.3, 0.39), rel=1e-5)
    assert (matched["distance_z"], matched["distance_xy"], matched["x_found"]) == ("0.3", "0.39", "8")
    assert (missed["kind"], missed["label"], missed["point"], missed["distance"]) == ("missed", "40", "", "")
    assert (false["kind"], false["label"], false["point"], false["x"], false["x_found"]) == (
        *("false", "", "0"),
        *("", "12"),
    )


@pytest.mark.parametrize(("shape", "pixel"), [(SHAPE, SPACING), ((20, 30), np.ones(2))])
def test_the_table_tells_what_the_measures_do(tmp_path, shape, pixel):
    frames = movie(3, shape, frames=4)
    radius = 8 * float(pixel[-1])
    write(tmp_path, frames, shape, pixel, radius=radius, ball_radius=radius / 2)
    rows = rows_of(tmp_path)
    kinds = [row["kind"] for row in rows]
    assert kinds.count("found") + kinds.count("missed") == sum(len(one.truth) for one in frames)
    assert kinds.count("found") + kinds.count("false") == sum(len(one.found) for one in frames)
    expected = error_measures([(one.truth * pixel, one.found * pixel) for one in frames], (radius,))
    found = [row for row in rows if row["kind"] == "found"]
    for name, column in (("median", "distance"), ("z", "distance_z"), ("xy", "distance_xy")):
        if f"error_{name}_{radius:g}" in expected:
            median = np.median([float(row[column]) for row in found])
            assert median == pytest.approx(expected[f"error_{name}_{radius:g}"], rel=1e-4)
    for one in frames:
        volume = tif.read_tif(tmp_path / f"match{one.frame:03d}.tif")
        assert (volume.shape, volume.dtype) == (shape, np.uint8)


def test_a_frame_without_points_is_empty(tmp_path):
    none = np.zeros((0, 3))
    one = MatchedFrame(0, np.zeros(0, int), none, none)
    write(tmp_path, [one], SHAPE, SPACING, radius=0.5, ball_radius=0.3)
    assert not tif.read_tif(tmp_path / "match000.tif").any()
    assert rows_of(tmp_path) == []


def test_a_folder_that_refuses_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match=r"taken.*check the path.*then score again"):
        write(tmp_path / "taken" / "here", movie(0), SHAPE, SPACING, radius=0.5, ball_radius=0.3)
