"""Star-convex shapes against brute force over faces and pixels, closed forms and StarDist."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops import polyhedra
from celltrack_jax.ops.polyhedra import Shapes
from celltrack_jax.ops.star import directions, faces

CASES = {"2d": ((40, 50), (1.0, 0.8), 24), "3d": ((10, 18, 20), (2.0, 0.9, 1.0), 40)}
every_case = pytest.mark.parametrize("case", CASES)


def bumpy(rng, case, count, low=2.0, high=6.0):
    """Shapes whose rays differ from each other, at random pixels, also close to the border."""
    shape, spacing, rays = CASES[case]
    pixel = rng.integers(0, shape, (count, len(shape)))
    size = rng.uniform(low, high, (count, 1))
    return Shapes(pixel, (size * rng.uniform(0.7, 1.3, (count, rays))).astype(np.float32), np.array(spacing))


def inside(shapes, k, place):
    """(M,) bool: which of (M, D) pixels lie in one of the simplices of shape k, by their coordinates in each."""
    axes, rays = shapes.pixel.shape[1], shapes.lengths.shape[1]
    way = (place - shapes.pixel[k]) * shapes.spacing
    corner = (directions(axes, rays) * shapes.lengths[k][:, None])[faces(axes, rays)]
    found = np.zeros(len(place), bool)
    for simplex in corner:
        share = way @ np.linalg.inv(simplex)
        found |= (share >= -1e-6).all(1) & (share.sum(1) <= 1 + 1e-5)
    return found


def pixels(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, len(shape))


@every_case
def test_drawn_pixels_are_those_of_the_simplices_and_the_first_shape_wins(case):
    shape, _, _ = CASES[case]
    shapes = bumpy(np.random.default_rng(0), case, 12)
    expected = np.zeros(int(np.prod(shape)), np.int32)
    for k in reversed(range(12)):
        expected[inside(shapes, k, pixels(shape))] = k + 1
    found = polyhedra.draw(shapes, shape)
    assert found.dtype == np.int32
    assert len(np.unique(found)) > 8
    np.testing.assert_array_equal(found, expected.reshape(shape))


@every_case
def test_drawing_in_parts_changes_nothing(case, monkeypatch):
    shapes = bumpy(np.random.default_rng(1), case, 9)
    whole = polyhedra.draw(shapes, CASES[case][0])
    overlaps = polyhedra.pixel_overlaps(shapes)(*np.triu_indices(9, 1))
    monkeypatch.setattr(polyhedra, "_BYTES", 1)
    np.testing.assert_array_equal(polyhedra.draw(shapes, CASES[case][0]), whole)
    np.testing.assert_array_equal(polyhedra.pixel_overlaps(shapes)(*np.triu_indices(9, 1)), overlaps)


@pytest.mark.parametrize(("case", "size"), [("2d", 1.5), ("2d", 6.0), ("2d", 45.0), ("3d", 1.5), ("3d", 5.0)])
def test_exact_overlaps_are_those_of_sets_of_pixels(case, size):
    rng = np.random.default_rng(int(size))
    shapes = bumpy(rng, case, 6, 0.8 * size, size)
    shapes.pixel[:] = rng.integers(-1, 2, shapes.pixel.shape) * np.rint(0.6 * size).astype(int)
    reach = int(2.2 * size) + 2
    around = pixels((2 * reach,) * shapes.pixel.shape[1]) - reach
    masks = [inside(shapes, k, around) for k in range(6)]
    first, second = (index.reshape(-1) for index in np.indices((6, 6)))
    found = polyhedra.pixel_overlaps(shapes)(first, second)
    pairs = zip(first, second, strict=True)
    expected = [(masks[a] & masks[b]).sum() / min(masks[a].sum(), masks[b].sum()) for a, b in pairs]
    assert len(np.unique(expected)) > 3
    np.testing.assert_allclose(found, expected)


@every_case
def test_overlaps_are_symmetric_shares_and_one_for_the_same(case):
    shapes = bumpy(np.random.default_rng(3), case, 30)
    size, centre = polyhedra.sizes_and_centres(shapes)
    first, second = (index.reshape(-1) for index in np.indices((30, 30)))
    for overlaps in (polyhedra.pixel_overlaps(shapes), polyhedra.ball_overlaps(size, centre)):
        found = overlaps(first, second).reshape(30, 30)
        np.testing.assert_array_equal(found, found.T)
        np.testing.assert_array_equal(np.diag(found), 1)
        assert ((found >= 0) & (found <= 1)).all()


@every_case
def test_sizes_and_centres_are_those_of_the_drawn_pixels(case):
    spacing, rays = np.array(CASES[case][1]), 60
    rng = np.random.default_rng(4)
    away = rng.uniform(-3, 3, (4, len(spacing)))
    ray = directions(len(spacing), rays)
    # Spheres around a place beside the pixel, so that rays differ much and the centre is known.
    along = away @ ray.T
    lengths = along + np.sqrt(along**2 + 81 - (away**2).sum(1)[:, None])
    shapes = Shapes(np.zeros((4, len(spacing)), int) + 15, lengths.astype(np.float32), spacing)
    size, centre = polyhedra.sizes_and_centres(shapes)
    ball = np.pi * 81 if len(spacing) == 2 else 4 / 3 * np.pi * 729
    assert ((size < ball) & (size > 0.85 * ball)).all()
    np.testing.assert_allclose(centre, away, atol=0.25)
    drawn = [inside(shapes, k, pixels((31,) * len(spacing))) for k in range(4)]
    np.testing.assert_allclose(size, [mask.sum() * spacing.prod() for mask in drawn], rtol=0.03)


@settings(max_examples=15, deadline=None)
@given(small=st.floats(0.3, 2), ratio=st.floats(1, 3), apart=st.floats(0, 1))
@pytest.mark.parametrize("axes", [2, 3])
def test_overlaps_of_balls_are_those_of_fine_pixels(axes, small, ratio, apart):
    radius = np.array([small, small * ratio])
    size = np.pi * radius**2 if axes == 2 else 4 / 3 * np.pi * radius**3
    np.testing.assert_allclose(polyhedra.ball_radii(size, axes), radius)
    centre = np.zeros((2, axes))
    centre[1, 0] = apart * 1.1 * radius.sum()
    line = (np.arange(50) + 0.5) / 25 - 1
    place = small * np.stack(np.meshgrid(*[line] * axes, indexing="ij"), -1)
    own = np.linalg.norm(place, axis=-1) <= small
    expected = (np.linalg.norm(place - centre[1], axis=-1)[own] <= radius[1]).mean()
    found = polyhedra.ball_overlaps(size, centre)(np.array([0]), np.array([1]))
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("kind", ["exact", "ball"])
@pytest.mark.parametrize("most", [0.0, 0.3, 0.8])
@every_case
def test_the_first_are_kept_as_one_by_one(case, most, kind, monkeypatch):
    monkeypatch.setattr(polyhedra, "_BLOCK", 16)
    shapes = bumpy(np.random.default_rng(5), case, 150)
    size, centre = polyhedra.sizes_and_centres(shapes)
    position, reach = shapes.pixel * shapes.spacing, shapes.lengths.max(1)
    overlaps = polyhedra.pixel_overlaps(shapes)
    if kind == "ball":
        position, reach = position + centre, polyhedra.ball_radii(size, centre.shape[1])
        overlaps = polyhedra.ball_overlaps(size, position)
    every = overlaps(*(index.reshape(-1) for index in np.indices((150, 150)))).reshape(150, 150)
    expected = []
    for k in range(150):
        if not (every[k, expected] > most).any():
            expected.append(k)
    assert 5 < len(expected) < 149
    np.testing.assert_array_equal(polyhedra.keep_first(position, reach, overlaps, most), expected)


def test_none_are_left_of_none():
    shapes = Shapes(np.zeros((0, 2), int), np.zeros((0, 8), np.float32), np.ones(2))
    assert not polyhedra.draw(shapes, (4, 5)).any()
    size, centre = polyhedra.sizes_and_centres(shapes)
    assert not len(polyhedra.keep_first(centre, size, polyhedra.ball_overlaps(size, centre), 0.5))


def test_drawn_and_kept_as_by_stardist():
    nms = pytest.importorskip("stardist.nms")
    geometry = pytest.importorskip("stardist.geometry")
    rays = pytest.importorskip("stardist.rays3d").Rays_GoldenSpiral(32)
    rng = np.random.default_rng(6)
    shape = (20, 30, 30)
    pixel = rng.integers(4, np.array(shape) - 4, (200, 3))
    lengths = (rng.uniform(2, 5, (200, 1)) * rng.uniform(0.9, 1.1, (200, 32))).astype(np.float32)
    shapes = Shapes(pixel, lengths, np.ones(3))
    kept = polyhedra.keep_first(pixel.astype(float), lengths.max(1), polyhedra.pixel_overlaps(shapes), 0.3)
    probability = np.linspace(1, 0.5, 200).astype(np.float32)
    theirs = nms.non_maximum_suppression_3d_sparse(lengths, probability, pixel, rays, nms_thresh=0.3)[3]
    # StarDist bounds an overlap before it counts pixels; few shapes are that close to the threshold.
    assert len(set(kept) ^ set(theirs.tolist())) <= 0.05 * len(kept)
    one = shapes.take(kept)
    drawn = geometry.polyhedron_to_label(
        one.lengths, one.pixel, rays, shape, prob=probability[kept], verbose=False
    )
    assert np.mean((drawn > 0) != (polyhedra.draw(one, shape) > 0)) < 1e-3
