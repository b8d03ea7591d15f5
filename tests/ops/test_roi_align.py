"""What lies in boxes, against a plain twin, ramps, and crops of single masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.ops import boxes, roi_align
from tests.ops import box_twins as twins
from tests.ops.test_boxes import BAD, random_boxes
from tests.representations.cells import touching_cells

STRIDES = (2, 4, 8)
mask_targets = jax.jit(roi_align.mask_targets, static_argnames=("size", "samples"))
level_of = jax.jit(roi_align.level_of, static_argnums=(1, 2))
WAYS = {"products": roi_align.align_by_products, "gathers": roi_align.align_by_gathers}
every_way = pytest.mark.parametrize("way", WAYS)


def random_pyramid(seed, channels=3, size=(32, 40)):
    rng = np.random.default_rng(seed)
    return tuple(
        rng.normal(size=(size[0] // stride, size[1] // stride, channels)).astype(np.float32)
        for stride in STRIDES
    )


def aligned(way, pyramid, given, *, size=3, samples=2, finest_px=10.0):
    return _aligned(pyramid, given, way, size, samples, finest_px)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _aligned(pyramid, given, way, size, samples, finest_px):
    level = roi_align.level_of(given, finest_px, len(pyramid))
    real = boxes.areas(given) > 0
    inside, own = jnp.where(real[:, None], given, 0), jnp.where(real, level, -1)
    return WAYS[way](pyramid, inside, own, strides=STRIDES, size=size, samples=samples)


@every_way
@pytest.mark.parametrize("samples", [1, 2])
def test_each_way_is_the_twin_at_every_level(way, samples):
    pyramid = random_pyramid(0)
    given = np.concatenate([random_boxes(0, 12, 24.0), random_boxes(1, 6, 10.0), BAD])
    given[:4] *= 3
    levels = np.asarray(level_of(given, 10.0, 3))
    assert set(levels.tolist()) == {0, 1, 2}
    found = aligned(way, pyramid, given, samples=samples)
    expected = [twins.align(pyramid, box, STRIDES, 3, samples, 10.0) for box in given]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not np.asarray(found)[-len(BAD) :].any()


@every_way
def test_ramps_are_exact(way):
    """Half a pixel off, or samples at corners, would show."""
    rows, columns = (
        [((np.arange(count // stride) + 0.5) * stride).astype(np.float32) for stride in STRIDES]
        for count in (48, 64)
    )
    pyramid = tuple(
        np.stack(np.meshgrid(y, x, indexing="ij"), -1) for y, x in zip(rows, columns, strict=True)
    )
    given = np.array([[9, 11, 14.5, 18.25], [6, 5, 21, 30], [5, 5, 42, 55]], np.float32)
    found = np.asarray(aligned(way, pyramid, given, size=4, samples=2))
    for box, made in zip(given, found, strict=True):
        for axis in (0, 1):
            step = (np.arange(4) + 0.5) / 4
            expected = box[axis] + step * (box[axis + 2] - box[axis])
            along = made[..., axis] if axis == 0 else made[..., axis].T
            np.testing.assert_allclose(along, np.broadcast_to(expected[:, None], (4, 4)), atol=1e-4)


def test_both_ways_have_the_same_gradients():
    pyramid, given = random_pyramid(2), random_boxes(3, 9, 24.0) * np.array([[1]] * 5 + [[3]] * 4)
    weights = np.random.default_rng(4).normal(size=(9, 3, 3, 3)).astype(np.float32)

    def gradients(way):
        return jax.jit(jax.grad(lambda pyramid: (aligned(way, pyramid, given) * weights).sum()))(pyramid)

    for one, other in zip(gradients("products"), gradients("gathers"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
        assert np.abs(one).max() > 0.1


def test_the_level_of_a_box_grows_with_each_doubling_of_its_side():
    side = np.array([1, 55, 57, 111, 113, 225, 2000], np.float32)
    given = np.stack([np.zeros(7), np.zeros(7), side, side], 1).astype(np.float32)
    np.testing.assert_array_equal(level_of(given, 56.0, 4), [0, 0, 1, 1, 2, 3, 3])
    np.testing.assert_array_equal(level_of(BAD, 56.0, 4), 0)


def test_it_maps_over_a_batch():
    pyramids = [random_pyramid(seed) for seed in (5, 6)]
    given = np.stack([random_boxes(7, 5, 24.0), random_boxes(8, 5, 24.0)])
    align = functools.partial(roi_align.roi_align, strides=STRIDES, size=3, samples=2, finest_px=10.0)
    alone = jax.jit(align)
    together = jax.jit(jax.vmap(align))(
        tuple(np.stack(level) for level in zip(*pyramids, strict=True)), given
    )
    for k in (0, 1):
        np.testing.assert_allclose(together[k], alone(pyramids[k], given[k]), atol=1e-5)


def test_mask_targets_are_crops_of_the_cell_s_own_mask():
    labels = touching_cells((40, 52), (1, 1), 7.0, seed=1)
    count = int(labels.max())
    ids = np.arange(1, count + 1)
    own = twins.label_boxes(labels, count).astype(np.float32)
    size = 14
    targets, known = jax.jit(functools.partial(roi_align.mask_targets, size=size, samples=2))(
        labels, ids, own
    )
    assert (np.asarray(known) == 1).all()
    for cell, box, target in zip(ids, own.astype(int), np.asarray(targets), strict=True):
        crop = labels[box[0] : box[2], box[1] : box[3]] == cell
        steps = [(np.arange(2 * size) + 0.5) / (2 * size) * side for side in crop.shape]
        sampled = crop[np.ix_(*(step.astype(int) for step in steps))]
        expected = sampled.reshape(size, 2, size, 2).mean((1, 3))
        np.testing.assert_array_equal(target, expected)


def test_mask_targets_know_what_is_unknown_and_outside():
    labels = np.zeros((8, 8), np.int32)
    labels[2:6, 2:4], labels[2:6, 4:6] = 1, -1
    given = np.array([[2, 2, 6, 6], [-4, -4, 4, 4], [2, 2, 6, 6]], np.float32)
    targets, known = mask_targets(labels, np.array([1, 1, 0]), given, size=4, samples=2)
    np.testing.assert_array_equal(targets[0], np.repeat([[1, 1, 0, 0]], 4, 0))
    np.testing.assert_array_equal(known[0], np.repeat([[1, 1, 0, 0]], 4, 0))
    np.testing.assert_array_equal(known[1], np.kron([[0, 0], [0, 1]], np.ones((2, 2))))
    assert not np.asarray(targets)[2].any(), "id 0 is no cell"
