"""Points as probability maps against scipy, what ties their frames, and what is read from them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from celltrack_jax import representations
from celltrack_jax.errors import InputError
from celltrack_jax.representations import PointRepresentation, Target
from celltrack_jax.representations.spots import SHAPES, Spots
from configs.kinetochores import points as kinetochores
from tests.representations import arms
from tests.representations.arms import KERNEL, cost, perfect
from tests.representations.points import KINETOCHORES, errors, lattice, point_target

CANVAS = ((8, 11, 10), np.array([2.3, 1.0, 1.2], np.float32))
FLAT = ((13, 11), np.array([1.0, 1.5], np.float32))


def spots(axes=2, **changes) -> Any:
    representation = arms.build(
        "heat, spots", **{"axes": axes, "kernel": KERNEL | {"spacing": (1.0,) * axes}, **changes}
    )
    assert isinstance(representation, Spots)
    return representation


def value_of(representation, points, shape, spacing) -> np.ndarray:
    return np.asarray(point_target(representation, points, np.zeros(shape, np.int32), spacing).value)


def drawn_by_scipy(kind, radius, points, shape, spacing) -> Any:
    """On a canvas that reaches far beyond the crop, so that scipy sees the points outside of it."""
    far = 12
    canvas: Any = np.ones([size + 2 * far for size in shape])
    crop = (slice(far, -far),) * len(shape)
    points = np.array([point for point in points if np.isfinite(point).all()])
    if not len(points):
        return np.zeros(shape)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    apart = np.linalg.norm((grid[..., None, :] - points) * spacing, axis=-1).min(-1)
    voxels = tuple(np.rint(points).astype(int).T + far)
    canvas[voxels] = 0
    if kind == "voxel":
        return 1 - np.asarray(canvas[crop])
    if kind == "dilated":
        cross = ndimage.generate_binary_structure(len(shape), 1)
        grown: Any = ndimage.binary_dilation(canvas == 0, cross, iterations=int(radius))
        return grown[crop]
    if kind == "ball_voxels":
        apart_voxels: Any = ndimage.distance_transform_edt(canvas)
        return apart_voxels[crop] <= radius
    if kind == "ball":
        return (apart <= radius) | (canvas[crop] == 0)
    return np.exp(-0.5 * (apart / radius) ** 2)


@pytest.mark.parametrize(
    ("kind", "radius", "canvas"),
    [
        *((kind, 2.0, CANVAS) for kind in SHAPES),
        ("dilated", 1.0, FLAT),
    ],
)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_points_are_drawn_as_by_scipy(kind, radius, canvas, seed):
    """Among the points are missing ones, ones outside of the crop, and ones that share a voxel."""
    shape, spacing = canvas
    rng = np.random.default_rng(seed)
    points = rng.uniform(-4, np.array(shape) + 3, (6, len(shape))).astype(np.float32)
    points[1] = points[0] + 0.2
    points[rng.integers(2, 6)] = np.nan
    representation = spots(len(shape), shape=kind, radius=radius)
    found = value_of(representation, points, shape, spacing)
    assert found.shape == (*shape, 1)
    expected = drawn_by_scipy(kind, radius, points.astype(np.float64), shape, spacing.astype(np.float64))
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)


def test_a_ball_of_labels_is_scipys_distance_with_the_spacing_as_sampling():
    shape, spacing = CANVAS
    points = np.array([[2, 3, 4], [5, 8, 2]], np.float32)
    mask = np.ones(shape)
    mask[tuple(points.astype(int).T)] = 0
    expected: Any = ndimage.distance_transform_edt(mask, sampling=spacing.astype(np.float64))
    found = value_of(spots(3, shape="ball", radius=2.5), points, shape, spacing)
    np.testing.assert_array_equal(found[..., 0], expected <= 2.5)


@pytest.mark.parametrize("kind", SHAPES)
def test_without_points_nothing_is_drawn(kind):
    shape, spacing = FLAT
    assert not value_of(spots(shape=kind), np.full((6, 2), np.nan), shape, spacing).any()


_target_of_frames: Any = jax.jit(Spots.point_target, static_argnums=0)
_loss = jax.jit(Spots.loss, static_argnums=0)


def framed(**changes) -> Spots:
    return spots(around=(-1, 1), shape="voxel", radius=0.0, loss_name="dice", **changes)


def target_of_frames(representation, own, before, after) -> Target:
    shape, spacing = FLAT
    rows = [np.array([point], np.float32) for point in (own, before, after)]
    known = np.zeros(shape, np.int32)
    target = _target_of_frames(representation, rows[0], rows[0], known, spacing, np.stack(rows[1:]))
    return Target(target.value[None], target.weight[None])


def test_frames_around_are_channels_of_their_own():
    representation = framed()
    assert representation.channels == 3
    target = target_of_frames(representation, (4, 5), (3, 5), (6, 7))
    there = [tuple(np.argwhere(target.value[0, ..., c])[0].tolist()) for c in range(3)]
    assert there == [(4, 5), (3, 5), (6, 7)]
    with pytest.raises(ValueError, match="the points of 3 frames are drawn, not of 1"):
        representation.point_target(
            jnp.ones((1, 2)), jnp.ones((1, 2)), jnp.zeros(FLAT[0]), jnp.asarray(FLAT[1])
        )


@pytest.mark.parametrize("temporal", ["dice", "distribution"])
def test_mended_losses_reward_frames_that_agree_and_published_ones_that_disagree(temporal):
    """The published sign is the wrong way round: what is true costs more than frames that contradict each other."""
    mended, published = (
        framed(temporal=temporal, published_sign=sign, temporal_weight=1.0) for sign in (False, True)
    )
    target = target_of_frames(mended, *[(4, 5)] * 3)
    truth = perfect(mended, target)
    # The frame before says that everything but the point is one.
    torn = truth.at[..., 1].multiply(-1)
    costs = {
        name: [float(cost(each, target, x)[0]) for x in (truth, torn)]
        for name, each in {"mended": mended, "published": published}.items()
    }
    assert costs["mended"][0] < 0.05 < 0.5 < costs["mended"][1]
    assert costs["published"][0] > costs["published"][1]


def test_the_temporal_losses_are_plain_formulas():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, *FLAT[0], 3)).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    narrow = KERNEL | {"sigmas": (1e-6,)}
    apart = {}
    for temporal in ("dice", "distribution"):
        apart[temporal] = 0.0
        # In the order of time: the frame before, the own one, the one after.
        for a, b in ((p[..., 1], p[..., 0]), (p[..., 0], p[..., 2])):
            apart[temporal] += 1 - (2 * (a * b).sum() + 1) / ((a**2).sum() + (b**2).sum() + 1)
            if temporal == "distribution":
                apart[temporal] += np.hypot(a.mean() - b.mean(), a.std() - b.std())
        for sign in (False, True):
            representation = framed(
                temporal=temporal, published_sign=sign, temporal_weight=0.3, kernel=narrow
            )
            target = target_of_frames(representation, (4, 5), (3, 5), (6, 7))
            dice = float(cost(framed(), target, logits)[0])
            expected = 1 - ((1 - dice) + apart[temporal]) if sign else dice + 0.3 * apart[temporal]
            assert float(cost(representation, target, logits)[0]) == pytest.approx(expected, rel=1e-3)


def test_motion_costs_less_the_wider_the_gaussian_is():
    target = target_of_frames(framed(), (4, 5), (3, 5), (5, 6))
    costs = []
    for sigma in (0.5, 3.0):
        kernel = KERNEL | {"sizes": (13,), "sigmas": (sigma,)}
        representation = framed(temporal="dice", kernel=kernel, temporal_weight=1.0)
        costs.append(float(cost(representation, target, perfect(representation, target))[0]))
    assert costs[0] > 2 * costs[1]


@pytest.mark.parametrize("temporal", ["dice", "distribution"])
@pytest.mark.parametrize("published_sign", [False, True])
def test_gradients_of_temporal_losses_are_finite_where_nothing_is(temporal, published_sign):
    representation = framed(temporal=temporal, published_sign=published_sign)
    target = target_of_frames(representation, *[(np.nan, np.nan)] * 3)
    for logits in (np.zeros((1, *FLAT[0], 3), np.float32), np.full((1, *FLAT[0], 3), -1e4, np.float32)):
        value, slope = cost(representation, target, logits)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
        unknown = Target(target.value, 0 * target.weight)
        value, slope = cost(representation, unknown, logits * np.nan)
        assert np.isfinite(value)
        assert not np.asarray(slope).any()


def test_dice_is_told_beside_any_loss():
    representation = spots(loss_name="l2")
    target = point_target(representation, np.array([[4, 5]]), np.zeros(FLAT[0], np.int32), FLAT[1])
    target = Target(target.value[None], target.weight[None])
    logits = np.random.default_rng(1).normal(size=target.value.shape).astype(np.float32)
    _, metrics = _loss(representation, logits, target, 0)
    p, g = 1 / (1 + np.exp(-logits.astype(np.float64))), np.asarray(target.value)
    expected = 1 - 2 * (p * g).sum() / ((p**2).sum() + (g**2).sum())
    assert set(metrics) == {"l2", "dice"}
    assert float(metrics["dice"]) == pytest.approx(expected, rel=1e-5)


def answer(representation, points, shape, spacing):
    """The raw output that says the points."""
    target = point_target(representation, points, np.zeros(shape, np.int32), spacing)
    return np.asarray(perfect(representation, target))


@pytest.mark.parametrize(
    ("kind", "radius", "shape", "spacing", "step"),
    [
        ("voxel", 0.0, (12, 24, 24), KINETOCHORES[1], (3, 4, 3)),
        ("ball", 0.13, (12, 24, 24), KINETOCHORES[1], (3, 4, 3)),
        ("ball", 1.0, (40, 42), np.array([1.0, 1.0]), (4, 3)),
    ],
)
def test_every_source_three_voxels_apart_is_read_back(kind, radius, shape, spacing, step):
    points = lattice(shape, step, seed=1)
    unit = spacing[-1]
    representation = spots(
        len(shape),
        shape=kind,
        radius=radius,
        smoothing=0.6 * unit,
        threshold=0.15,
        min_distance=2 * unit,
        marker_radius=0.26 if len(shape) == 3 else 1.0,
        max_peaks=256,
    )
    said = answer(representation, points, shape, spacing)
    for decoder in ("maxima", "segmentation"):
        reader = dataclasses.replace(representation, decoder=decoder)
        labels, found = reader.read(said, spacing)
        assert len(found.position) == len(points)
        assert len(errors(found, points, spacing, 0.3 if len(shape) == 3 else 1.0)) == len(points)
        assert (np.diff(found.heat) <= 0).all()
        assert found.step is None
        assert reader.has_threshold == (decoder == "maxima")
        own = labels[tuple(np.rint(found.position).astype(int).T)]
        np.testing.assert_array_equal(own, np.arange(len(points)) + 1)


@pytest.mark.parametrize("words", ["u3d_dice", "dil1_dice", "ball3_dice"])
def test_configs_read_their_own_targets_at_their_own_threshold(words):
    shape, spacing = (14, 32, 32), KINETOCHORES[1]
    points = lattice(shape, (7, 9, 9), seed=3)
    representation: Any = representations.build(**kinetochores.get_config(words).representation.to_dict())
    found = representation.points(answer(representation, points, shape, spacing), spacing)
    assert len(found.position) == len(points) == len(errors(found, points, spacing, 0.2))


def test_a_watershed_divides_what_belongs_to_two_points():
    """Along a row of probability the border lies in the valley, not in the middle."""
    p = np.full((9, 21), 0.01)
    p[3:6, 2:19] = np.interp(np.arange(2, 19), [2, 4, 12, 16, 18], [0.5, 0.95, 0.2, 0.9, 0.5])
    logits = np.log(p / (1 - p)).astype(np.float32)[..., None]
    representation = spots(decoder="segmentation", smoothing=0.3, marker_radius=9.0)
    labels, found = representation.read(logits, np.ones(2))
    assert len(found.position) == 2
    row = labels[4, 2:19]
    assert set(row) == {1, 2}
    assert np.flatnonzero(np.diff(row)).tolist() in ([9], [10])
    nearest, _ = spots(smoothing=0.3, marker_radius=9.0, threshold=0.5).read(logits, np.ones(2))
    assert np.flatnonzero(np.diff(nearest[4, 2:19])).tolist() in ([7], [8])


def test_otsus_threshold_parts_points_from_a_bright_background():
    p = np.full((20, 20), 0.35)
    p[5, 5] = p[14, 9] = 0.9
    p[10, 15] = 0.4
    logits = np.log(p / (1 - p)).astype(np.float32)[..., None]
    reading: Any = {"smoothing": 0.0, "threshold": 0.3, "min_distance": 2.0}
    segmented = spots(decoder="segmentation", **reading).points(logits, np.ones(2))
    assert sorted(segmented.position.round().tolist()) == [[5, 5], [14, 9]]
    assert len(spots(**reading).points(logits, np.ones(2)).position) > 2


@pytest.mark.parametrize("level", [-10.0, 0.0, 10.0])
def test_a_flat_map_has_no_segments(level):
    labels, found = spots(decoder="segmentation").read(np.full((9, 9, 1), level, np.float32), np.ones(2))
    assert not labels.any()
    assert not len(found.position)


def test_it_learns_from_points():
    representation = spots()
    assert isinstance(representation, PointRepresentation)
    assert not representation.learns_steps
    assert not representation.directed
    assert representation.channels == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": "cube"}, "representation.shape is 'cube'"),
        ({"loss_name": "l3"}, "representation.loss_name is 'l3'"),
        ({"temporal": "always"}, "representation.temporal is 'always'"),
        ({"shape": "dilated", "radius": 1.5}, "representation.radius is 1.5"),
        ({"shape": "gaussian", "radius": 0.0}, "it must be positive for 'gaussian'"),
        ({"decoder": "psychic"}, "representation.decoder is 'psychic'"),
        ({"refine": "sand"}, "representation.refine is 'sand'"),
        ({"temporal": "dice"}, r"set representation.around, to \(-1, 1\) say"),
        ({"around": (-1, 0, 1)}, "0 is the sample's own frame, leave it out"),
        ({"kernel": KERNEL | {"spacing": (1.0,)}}, "kernel.spacing is .*: give 2 numbers"),
    ],
)
def test_impossible_settings_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        spots(**changes)
