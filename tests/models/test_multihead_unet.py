"""The multi-head U-Net: counts, groups of channels that are apart, linearity of the published heads, sight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.errors import InputError
from tests.models import networks
from tests.models.test_unet import FLAT as UNET

FLAT = UNET | dict(
    heads={"cells": 4},
    widths=(4, 8),
    kernels=((3, 3), (3, 3)),
    pools=((2, 2),),
    convs=1,
    remat=(False, False),
    split=(1, 3),
    head_widths=(3, 2),
    head_activation="relu",
)


def _outputs(network, x):
    return jax.jit(lambda x: network(x)["cells"])(x)


def test_each_group_has_the_published_convolutions_before_its_own():
    """3x3x3 from 32 to 8 to 4 channels with biases, and the last from 4."""
    volume = FLAT | dict(widths=(32, 64), kernels=((3, 3, 3),) * 2, pools=((2, 2, 2),), stem=(1, 1, 1))
    network = networks.abstract("multihead_unet", **volume | dict(head_widths=(8, 4)))
    tower = 27 * 32 * 8 + 8 + 27 * 8 * 4 + 4
    assert networks.count(network.heads) == 2 * tower + (4 + 1) + (4 + 1) * 3
    without = {name: value for name, value in volume.items() if name in UNET}
    plain = networks.abstract("unet", **without)
    assert networks.count(network) - networks.count(network.heads) == networks.count(plain) - (32 + 1) * 4


@pytest.mark.parametrize("stem", [(1, 1), (2, 1)])
def test_groups_of_channels_have_heads_of_their_own(stem):
    network = networks.module("multihead_unet", **FLAT | dict(stem=stem, head_activation="none"))
    x = networks.image(2, 8, 8, 1)
    before = _outputs(network, x)
    assert (before.shape, before.dtype) == ((2, 8, 8, 4), jnp.float32)
    head = network.heads["cells"]
    head.last[1].bias[...] += 1.0
    after = _outputs(network, x)
    np.testing.assert_allclose(after - before, np.broadcast_to([0, 1, 1, 1], (2, 8, 8, 4)), atol=1e-5)


def test_the_published_heads_are_one_linear_map_and_a_relu():
    network = networks.module("multihead_unet", **FLAT)
    head, linear = (
        networks.module("multihead_unet", **FLAT | dict(head_activation=activation)).heads["cells"]
        for activation in ("relu", "none")
    )
    a, b = (networks.image(1, 6, 6, 4, seed=seed) for seed in range(2))
    apply = jax.jit(lambda x: linear(x))  # noqa: PLW0108 (a module is no function of arrays to jit)
    zero = apply(jnp.zeros_like(a))
    np.testing.assert_allclose(apply(a + 2 * b) - zero, apply(a) + 2 * apply(b) - 3 * zero, atol=1e-4)
    np.testing.assert_allclose(jax.jit(lambda x: head(x))(a), jnp.maximum(apply(a), 0), atol=1e-5)  # noqa: PLW0108
    assert float(_outputs(network, networks.image(1, 8, 8, 1)).min()) == 0


@pytest.mark.parametrize("stem", [(1, 1), (2, 1)])
def test_the_receptive_radius_is_where_gradients_end(stem):
    change = dict(norm="none", activation="silu", head_activation="none", stem=stem)
    network = networks.module("multihead_unet", **FLAT | change)
    assert networks.reach(network, "cells") == network.receptive_radius


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(split=(1, 2)), InputError, r"split \(1, 2\) of the 4 channels of head 'cells'"),
        (dict(head_activation="elu"), InputError, "head_activation"),
        (dict(colour=1), InputError, r"config of models/multihead_unet: .*colour"),
    ],
)
def test_contradictions_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        networks.abstract("multihead_unet", **FLAT | change)
