"""Beside what Cellpose 3.1.1.2 says, kept in cellpose.npz by make_cellpose.py, which says when to write it again."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from celltrack_jax import representations
from celltrack_jax.models.functional import Variables
from celltrack_jax.ops.flows import target_flows
from tests.models import networks
from tests.representations.arms import FLOW
from tests.representations.cells import ious

MAPS = ("discs", "ellipses", "branched")
GOLDEN = dict(np.load(Path(__file__).with_name("cellpose.npz")))
target = jax.jit(target_flows, static_argnums=1)


def degrees(ours, theirs):
    return np.degrees(np.arccos(np.clip((ours * theirs).sum(-1), -1, 1)))


def golden(name):
    labels = GOLDEN[f"{name}/labels"].astype(np.int32)
    return labels, np.moveaxis(GOLDEN[f"{name}/flows"].astype(np.float32), 0, -1)


@pytest.mark.parametrize("name", MAPS)
def test_flows_are_cellpose_s(name):
    labels, theirs = golden(name)
    ours = np.asarray(target(labels, 128))
    assert not ours[labels == 0].any()
    # Where heat is even, rounding chooses Cellpose's direction and ours is 0; it reaches no part that is cut off.
    sure = ours.any(-1)
    assert (sure != theirs.any(-1)).sum() <= labels.max()
    # The golden flows have 11 bits.
    assert degrees(ours, theirs)[sure].max() < 5
    assert np.quantile(degrees(ours, theirs)[sure], 0.99) < 2


def test_flows_in_3d_are_cellpose_s():
    """Of cells as large as the largest, away from others, whose heat Cellpose takes into its differences there."""
    labels, theirs = golden("volume")
    ours = np.asarray(target(labels, 128))
    inner = (labels > 0) & (ndimage.minimum_filter(labels, 3) == ndimage.maximum_filter(labels, 3))
    inner &= ours.any(-1)
    assert inner.sum() > 300
    assert np.median(degrees(ours, theirs)[inner]) < 2
    assert np.quantile(degrees(ours, theirs)[inner], 0.95) < 6


@pytest.mark.parametrize("name", MAPS)
def test_masks_are_cellpose_s(name):
    labels, flow = golden(name)
    raw = np.concatenate([5 * flow, np.where(labels > 0, 10, -10)[..., None]], -1).astype(np.float32)
    ours = representations.build("flow", **FLOW | {"min_size": 15, "fill_holes": True}).decode(
        raw, np.ones(2)
    )
    theirs = GOLDEN[f"{name}/masks"].astype(np.int32)
    assert theirs.max() > 0
    assert (ious(theirs, ours) >= 0.95).mean() >= (0.99 if name != "branched" else 0.3)


class _State:
    """The network's state, one tensor behind the other."""

    def __init__(self, values):
        self.values, self.used = values, 0

    def take(self, *shape):
        count = int(np.prod(shape))
        self.used += count
        return jnp.asarray(self.values[self.used - count : self.used].reshape(shape))

    def norm(self, params, stats):
        channels = params["scale"].shape
        params["scale"], params["offset"] = self.take(*channels), self.take(*channels)
        stats["mean"], stats["variance"] = self.take(*channels), self.take(*channels)

    def convolution(self, params):
        """Channels first; a kernel of one pixel has no spatial axes here."""
        *taps, channels, width = params["kernel"].shape
        kernel = self.take(width, channels, *(taps or (1, 1)))
        params["kernel"] = kernel.transpose(2, 3, 1, 0).reshape(*taps, channels, width)
        params["bias"] = self.take(width)

    def layer(self, params, stats):
        self.norm(params["norm"], stats["norm"])
        self.convolution(params["conv"])
        if "style" in params:
            features, width = params["style"]["kernel"].shape
            params["style"]["kernel"] = self.take(width, features).T
            params["style"]["bias"] = self.take(width)


def _filled(variables, values):
    params, stats = jax.tree.map(np.asarray, tuple(variables))
    state = _State(values)
    for way in ("down", "up"):
        for level in range(len(params[way])):
            block, running = params[way][level], stats[way][level]
            if "first" in block:
                state.layer(block["first"], running["first"])
            for number in range(len(block["convs"])):
                state.layer(block["convs"][number], running["convs"][number])
            state.layer(block["project"], running["project"])
    state.norm(params["norm"], stats["norm"])
    channels, width = params["heads"]["cells"]["kernel"].shape
    params["heads"]["cells"]["kernel"] = state.take(width, channels).T
    params["heads"]["cells"]["bias"] = state.take(width)
    assert state.used == len(values)
    return Variables(params, stats)


@pytest.mark.parametrize("train", [False, True])
def test_the_network_is_cellpose_s(train):
    model = networks.functional(
        "cpnet",
        in_channels=1,
        heads={"cells": 3},
        widths=(4, 6),
        kernels=((3, 3),) * 2,
        pools=((2, 2),),
        norm="batch",
        groups=1,
        style=True,
        dtype="float32",
    )
    variables = _filled(jax.jit(model.init)(jax.random.key(0)), GOLDEN["net"])
    x = np.moveaxis(GOLDEN["net/image"], 1, -1)
    out, _ = jax.jit(model.apply, static_argnames="train")(variables, x, train=train)
    expected = np.moveaxis(GOLDEN[f"net/out_{train}"], 1, -1)
    assert expected.std() > 0.1
    np.testing.assert_allclose(out["cells"], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(out["style"], GOLDEN[f"net/style_{train}"], rtol=1e-3, atol=1e-4)
