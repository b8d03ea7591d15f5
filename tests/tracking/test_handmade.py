"""Features of cells against scikit-image and loops, and what the physical ones must not depend on."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from celltrack_jax.tracking.cells import Cells, measure_cells
from celltrack_jax.tracking.handmade import PHYSICAL, ben_haim2022, minmax, physical

SPACING = np.array([2.0, 0.5, 0.25])
DIAMETER = 2.0


def blobs(seed: int, volume: bool = False, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A mask of ellipsoids at least 9 voxels from the border, and an image."""
    rng = np.random.default_rng(seed)
    shape = (30, 40, 44) if volume else (1, 40, 44)
    mask = np.zeros(shape, np.uint16)
    grid = np.indices(shape).reshape(3, -1).T
    for label in rng.permutation(50)[:count] + 1:
        centre = np.array([rng.integers(12, size - 12) if size > 1 else 0 for size in shape])
        inside = (((grid - centre) / rng.uniform(1, 3, 3)) ** 2).sum(1) <= 1
        mask.reshape(-1)[inside] = label
    image = rng.integers(0, 200, shape).astype(np.uint16)
    return (mask, image) if volume else (mask[0], image[0])


def movie(seed: int, volume: bool = False, images: bool = True, frames: tuple[int, ...] = (0, 1, 5)) -> list:
    """Frames of blobs."""
    return [
        (frame, mask, image if images else None)
        for frame, (mask, image) in ((f, blobs(seed + place, volume)) for place, f in enumerate(frames))
    ]


@pytest.mark.parametrize("volume", [False, True])
def test_the_original_features_are_those_of_scikit_image(volume):
    frames = movie(3, volume)
    cells = measure_cells(frames, SPACING)
    expected = []
    for frame, mask, image in frames:
        for region in regionprops(mask, image):
            lengths = [region.axis_major_length, region.axis_minor_length]
            light = [region.intensity_max, region.intensity_mean, region.intensity_min]
            centre = np.rint(np.round(region.centroid, 6))
            expected.append([frame, region.area, *region.bbox, *centre, *lengths, *light])
    found = ben_haim2022(cells, "3d" if volume else "2d")
    assert found.shape == (len(expected), 16 if volume else 13)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    if not volume:
        patch = ben_haim2022(cells, "patch")
        np.testing.assert_array_equal(patch, found[:, [0, 6, 7, 10, 11, 12]])


def test_flat_cells_have_axes_of_length_zero():
    mask = np.zeros((4, 6, 6), np.uint8)
    mask[1, 2, 3] = 1
    mask[2, range(5), range(5)] = 2
    point, line = ben_haim2022(measure_cells([(0, mask, None)], np.ones(3)), "3d")
    assert point[11:13].tolist() == [0, 0]
    assert line[11] == pytest.approx(np.sqrt(20 * 2 * 2))
    assert line[12] == 0
    assert (point[13:] == 0).all()


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 4))
def test_each_column_is_scaled_to_one(seed, nodes, width):
    features = np.random.default_rng(seed).integers(-2, 3, (nodes, width)).astype(np.float64)
    for before, after in zip(features.T, minmax(features).T, strict=True):
        extent = max(before) - min(before)
        expected = [(value - min(before)) / extent if extent else 0 for value in before]
        np.testing.assert_allclose(after, expected)
    assert minmax(features[:0]).shape == (0, width)


def column(features: np.ndarray, name: str) -> np.ndarray:
    """A named column."""
    return features[:, PHYSICAL.index(name)]


def assert_same(one: Cells, two: Cells, diameter: float = DIAMETER) -> None:
    """Compares the physical features of two movies, the second with cells of another diameter."""
    np.testing.assert_allclose(physical(one, DIAMETER), physical(two, diameter), rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 999), st.booleans(), st.booleans())
def test_neither_time_nor_place_nor_the_unit_matters(seed, volume, images):
    frames = movie(seed, volume, images)
    cells = measure_cells(frames, SPACING)
    assert physical(cells, DIAMETER).shape == (len(cells.low), len(PHYSICAL))
    assert_same(cells, measure_cells([(frame + 70, *rest) for frame, *rest in frames], SPACING))
    assert_same(cells, measure_cells(frames, SPACING * 3), DIAMETER * 3)
    margin = [(3, 3), (12, 12), (22, 22)][-frames[0][1].ndim :]
    padded: list[Any] = [tuple(x if np.ndim(x) == 0 else np.pad(x, margin) for x in one) for one in frames]
    moved: list[Any] = [
        tuple(x if np.ndim(x) == 0 else np.roll(x, (3, -4), (-2, -1)) for x in one) for one in padded
    ]
    one, two = (measure_cells(each, SPACING) for each in (padded, moved))
    assert not np.array_equal(one.low, two.low)
    assert_same(one, two)


def test_a_disc_and_a_ball_of_one_diameter_are_the_unit():
    grid = np.indices((41, 41, 41)) - 20.0
    ball = ((grid**2).sum(0) <= 15.0**2).astype(np.uint8)
    for mask in (ball[20], ball):
        one = physical(measure_cells([(0, mask, None)], np.full(3, 0.1)), 3.0)[0]
        np.testing.assert_allclose(one[:4], 0, atol=0.02)
        assert one[3] == 0 or mask.ndim == 3


def test_turned_cells_have_the_same_axes():
    mask, _ = blobs(2, volume=True, count=1)
    isotropic = np.ones(3)
    before = physical(measure_cells([(0, mask, None)], isotropic), 4.0)[:, :4]
    after = physical(measure_cells([(0, mask.transpose(2, 0, 1)[:, ::-1], None)], isotropic), 4.0)[:, :4]
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_borders_and_neighbours_in_diameters():
    mask = np.zeros((20, 60), np.uint8)
    mask[4, 0], mask[4, 8], mask[10, 8], mask[10, 59] = 1, 2, 3, 4
    features = physical(measure_cells([(0, mask, None), (1, mask * (mask == 1), None)], np.full(3, 0.5)), 2.0)
    assert column(features, "touches_border").tolist() == [1, 0, 0, 1, 1]
    assert column(features, "border_distance").tolist() == [0, 1, 2, 0, 0]
    near = features[:, -3:]
    np.testing.assert_allclose(near[1], [1.5, 2, 4], rtol=1e-6)
    np.testing.assert_allclose(near[0], [2, 2.5, 4], rtol=1e-6)
    np.testing.assert_allclose(near[3:], 4)
    assert (column(features, "intensity_known") == 0).all()


def test_intensities_count_from_the_movies_own():
    frames = movie(5)
    brighter = [(frame, mask, 1000 + 3.0 * image) for frame, mask, image in frames]
    cells = measure_cells(frames, SPACING)
    assert_same(cells, measure_cells(brighter, SPACING))
    mean = column(physical(cells, DIAMETER), "intensity_mean")
    assert np.median(mean) == pytest.approx(0, abs=1e-6)
    assert np.ptp(mean) > 1
    partly = measure_cells([frames[0], (1, frames[1][1], None), frames[2]], SPACING)
    features = physical(partly, DIAMETER)
    unknown = partly.detections.frame == 1
    np.testing.assert_array_equal(column(features, "intensity_known"), ~unknown)
    assert (features[unknown, 4:6] == 0).all()
    assert np.isfinite(features).all()


@pytest.mark.parametrize("frames", [[], [(0, np.zeros((3, 3), np.uint8), None)]])
def test_a_movie_without_cells_has_no_features(frames):
    cells = measure_cells(frames, SPACING)
    assert physical(cells, 1.0).shape == (0, len(PHYSICAL))
    assert ben_haim2022(cells, "2d").shape == (0, 13)
    assert ben_haim2022(cells, "3d").shape == (0, 16)


def test_equal_intensities_are_no_spread():
    mask = np.diag([1, 2, 3])
    features = physical(measure_cells([(0, mask, np.full((3, 3), 7.0))], np.ones(3)), 1.0)
    assert (features[:, 4:6] == 0).all()
