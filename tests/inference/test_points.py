"""Points stay between pixels from the network to the result, and their steps tell cells apart that pass each other."""

import csv
import functools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.inference import points, track
from celltrack_jax.inference.mask_folder import MaskFolder
from celltrack_jax.inference.points import Points
from celltrack_jax.io import ctc, point_table
from celltrack_jax.representations.heatmap import draw_balls
from celltrack_jax.tracking import cells, links
from celltrack_jax.tracking.links import HUNGARIAN

SPACING = np.array([2.0, 0.5, 0.25])
DRAWING = track.Drawing(fill_gaps=True, min_length=1)


def some_points(count: int, seed: int, ndim: int = 2, stepped: bool = True) -> Points:
    """Points in frames of 40 pixels, from the highest heat down."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(0, 39, (count, ndim)).astype(np.float32)
    heat = np.sort(rng.random(count).astype(np.float32))[::-1]
    return Points(position, heat, rng.normal(0, 3, (count, ndim)).astype(np.float32) if stepped else None)


def drawn(found: Points) -> np.ndarray:
    """Their mask."""
    ndim = found.position.shape[1]
    return draw_balls(found.position, (40,) * ndim, np.ones(ndim), 3.0)


def tracked(movie: dict[int, Points], output: Path, linker: track.Linker, known: bool = True) -> list[dict]:
    """Tracks the points of a movie; returns the rows of points.csv."""
    masks = track.Masks(
        list(movie), lambda frame: drawn(movie[frame]), SPACING, known, 3, points=movie.__getitem__
    )
    track.track_movie(masks, linker, DRAWING, output, None, lambda what, frames: frames)
    return list(csv.DictReader((output / points.TABLE_NAME).open()))


def by_hungarian(steps: bool = False, **changes) -> track.Linker:
    """Links cells of 10 µm."""
    chosen = dict(HUNGARIAN) | {"diameter_um": 10.0} | changes
    return track.by_assignment(functools.partial(links.hungarian, **chosen), steps=steps)


@given(st.integers(0, 12), st.integers(0, 999), st.sampled_from([2, 3]), st.booleans())
@settings(max_examples=15, deadline=None)
def test_cells_lie_where_their_points_do(count, seed, ndim, stepped):
    found = some_points(count, seed, ndim, stepped)
    measured = cells.measure_cells([(4, drawn(found), None)], SPACING)
    moved, step_um = points.placed(measured, lambda frame: {4: found}[frame])
    place = moved.detections.label - 1
    scale = SPACING[3 - ndim :]
    expected = np.zeros((len(place), 3))
    expected[:, 3 - ndim :] = found.position[place] * scale
    np.testing.assert_allclose(moved.detections.position_um, expected, rtol=1e-6)
    np.testing.assert_array_equal(moved.detections.volume_um, measured.detections.volume_um)
    if stepped and count:
        assert found.step is not None
        assert step_um is not None
        expected[:, 3 - ndim :] = found.step[place] * scale
        np.testing.assert_allclose(step_um, expected, rtol=1e-6)
    else:
        assert step_um is None


def test_the_table_has_every_point_between_pixels(tmp_path):
    movie = {frame: some_points(5, frame, stepped=frame != 9) for frame in (8, 9)}
    rows = tracked(movie, tmp_path / "01_RES", by_hungarian())
    assert tuple(rows[0]) == point_table.COLUMNS
    assert [int(row["frame"]) for row in rows] == [8] * 5 + [9] * 5
    for row, (frame, k) in zip(rows, [(frame, k) for frame in movie for k in range(5)], strict=True):
        found = movie[frame]
        for column, axis, scale in (("y", 0, 0.5), ("x", 1, 0.25)):
            assert float(row[f"{column}_voxel"]) == pytest.approx(found.position[k, axis], rel=1e-6)
            assert float(row[f"{column}_um"]) == pytest.approx(found.position[k, axis] * scale, rel=1e-6)
            if found.step is None:
                assert row[f"{column}_step_voxel"] == row[f"{column}_step_um"] == ""
            else:
                assert float(row[f"{column}_step_voxel"]) == pytest.approx(found.step[k, axis], rel=1e-6)
        assert float(row["z_voxel"]) == 0
        assert float(row["heat"]) == pytest.approx(found.heat[k], rel=1e-6)
    files, _ = ctc.read_result(tmp_path / "01_RES")
    for row in rows:
        # The mask's pixel under a point is of its track, unless another point lies nearer.
        frame, y, x = (int(row["frame"]), float(row["y_voxel"]), float(row["x_voxel"]))
        mask = ctc.read_image(files[frame])
        near = sorted(
            np.hypot(float(one["y_voxel"]) - y, float(one["x_voxel"]) - x)
            for one in rows
            if int(one["frame"]) == frame
        )
        assert near[1] > 2 or len(near) == 1
        assert mask[round(y), round(x)] == int(row["track_id"]) > 0

    unknown = tracked(movie, tmp_path / "02_RES", by_hungarian(), known=False)
    assert {row["y_um"] for row in unknown} == {""}
    assert [row["y_voxel"] for row in unknown] == [row["y_voxel"] for row in rows]


def test_a_result_without_points_has_no_table(tmp_path):
    movie = {0: some_points(3, 0)}
    tracked(movie, tmp_path / "01_RES", by_hungarian())
    masks = track.Masks([0], lambda frame: drawn(movie[frame]), SPACING, True, 3)
    track.track_movie(masks, by_hungarian(), DRAWING, tmp_path / "01_RES", None, lambda what, frames: frames)
    assert not (tmp_path / "01_RES" / points.TABLE_NAME).exists()


def test_a_movie_without_cells_has_an_empty_table(tmp_path):
    assert (
        tracked({0: some_points(0, 0), 1: some_points(0, 1)}, tmp_path / "01_RES", by_hungarian(True)) == []
    )


def test_steps_tell_cells_apart_that_pass_each_other(tmp_path):
    # In columns of 0.25 µm: they jump over each other, and end 8 and 4 pixels from where the other one was.
    there = Points(np.array([[20, 4], [20, 20]], "f4"), np.ones(2, "f4"), np.array([[0, 24], [0, -12]], "f4"))
    after = Points(np.array([[20, 28], [20, 8]], "f4"), np.ones(2, "f4"), np.zeros((2, 2), "f4"))
    movie = {0: there, 1: after}

    def tracks(name: str, linker: track.Linker) -> list[str]:
        return [row["track_id"] for row in tracked(movie, tmp_path / name, linker)]

    one, two, at_28, at_8 = tracks("steps", by_hungarian(steps=True))
    assert (at_28, at_8) == (one, two)
    one, two, at_28, at_8 = tracks("stay", by_hungarian())
    assert (at_28, at_8) == (two, one)


def test_points_are_kept_beside_masks(tmp_path):
    found = some_points(4, 0)
    folder = MaskFolder(tmp_path, {}, pointed=True)
    folder.write(3, drawn(found), found)
    again = MaskFolder(tmp_path, {}, pointed=True)
    assert again.has(3, 0)
    for one, two in zip(again.read_points(3), found, strict=True):
        np.testing.assert_array_equal(one, two)
    folder.write(4, drawn(found), found._replace(step=None))
    assert again.read_points(4).step is None

    folder.points_path(3).unlink()
    assert not again.has(3, 0)  # a mask alone is not enough
    assert MaskFolder(tmp_path, {}).has(3, 0)
    assert not MaskFolder(tmp_path, {"other": 1}, pointed=True).points_path(4).exists()
