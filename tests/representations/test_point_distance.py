"""Distance maps against scipy, in all their forms, and what is read from them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from celltrack_jax.errors import InputError
from celltrack_jax.representations import PointRepresentation, Target
from celltrack_jax.representations.point_distance import FORMS, PointDistance
from tests.representations import arms
from tests.representations.arms import KERNEL, cost, perfect
from tests.representations.points import KINETOCHORES, errors, lattice, point_target

SHAPE, SPACING = (8, 11, 10), np.array([2.3, 1.0, 1.2], np.float32)
FLAT = (13, 11)
# As configs/kinetochores/points.py reads them, in µm.
UM = {
    **{"reach": 0.6, "segment_radius": 0.3, "threshold": 0.3, "smoothing": 0.1},
    **{"min_distance": 0.25, "marker_radius": 0.26, "max_peaks": 512},
}


def distance(axes=2, **changes) -> PointDistance:
    representation = arms.build(
        "heat, point distance",
        **{"axes": axes, "kernel": KERNEL | {"spacing": (1.0,) * axes}, **changes},
    )
    assert isinstance(representation, PointDistance)
    return representation


def value_of(representation, points, shape=SHAPE, spacing: Any = SPACING) -> np.ndarray:
    return np.asarray(point_target(representation, points, np.zeros(shape, np.int32), spacing).value)


def grid(shape):
    return np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)


@functools.partial(jax.jit, static_argnums=0)
def _target_of_two(representation, points, other):
    known = jnp.zeros(SHAPE, jnp.int32)
    return representation.point_target(points, points, known, jnp.asarray(SPACING), other[None])


_loss = jax.jit(PointDistance.loss, static_argnums=0)


def scattered(seed):
    """Points, some of them missing or outside of the crop."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-3, np.array(SHAPE) + 2, (6, 3)).astype(np.float32)
    points[rng.integers(1, 6)] = np.nan
    points[0] = rng.uniform(0, np.array(SHAPE) - 1)
    return points


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_form_is_the_distance_of_brute_force(seed):
    points = scattered(seed)
    there = points[np.isfinite(points).all(1)].astype(np.float64)
    apart = np.linalg.norm((grid(SHAPE)[..., None, :] - there) * SPACING, axis=-1).min(-1)
    voxels = np.linalg.norm(grid(SHAPE)[..., None, :] - np.rint(there), axis=-1).min(-1)
    expected = {
        "minmax": voxels / voxels.max(),
        "truncated": np.maximum(0, 1 - apart / 5),
        "exponential": np.exp(-((apart / 5) ** 2)),
    }
    assert set(expected) == set(FORMS)
    for form, one in expected.items():
        found = value_of(distance(3, form=form), points)
        np.testing.assert_allclose(found[..., 0], one, atol=2e-5, err_msg=form)


def test_as_published_it_is_scipys_distance_transform_whatever_the_spacing():
    points = np.array([[2.3, 3.4, 4.0], [5.0, 8.0, 2.4]], np.float32)
    mask = np.ones(SHAPE)
    mask[tuple(np.rint(points).astype(int).T)] = 0
    transform = ndimage.distance_transform_edt(mask)
    found = value_of(distance(3, form="minmax"), points)[..., 0]
    np.testing.assert_allclose(found, transform / transform.max(), atol=1e-6)
    assert found.min() == 0
    assert found.max() == 1


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_ways_and_segments_are_those_of_loops(seed):
    points = scattered(seed)
    representation = distance(3, vectors=True, segment=1.0, segment_radius=2.5, around=(1,))
    assert representation.channels == 9
    other = scattered(seed + 1)
    target = _target_of_two(representation, points, other)
    value = np.asarray(target.value)
    assert value.shape == (*SHAPE, 9)
    for rows, channels in ((points, value[..., :4]), (other, value[..., 4:8])):
        there = rows[np.isfinite(rows).all(1)].astype(np.float64)
        ways = (there - grid(SHAPE)[..., None, :]) * SPACING
        apart = np.linalg.norm(ways, axis=-1)
        nearest = np.take_along_axis(ways, apart.argmin(-1)[..., None, None], -2)[..., 0, :]
        expected = np.where(apart.min(-1)[..., None] <= 5, nearest / 5, 0)
        np.testing.assert_allclose(channels[..., 1:], expected, atol=2e-5)
        # Where there is a way, it is as long as the distance says.
        length = np.linalg.norm(channels[..., 1:], axis=-1)
        near = channels[..., 0] > 1e-3
        np.testing.assert_allclose(channels[..., 0][near], 1 - length[near], atol=2e-5)
    there = points[np.isfinite(points).all(1)].astype(np.float64)
    apart = np.linalg.norm((grid(SHAPE)[..., None, :] - there) * SPACING, axis=-1).min(-1)
    np.testing.assert_array_equal(value[..., 8], apart <= 2.5)


@pytest.mark.parametrize("form", FORMS)
def test_without_points_everything_is_far_and_nothing_is_read(form):
    representation = distance(form=form, segment=1.0)
    value = value_of(representation, np.full((4, 2), np.nan), FLAT, np.ones(2))
    assert (value[..., 0] == (1 if form == "minmax" else 0)).all()
    assert not value[..., 1].any()
    labels, found = representation.read(value, np.ones(2))
    assert not labels.any()
    assert not len(found.position)


def one_crop(representation, points=((4, 5), (9, 8))) -> Target:
    target = point_target(representation, np.array(points), np.zeros(FLAT, np.int32), np.ones(2))
    return Target(target.value[None], target.weight[None])


@pytest.mark.parametrize(("loss_name", "each"), [("mse", np.square), ("smooth_l1", None)])
def test_the_loss_is_the_mean_over_known_pixels(loss_name, each):
    representation = distance(loss_name=loss_name, vectors=True)
    target = one_crop(representation)
    weight = np.array(target.weight)
    weight[:, 5:] = 0
    target = Target(target.value, jnp.asarray(weight))
    prediction = np.random.default_rng(0).normal(0, 2, target.value.shape).astype(np.float32)
    off = np.abs(prediction - np.asarray(target.value))[:, :5]
    each = each or (lambda x: np.where(x < 1, 0.5 * x**2, x - 0.5))
    value, slope = cost(representation, target, prediction)
    assert float(value) == pytest.approx(each(off).mean(), rel=1e-5)
    poisoned = np.where(weight > 0, prediction, np.nan)
    again, same = cost(representation, target, poisoned)
    assert value == again
    np.testing.assert_array_equal(slope, same)
    assert not np.asarray(slope)[:, 5:].any()


def test_two_heads_want_overlap_and_as_published_they_want_none():
    """The distance is right either way; the segmentation is the truth or its opposite."""
    mended, published = (distance(form="minmax", segment=1.0, published_sign=sign) for sign in (False, True))
    target = one_crop(mended)
    truth = perfect(mended, target)
    opposite = truth.at[..., -1].multiply(-1)
    costs = {
        name: [float(cost(one, target, x)[0]) for x in (truth, opposite)]
        for name, one in {"mended": mended, "published": published}.items()
    }
    assert costs["mended"][0] < 0.02 < 0.5 < costs["mended"][1]
    assert costs["published"][0] > costs["published"][1]
    for one in (mended, published):
        worse = opposite.at[..., 0].add(0.3)
        assert float(cost(one, target, worse)[0]) > float(cost(one, target, opposite)[0])


def test_both_parts_are_told_and_weighed():
    representation = distance(segment=0.25)
    target = one_crop(representation)
    prediction = np.random.default_rng(1).normal(size=target.value.shape).astype(np.float32)
    value, metrics = _loss(representation, prediction, target, 0)
    assert set(metrics) == {"distance", "segmentation"}
    assert float(value) == pytest.approx(
        float(metrics["distance"]) + 0.25 * float(metrics["segmentation"]), rel=1e-5
    )
    alone = distance()
    same, told = _loss(alone, prediction[..., :1], one_crop(alone), 0)
    assert set(told) == {"distance"}
    assert float(same) == pytest.approx(float(metrics["distance"]), rel=1e-5)


@pytest.mark.parametrize("published_sign", [False, True])
def test_gradients_are_finite_where_nothing_is(published_sign):
    representation = distance(segment=1.0, published_sign=published_sign, vectors=True)
    target = one_crop(representation, ((np.nan, np.nan),))
    for prediction in (perfect(representation, target), 0 * target.value):
        for weight in (target.weight, 0 * target.weight):
            value, slope = cost(representation, Target(target.value, weight), prediction)
            assert np.isfinite(value)
            assert np.isfinite(slope).all()


@pytest.mark.parametrize(
    ("form", "vectors", "segment"),
    [("minmax", False, 1.0), ("truncated", False, 0.0), ("exponential", True, 0.0)],
)
def test_every_source_three_voxels_apart_is_read_back(form, vectors, segment):
    shape, spacing = (12, 30, 30), KINETOCHORES[1]
    points = lattice(shape, (3, 4, 3), seed=1)
    changes = UM | {"form": form, "vectors": vectors, "segment": segment, "max_cells": len(points)}
    representation = distance(3, **changes)
    value = np.asarray(
        perfect(representation, point_target(representation, points, np.zeros(shape, np.int32), spacing))
    )
    labels, found = representation.read(value, spacing)
    assert len(found.position) == len(points)
    assert len(errors(found, points, spacing, 0.25)) == len(points)
    assert sorted(np.unique(labels)) == list(range(len(points) + 1))
    assert (np.diff(found.heat) <= 0).all()
    assert representation.has_threshold == (form != "minmax")


@pytest.mark.parametrize("form", ["truncated", "exponential"])
def test_positions_lie_between_pixels(form):
    points = np.array([[4.3, 5.4], [9.6, 7.1]], np.float32)
    representation = distance(form=form, smoothing=0.7)
    found = representation.points(value_of(representation, points, FLAT, np.ones(2)), np.ones(2))
    near = errors(found, points, np.ones(2), 1.0)
    assert len(found.position) == len(near) == 2
    assert near.max() < 0.3


def test_it_learns_from_points():
    representation = distance()
    assert isinstance(representation, PointRepresentation)
    assert not representation.learns_steps
    assert not representation.directed
    assert distance(vectors=True).directed
    assert distance(vectors=True, around=(-1, 1), segment=1.0).channels == 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"form": "round"}, "representation.form is 'round'"),
        ({"loss_name": "l3"}, "representation.loss_name is 'l3'"),
        ({"reach": 0.0}, "representation.reach is 0.0: a positive length"),
        ({"published_sign": True}, "set representation.segment"),
        ({"kernel": KERNEL | {"spacing": (1.0,)}}, "kernel.spacing is .*: give 2 numbers"),
    ],
)
def test_impossible_settings_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        distance(**changes)
