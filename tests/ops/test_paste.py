"""Masks in the image, against a plain twin."""

import functools

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops import paste, roi_align
from tests.ops import box_twins as twins
from tests.ops.test_boxes import BAD, random_boxes
from tests.representations.cells import touching_cells

SIZE = (20, 26)
soft_masks = jax.jit(paste.soft_masks, static_argnums=2)
mask_targets = jax.jit(roi_align.mask_targets, static_argnames=("size", "samples"))
paint = jax.jit(paste.paint, static_argnums=5)


def test_soft_masks_are_those_of_the_twin():
    boxes = np.concatenate([random_boxes(0, 8, 18.0), BAD])
    masks = np.random.default_rng(0).random((len(boxes), 7, 7)).astype(np.float32)
    expected = [twins.soft_mask(mask, box, SIZE) for mask, box in zip(masks, boxes, strict=True)]
    np.testing.assert_allclose(soft_masks(masks, boxes, SIZE), expected, atol=1e-4)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_cells_are_painted_as_the_twin_paints_them(seed):
    rng = np.random.default_rng(seed)
    count = 40  # more than a chunk
    boxes = random_boxes(seed, count, 20.0)
    masks = rng.random((count, 5, 5)).astype(np.float32)
    thresholds = rng.uniform(0.2, 0.8, count).astype(np.float32)
    areas = np.stack([rng.uniform(0, 10, count), rng.uniform(20, 100, count)], 1).astype(np.float32)
    valid = rng.random(count) < 0.7
    painted, sums = paint(masks, boxes, thresholds, areas, valid, SIZE)
    expected = twins.paint(masks, boxes, thresholds, areas, valid, SIZE)
    # A sum that falls on a limit, or a pixel on its threshold, would be a rare case.
    assert (np.asarray(painted) == expected).mean() > 0.999
    last = np.flatnonzero(valid)[-1]
    soft = [twins.soft_mask(mask, box, SIZE).sum() for mask, box in zip(masks, boxes, strict=True)]
    np.testing.assert_allclose(sums[:last], soft[:last], rtol=1e-3, atol=1e-3)


def test_the_first_of_two_keeps_its_pixels_and_what_is_too_large_hides_nothing():
    boxes = np.array([[0, 0, 20, 26], [2, 2, 10, 10], [6, 6, 14, 14]], np.float32)
    masks = np.ones((3, 4, 4), np.float32)
    areas = np.array([[0, 100]] * 3, np.float32)
    painted, _ = paint(masks, boxes, np.full(3, 0.5, np.float32), areas, np.ones(3, bool), SIZE)
    expected = np.zeros(SIZE, int)
    expected[6:14, 6:14], expected[2:10, 2:10] = 3, 2
    np.testing.assert_array_equal(painted, expected)


def test_masks_of_a_label_map_paint_the_map_again():
    labels = touching_cells((60, 70), (1, 1), 7.0, seed=2)
    count = int(labels.max())
    boxes = twins.label_boxes(labels, count).astype(np.float32)
    targets, _ = mask_targets(labels, np.arange(1, count + 1), boxes, size=28, samples=2)
    areas = np.tile(np.array([[0, 1e6]], np.float32), (count, 1))
    painted, _ = paint(
        targets, boxes, np.full(count, 0.5, np.float32), areas, np.ones(count, bool), labels.shape
    )
    assert (np.asarray(painted) == labels).mean() > 0.995


def test_one_program_serves_any_number_of_cells():
    painter = jax.jit(functools.partial(paste.paint, size=SIZE))
    boxes, masks = random_boxes(0, 50, 20.0), np.ones((50, 4, 4), np.float32)
    areas = np.tile(np.array([[0, 1e6]], np.float32), (50, 1))
    for real in (0, 1, 33, 50):
        painted, _ = painter(masks, boxes, np.full(50, 0.5, np.float32), areas, np.arange(50) < real)
        assert (np.asarray(painted).max() > 0) == (real > 0)
    assert painter._cache_size() == 1
