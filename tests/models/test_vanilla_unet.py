"""The vanilla U-Net and its autoencoder: counts, the floor of the published head, sight, remat, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.errors import InputError
from tests.models import networks

VOLUME = dict(
    in_channels=1,
    heads={"cells": 1},
    widths=(4, 6),
    kernels=((3, 3, 3), (3, 3, 3)),
    pools=((2, 2, 2),),
    join="concat",
    head="block",
    remat=(False, False),
    dtype="float32",
)
FLAT = VOLUME | dict(kernels=((3, 3), (3, 3)), pools=((2, 2),))
ONE_LEVEL = dict(widths=(4,), pools=(), remat=(False,), kernels=((3, 3),))
LEVELS = dict(
    widths=(64, 128, 256, 512), kernels=((3, 3, 3),) * 4, pools=((2, 2, 2),) * 3, remat=(False,) * 4
)
AUTOENCODER = {name: value for name, value in VOLUME.items() if name not in ("join", "head")}


def _blocks(*channels):
    """Numbers in blocks of convolution and batch normalisation of these channels, in and out."""
    return sum(27 * before * width + 2 * width for before, width in channels)


DOWN = _blocks((1, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512))
RISEN = sum(27 * width * width + width for width in (512, 256, 128))


def test_the_published_network_has_as_many_parameters():
    up = _blocks((768, 256), (256, 256), (384, 128), (128, 128), (192, 64), (64, 64))
    published = networks.abstract("vanilla_unet", **VOLUME | LEVELS)
    assert networks.count(published) == DOWN + RISEN + up + _blocks((64, 1))
    mended = networks.abstract("vanilla_unet", **VOLUME | LEVELS | dict(head="conv"))
    assert networks.count(mended) == DOWN + RISEN + up + 64 + 1


def test_the_autoencoder_has_no_skips():
    up = _blocks((512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64))
    network = networks.abstract("autoencoder", **AUTOENCODER | LEVELS)
    assert networks.count(network) == DOWN + RISEN + up + 64 + 1
    assert network.stride == (8, 8, 8)
    with pytest.raises(InputError, match="join"):
        networks.abstract("autoencoder", **AUTOENCODER | dict(join="concat"))


@pytest.mark.parametrize(("name", "settings"), [("vanilla_unet", VOLUME), ("autoencoder", AUTOENCODER)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_have_the_size_of_the_input_in_float32(name, settings, dtype):
    out = networks.shapes(
        name, networks.image(2, 4, 6, 8, 1), **settings | dict(dtype=dtype, heads={"a": 1, "b": 3})
    )
    assert {name: (y.shape, y.dtype) for name, y in out.items()} == {
        "a": ((2, 4, 6, 8, 1), jnp.float32),
        "b": ((2, 4, 6, 8, 3), jnp.float32),
    }


@pytest.mark.parametrize(("head", "floor"), [("block", True), ("conv", False)])
def test_the_published_head_cannot_say_background(head, floor):
    """However far the features, a sigmoid of ELU stays above that of -1."""
    network = networks.module(
        "vanilla_unet", **FLAT | dict(head=head, widths=(4,), pools=(), remat=(False,), kernels=((3, 3),))
    )
    last = network.heads["cells"]
    (last.norms[0].offset if head == "block" else last.bias)[...] = jnp.full(1, -50.0)
    probability = jax.jit(lambda x: jax.nn.sigmoid(network(x)["cells"]))(networks.image(1, 8, 8, 1))
    limit = 1 / (1 + np.e)
    assert 0.268 < limit < 0.269
    assert (float(probability.min()) >= limit - 1e-6) == floor
    assert (float(probability.max()) < 1e-6) == (not floor)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(dict(), marks=pytest.mark.slow),
        dict(head="conv", kernels=((5, 3), (3, 1)), pools=((2, 1),)),
    ],
)
def test_the_receptive_radius_is_where_gradients_end(change):
    network = networks.module("vanilla_unet", **FLAT | change)
    assert networks.reach(network, "cells") == network.receptive_radius


def test_the_autoencoder_says_where_its_sight_ends():
    settings = AUTOENCODER | dict(kernels=((3, 3), (3, 3)), pools=((2, 2),))
    network = networks.module("autoencoder", **settings)
    assert networks.reach(network, "cells") == network.receptive_radius


@pytest.mark.slow
def test_remat_changes_nothing():
    networks.assert_remat_changes_nothing("vanilla_unet", networks.image(2, 8, 8, 1), **FLAT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(head="linear"), "head"),
        (dict(join="sum"), "join"),
        (dict(heads={}), "heads"),
        (dict(pools=((2, 4),)), "gaps"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        networks.abstract("vanilla_unet", **FLAT | change)
