"""The residual U-Net: counts, what a block computes, sight, remat, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from celltrack_jax.errors import InputError
from celltrack_jax.models import residual_unet
from tests.models import networks

FLAT = dict(
    in_channels=1,
    heads={"cells": 2},
    widths=(4, 8),
    kernels=((3, 3), (3, 3)),
    pools=((2, 2),),
    norm="group",
    groups=2,
    activation="elu",
    remat=(False, False),
    dtype="float32",
)
VOLUME = FLAT | dict(kernels=((1, 3, 3), (3, 3, 3)), pools=((1, 2, 2),))


def test_the_published_network_has_as_many_parameters():
    """pytorch-3dunet 1.9.6 counts 28,437,281 without the 480 biases of its transposed convolutions."""
    widths = (32, 64, 128, 256, 512)
    network = networks.abstract(
        "residual_unet",
        **FLAT
        | dict(
            heads={"cells": 1},
            widths=widths,
            kernels=((3, 3, 3),) * 5,
            pools=((2, 2, 2),) * 4,
            groups=8,
            remat=(False,) * 5,
        ),
    )
    assert networks.count(network) == 28_437_281 + sum(widths[:-1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_have_the_size_of_the_input_in_float32(dtype):
    settings = VOLUME | dict(dtype=dtype)
    assert networks.abstract("residual_unet", **settings).stride == (1, 2, 2)
    out = networks.shapes("residual_unet", networks.image(2, 3, 6, 8, 1), **settings)["cells"]
    assert (out.shape, out.dtype) == ((2, 3, 6, 8, 2), jnp.float32)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_block_adds_to_what_comes_in(channels):
    """With its last scale at 0 it is the activation of the input, widened where the channels change."""
    layer = dict(norm="group", groups=2, activation="elu", dtype=jnp.float32)
    block = residual_unet.ResidualBlock(nnx.Rngs(0), channels, 4, (3, 3), layer)
    x = networks.image(1, 5, 6, channels)
    trained = jax.jit(lambda x: block(x, True))(x)
    block.second.norms[0].scale[...] = jnp.zeros(4)
    wide = x
    if channels != 4:
        assert block.widen is not None
        wide = x @ block.widen.kernel[...][0, 0]
    np.testing.assert_allclose(jax.jit(lambda x: block(x, True))(x), jax.nn.elu(wide), atol=1e-5)
    assert float(jnp.abs(trained - jax.nn.elu(wide)).max()) > 0.1
    assert (block.widen is None) == (channels == 4)


@pytest.mark.parametrize("change", [dict(), dict(kernels=((5, 3), (3, 1)), pools=((2, 1),))])
def test_the_receptive_radius_is_where_gradients_end(change):
    network = networks.module("residual_unet", **FLAT | dict(norm="none") | change)
    assert networks.reach(network, "cells") == network.receptive_radius


@pytest.mark.slow
def test_remat_changes_nothing():
    networks.assert_remat_changes_nothing("residual_unet", networks.image(2, 8, 8, 1), **FLAT)


@pytest.mark.parametrize(
    ("change", "message"),
    [(dict(norm="layer"), "norm"), (dict(activation="tanh"), "tanh"), (dict(pools=((2, 4),)), "gaps")],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        networks.abstract("residual_unet", **FLAT | change)
