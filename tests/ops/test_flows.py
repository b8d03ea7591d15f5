"""Heat, flows, where they lead and what is read from that, beside plain numpy twins and closed forms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from celltrack_jax.data import augment
from celltrack_jax.ops import flows, heat
from tests.representations.cells import dense, touching_cells

K = 32
MAPS = {
    "2d": touching_cells((48, 40), (1, 1), 7.0, seed=1),
    "3d": touching_cells((10, 24, 20), (2, 1, 1), 6.0, seed=1),
}


@functools.partial(jax.jit, static_argnames="logarithm")
def target(labels, logarithm=False):
    return flows.target_flows(labels, K, logarithm=logarithm)


@jax.jit
def centres(labels):
    return heat.centre_pixels(labels, K)


@jax.jit
def followed(flow, mask, steps):
    return flows.follow(flow, mask, steps=steps)


@functools.partial(jax.jit, static_argnames="count")
def gathered(position, mask, count):
    return flows.gathered(position, mask, count=count)


def neighbours(axes):
    reach = axes if axes == 2 else 1
    return [
        tuple(int(o) - 1 for o in offset)
        for offset in np.ndindex(*(3,) * axes)
        if sum(abs(o - 1) for o in offset) <= reach
    ]


def plain_centre(cell):
    pixel = np.argwhere(cell)
    return tuple(pixel[np.square(pixel - pixel.mean(0)).sum(1).argmin()])


def plain_flows(labels, logarithm=False):
    """Cell by cell, in double precision."""
    axes = labels.ndim
    boxes = ndimage.find_objects(np.maximum(labels, 0))
    flow = np.zeros((*labels.shape, axes))
    for label in np.unique(labels[labels > 0]):
        cell = np.pad(labels == label, 1)
        heat, centre = np.zeros(cell.shape), plain_centre(cell)
        sides = [part.stop - part.start for part in boxes[label - 1]]
        for _ in range(2 * (sum(sides) + 4) if axes == 2 else 6 * (sum(sides) + 3)):
            heat[centre] += 1
            around = [np.roll(heat, offset, range(axes)) for offset in neighbours(axes)]
            heat = np.where(cell, np.mean(around, 0), 0)
        heat = np.log1p(heat) if logarithm else heat
        slope = np.stack([np.roll(heat, -1, axis) - np.roll(heat, 1, axis) for axis in range(axes)], -1)
        steep = np.linalg.norm(slope, axis=-1, keepdims=True)
        # Where heat is even, rounding would say the direction.
        slope = np.where(steep > 2e-5 * heat[..., None], slope / np.maximum(steep, 1e-300), 0)
        inner = (slice(1, -1),) * axes
        flow[labels == label] = slope[inner][labels == label]
    return flow


def degrees(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("logarithm", [False, True])
def test_flows_are_those_of_the_plain_twin(name, logarithm):
    labels = MAPS[name].copy()
    labels[..., 3, 4:9] = -1
    labels = dense(labels)
    flow = np.asarray(target(labels, logarithm=logarithm))
    twin = plain_flows(labels, logarithm)
    cell = labels > 0
    assert not flow[~cell].any()
    sure = cell & (np.linalg.norm(twin, axis=-1) > 0.5)
    assert sure.sum() > 0.99 * cell.sum()
    assert np.quantile(degrees(flow[sure], twin[sure]), 0.999) < 0.5
    np.testing.assert_allclose(np.linalg.norm(flow[sure], axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_centres_are_the_pixels_nearest_to_the_mean(name):
    labels = MAPS[name]
    found = np.asarray(centres(labels))
    for label in range(1, labels.max() + 1):
        pixel = np.argwhere(labels == label)
        square = np.square(pixel - pixel.mean(0)).sum(1)
        index = np.unravel_index(found[label], labels.shape)
        assert labels[index] == label
        np.testing.assert_allclose(np.square(index - pixel.mean(0)).sum(), square.min(), atol=2e-3)
    assert (np.delete(found, range(1, labels.max() + 1)) == labels.size).all()


def test_the_centre_of_a_ring_lies_on_it():
    y, x = np.mgrid[:21, :21] - 10
    ring = (np.abs(np.hypot(y, x) - 8) < 1.5).astype(np.int32)
    index = np.unravel_index(int(centres(ring)[1]), ring.shape)
    assert ring[index]


def test_heat_reaches_the_end_of_a_long_thin_arm():
    """A worm of 180 pixels: heat falls by 100 decades from its middle to its ends, in float64."""
    labels = np.zeros((9, 190), np.int32)
    labels[4:6, 5:185] = 1
    flow = np.asarray(target(labels))
    towards = np.sign(94.5 - np.arange(5, 185))
    far = np.abs(np.arange(5, 185) - 94.5) > 2
    assert (flow[4:6, 5:185, 1][:, far] * towards[far] > 0.9).all()


def crowded(shape, side, largest):
    """Touching boxes of many sizes, some cut by the border, and one that no window holds; unknown pixels between."""
    index = np.indices(shape)
    boxes = [i // s for i, s in zip(index, side, strict=True)]
    labels = np.array(np.ravel_multi_index(boxes, [64] * len(shape))) + 1
    labels[(index[0] < 9) & (index[-1] < largest)] = 64 ** len(shape)
    labels[np.random.default_rng(0).random(shape) < 0.1] = 0
    labels = np.unique(labels, return_inverse=True)[1].reshape(shape).astype(np.int32)
    labels[-1, ..., 3:7] = -1
    return labels


@pytest.mark.parametrize(
    "labels", [crowded((130, 141), (11, 37), 120), crowded((13, 31, 64), (5, 9, 11), 60)]
)
def test_heat_in_windows_is_that_of_the_whole_map(labels):
    """More cells of a size than are computed together, in windows of every size; in 3D none is too large."""
    most = int(labels.max()) + 1
    assert most > 40
    alone = jax.jit(lambda labels: heat.spread_heat(labels, most))(labels)
    together = jax.jit(jax.vmap(lambda labels: heat.spread_heat(labels, most)))(labels[None])[0]
    assert (np.asarray(alone) > 0).sum() > 0.99 * (labels > 0).sum()
    np.testing.assert_allclose(alone, together, rtol=1e-4)


def test_samples_of_a_batch_are_as_alone():
    """They differ in their number of rounds."""
    small = np.zeros_like(MAPS["2d"])
    small[10:14, 20:23] = 1
    batch = np.stack([MAPS["2d"], small, np.zeros_like(small), np.full_like(small, -1)])
    together = jax.jit(jax.vmap(lambda one: flows.target_flows(one, K)))(batch)
    for one, expected in zip(batch, together, strict=True):
        np.testing.assert_array_equal(target(one), expected)
    assert not np.asarray(together[2:]).any()


def test_a_cell_s_flows_are_those_of_the_cell_alone():
    labels = MAPS["2d"]
    together = np.asarray(target(labels))
    for label in (1, 2, labels.max()):
        alone = np.asarray(target((labels == label).astype(np.int32)))
        np.testing.assert_allclose(alone[labels == label], together[labels == label], atol=1e-4)


def test_ids_beyond_the_bound_have_no_flow_and_change_none():
    labels = np.zeros((20, 20), np.int32)
    labels[3:9, 3:9] = 1
    more = labels.copy()
    more[12:17, 12:17] = K
    np.testing.assert_array_equal(target(more), target(labels))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_flows_of_a_turned_map_are_the_turned_flows(turns):
    labels = np.zeros((40, 40), np.int32)
    y, x = np.mgrid[:40, :40]
    labels[np.hypot((y - 12) / 7, (x - 14) / 5) < 1] = 1
    labels[np.hypot((y - 26) / 9, (x - 27) / 10) < 1] = 2
    flow = np.asarray(target(labels))
    turned = np.rot90(flow, turns)
    for _ in range(turns):
        turned = np.stack([-turned[..., 1], turned[..., 0]], -1)
    np.testing.assert_allclose(target(np.rot90(labels, turns).copy()), turned, atol=2e-3)


def test_flows_of_rotated_discs_are_the_rotated_flows():
    """Cellpose rotates flows with the image; here labels are, and flows are made of what comes out."""
    size = 96
    y, x = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    for label, (cy, cx, radius) in enumerate(((34, 30, 13), (60, 62, 14), (30, 66, 10)), 1):
        labels[np.hypot(y - cy, x - cx) < radius] = label
    spec = dataclasses.replace(augment.AugmentSpec.none(), affine_probability=1, rotation_deg=180.0)

    @jax.jit
    def moved(labels, key):
        geometry = augment.geometry(labels.shape, key, size=labels.shape, spec=spec)
        return geometry.labels(labels), geometry.image(flows.target_flows(labels, K)), geometry._matrix

    rotated, sampled, matrix = map(np.asarray, moved(labels, jax.random.key(3)))
    assert abs(matrix[0, 1]) > 0.2
    # The matrix leads from made to read offsets: vectors turn the other way.
    expected = sampled @ np.linalg.inv(matrix).T
    flow = np.asarray(target(dense(rotated)))
    inner = ndimage.minimum_filter(rotated, 3) > 0
    expected /= np.maximum(np.linalg.norm(expected, axis=-1, keepdims=True), 1e-6)
    angle = degrees(flow[inner], expected[inner])
    assert np.median(angle) < 2
    assert np.quantile(angle, 0.9) < 8


@pytest.mark.parametrize("shape", [(30, 40), (6, 14, 17)])
def test_a_linear_flow_is_followed_to_its_closed_form(shape):
    centre = np.array(shape) / 3
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(np.float32)
    flow = (0.1 * (centre - index)).astype(np.float32)
    ends = followed(flow, np.ones(shape, bool), 12)
    np.testing.assert_allclose(ends, centre + 0.9**12 * (index - centre), atol=1e-3)


@pytest.mark.parametrize("shape", [(33, 21), (7, 12, 11), (1, 9)])
def test_points_go_as_in_the_plain_twin(shape):
    rng = np.random.default_rng(0)
    flow = ndimage.gaussian_filter(rng.normal(size=(*shape, len(shape))), (*(2,) * len(shape), 0))
    flow = (flow / np.abs(flow).max()).astype(np.float32)
    mask = rng.random(shape) < 0.8
    point = np.argwhere(mask).astype(np.float64)
    for _ in range(5):
        step = [
            ndimage.map_coordinates(np.where(mask, along, 0).astype(np.float64), point.T, order=1)
            for along in np.moveaxis(flow, -1, 0)
        ]
        point = np.clip(point + np.stack(step, -1), 0, np.array(shape) - 1)
    ends = np.asarray(followed(flow, mask, 5))
    np.testing.assert_allclose(ends[mask], point, atol=1e-4)
    np.testing.assert_array_equal(ends[~mask], np.argwhere(~mask))


def test_points_of_a_batch_are_as_alone(monkeypatch):
    monkeypatch.setattr(flows, "_CHUNK", 64)
    rng = np.random.default_rng(0)
    flow = rng.normal(size=(3, 16, 20, 2)).astype(np.float32)
    mask = rng.random((3, 16, 20)) < np.array([0, 0.2, 0.9])[:, None, None]
    follow = functools.partial(flows.follow, steps=7)
    together = jax.jit(jax.vmap(follow))(flow, mask)
    for k in range(3):
        # Seven steps of float32, each of which rounds places of up to 20 pixels by 2e-6.
        np.testing.assert_allclose(jax.jit(follow)(flow[k], mask[k]), together[k], atol=1e-4)


def test_points_that_rest_are_where_all_steps_lead(monkeypatch):
    """To and fro, too: an odd number of steps shows it."""
    labels = MAPS["2d"]
    ends = []
    for rests in (flows._RESTS, ()):
        monkeypatch.setattr(flows, "_RESTS", rests)
        ends.append(jax.jit(functools.partial(flows.follow, steps=201))(target(labels), labels > 0))
    np.testing.assert_allclose(ends[0], ends[1], atol=0.08)


def plain_gathered(position, mask):
    """Counts, seeds and growth pixel by pixel; the surest seeds come last and overwrite."""
    rim = 5
    counts = np.zeros([n + 2 * rim for n in mask.shape], int)
    ends = np.rint(position).astype(int) + rim
    np.add.at(counts, tuple(ends[mask].T), 1)
    axes = mask.ndim
    seeds = [
        place
        for place in np.argwhere(counts > 10)
        if counts[tuple(place)] >= counts[tuple(slice(max(p - 2, 0), p + 3) for p in place)].max()
    ]
    # Of equal ones the first comes last.
    seeds = sorted(seeds[::-1], key=lambda place: counts[tuple(place)])
    owner = np.zeros(counts.shape, int)
    for number, place in enumerate(seeds, 1):
        grown = np.zeros(counts.shape, bool)
        grown[tuple(place)] = True
        for _ in range(5):
            grown = np.logical_and(ndimage.binary_dilation(grown, np.ones((3,) * axes)), counts > 2)
        owner[grown] = number
    return np.where(mask, owner[tuple(np.moveaxis(ends, -1, 0))], 0), len(seeds)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), axes=st.sampled_from([2, 3]))
def test_pixels_are_gathered_as_in_the_plain_twin(seed, axes):
    rng = np.random.default_rng(seed)
    shape = ((26, 30), (8, 14, 15))[axes - 2]
    sinks = rng.uniform(0, np.array(shape) - 1, (rng.integers(1, 9), axes))
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    nearest = np.square(index[..., None, :] - sinks).sum(-1).argmin(-1)
    position = sinks[nearest] + rng.normal(0, rng.uniform(0, 1.5), index.shape)
    position = np.clip(position, 0, np.array(shape) - 1).astype(np.float32)
    mask = rng.random(shape) < 0.7
    labels, full = (np.asarray(part) for part in gathered(position, mask, 64))
    twin, count = plain_gathered(position, mask)
    assert not full
    assert count < 64
    np.testing.assert_array_equal(labels, np.where(twin > 0, count + 1 - twin, 0))


def test_of_too_many_seeds_the_surest_are_read_and_it_is_said():
    index = np.stack(np.meshgrid(np.arange(32), np.arange(32), indexing="ij"), -1)
    position = (index // 8 * 8 + 4).astype(np.float32)
    mask = np.ones((32, 32), bool)
    mask[:8, :6] = False
    labels, full = gathered(position, mask, 15)
    assert full
    assert np.asarray(labels).max() == 15
    assert not np.asarray(labels)[:8, :8].any(), "the cell of the fewest pixels"
    labels, full = gathered(position, mask, 17)
    assert not full
    assert np.asarray(labels).max() == 16


def test_flow_errors_are_means_over_cells():
    labels = MAPS["2d"]
    true = np.asarray(target(labels))
    error = jax.jit(lambda flow: flows.flow_errors(flow, jnp.asarray(labels), K))
    assert not np.asarray(error(true)).any()
    np.testing.assert_allclose(np.asarray(error(-true))[1 : labels.max() + 1], 4, atol=0.1)
    noise = np.random.default_rng(0).normal(size=true.shape).astype(np.float32)
    ids = np.arange(1, labels.max() + 1)
    expected = ndimage.mean(np.square(noise).sum(-1), labels, ids)
    np.testing.assert_allclose(np.asarray(error(true + noise))[ids], expected, rtol=1e-4)
    assert not np.asarray(error(true + noise))[[0, *range(ids[-1] + 1, K)]].any()


def test_nothing_compiles_again_for_another_number_of_cells():
    program = jax.jit(lambda labels: flows.follow(flows.target_flows(labels, K), labels > 0, steps=20))
    for labels in (MAPS["2d"], MAPS["2d"] * (MAPS["2d"] < 4), np.zeros_like(MAPS["2d"])):
        program(labels)
    assert program._cache_size() == 1
