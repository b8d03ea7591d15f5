"""Pictures of frames and outlines of cells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from celltrack_jax.lineage import Lineage
from celltrack_jax.report.overlay import grey, outlines, overlay, shadows, simplified
from celltrack_jax.report.palette import TRACK_COLOURS, colour_index, rgb

masks = hnp.arrays(np.uint16, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3))


def luminance(colour: np.ndarray) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = np.where(colour <= 10, colour / 255 / 12.92, ((colour / 255 + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(first: str, second: str) -> float:
    low, high = sorted(luminance(rgb(colour).astype(float)) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def distance_to_ring(points: np.ndarray, ring: np.ndarray) -> np.ndarray:
    start, edge = ring, np.roll(ring, -1, axis=0) - ring
    arm = points[:, None] - start[None]
    along = np.sum(arm * edge, axis=-1) / np.maximum(np.sum(edge**2, axis=-1), 1e-12)
    nearest = start + np.clip(along, 0, 1)[..., None] * edge
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)


def test_grey_stretches_to_black_and_white():
    image = np.arange(10_000, dtype=np.uint16).reshape(100, 100) + 30_000
    picture = grey(image)
    assert picture.dtype == np.uint8
    assert picture.min() == 0
    assert picture.max() == 255
    assert np.all(np.diff(picture.ravel().astype(int)) >= 0)


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_grey_of_a_constant_image_is_black(value):
    assert not grey(np.full((4, 5), value, np.float32)).any()


def test_grey_of_a_volume_is_its_maximum_projection():
    volume = np.random.default_rng(0).normal(size=(3, 8, 9))
    np.testing.assert_array_equal(grey(volume), grey(volume.max(axis=0)))


@pytest.mark.parametrize(
    ("shape", "expected"), [((100, 300), (33, 100)), ((50, 40), (50, 40)), ((1, 900), (1, 100))]
)
def test_grey_fits_into_the_longest_side(shape, expected):
    assert grey(np.zeros(shape), longest=100).shape == expected


@given(masks)
def test_shadows_are_the_cells(labels):
    drawn = np.zeros_like(labels)
    for label, (top, left), mask in shadows(labels):
        drawn[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = label
    np.testing.assert_array_equal(drawn, labels)


def test_shadows_of_a_volume_may_overlap():
    labels = np.zeros((2, 4, 6), np.uint32)
    labels[0, :, :4] = 70_000
    labels[1, :, 2:] = 5
    found = {shadow.label: shadow for shadow in shadows(labels)}
    assert list(found) == [5, 70_000]
    assert found[5].mask.shape == found[70_000].mask.shape == (4, 4)
    assert found[5].corner == (0, 2)


@settings(max_examples=50, deadline=None)
@given(masks, st.sampled_from([0.5, 1.0, 3.0]))
def test_exact_outlines_enclose_what_the_cell_covers(labels, scale):
    cells = list(shadows(labels))
    for cell, rings in zip(cells, outlines(cells, scale, tolerance=0.0, smooth=False), strict=True):
        # Through the middles of pixel edges, each convex corner loses an eighth of a pixel and each concave
        # one gains it; holes turn the other way.
        enclosed = abs(sum(area(ring) for ring in rings)) / scale**2
        corners = np.pad(cell.mask, 1).astype(int)
        blocks = corners[:-1, :-1] + corners[1:, :-1] + corners[:-1, 1:] + corners[1:, 1:]
        diagonal = (blocks == 2) & (corners[:-1, :-1] == corners[1:, 1:])
        expected = cell.mask.sum() + ((blocks == 3).sum() - (blocks == 1).sum() - 2 * diagonal.sum()) / 8
        assert enclosed == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(masks, st.sampled_from([0.2, 0.5, 2.0]))
def test_simplified_outlines_stay_near_the_exact_ones(labels, tolerance):
    cells = list(shadows(np.kron(labels, np.ones((3, 3), np.uint16))))
    exact = [ring for rings in outlines(cells, 1.0, tolerance=0.0, smooth=False) for ring in rings]
    simple = simplified(exact, tolerance)
    assert len(exact) == len(simple)
    for before, after in zip(exact, simple, strict=True):
        assert len(after) >= 4
        assert distance_to_ring(before, after).max() <= tolerance + 1e-6


@pytest.mark.parametrize("radius", [6, 12, 30])
def test_outline_of_a_disc_is_smooth_and_has_few_points(radius):
    y, x = np.mgrid[:64, :64] - 31.5
    cells = list(shadows((y**2 + x**2 < radius**2).astype(np.uint8)))
    [[ring]] = outlines(cells, 1.0, tolerance=0.2, smooth=True)
    # A regular polygon that stays within 0.2 px of the circle needs 2 pi sqrt(radius / 1.6) points.
    assert len(ring) <= 2.5 * 2 * np.pi * np.sqrt(radius / 1.6)
    np.testing.assert_allclose(np.linalg.norm(ring - 32, axis=1), radius, atol=0.5)


def test_single_pixels_keep_their_outline():
    labels = np.eye(5, dtype=np.uint8) * np.arange(1, 6, dtype=np.uint8)
    for [ring] in outlines(list(shadows(labels)), 1.0, tolerance=0.2, smooth=True):
        assert abs(area(ring)) == 0.5


def test_overlay_paints_the_rim_and_nothing_else():
    image = np.random.default_rng(0).normal(size=(20, 20))
    labels = np.zeros((20, 20), np.uint16)
    labels[4:10, 4:10] = 3
    labels[4:10, 10:16] = 8
    picture = overlay(image, labels, {3: np.array([255, 0, 0], np.uint8)})
    inside = np.zeros((20, 20), bool)
    inside[5:9, 5:9] = inside[5:9, 11:15] = True
    rim = (labels > 0) & ~inside
    np.testing.assert_array_equal(picture[rim & (labels == 3)], np.tile([255, 0, 0], (20, 1)))
    np.testing.assert_array_equal(picture[rim & (labels == 8)], np.full((20, 3), 255))
    np.testing.assert_array_equal(picture[~rim], np.repeat(grey(image)[~rim, None], 3, axis=1))


@pytest.mark.parametrize("page", ["#ffffff", "#171c23"])
@pytest.mark.parametrize("colour", TRACK_COLOURS)
def test_track_colours_are_visible_on_both_pages(colour, page):
    assert contrast(colour, page) >= 3


def test_sisters_differ_in_colour():
    lineage = Lineage.from_rows([[1, 0, 3, 0], [2, 4, 9, 1], [3, 4, 9, 1], [4, 0, 9, 0]])
    colour = colour_index(lineage)
    assert len(set(colour.tolist())) == 4
