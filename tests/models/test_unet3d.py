"""UNet3D of pytorch-3dunet is a config of `models/unet`: its count of parameters, its numbers, its up-sampling."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from celltrack_jax.models import layers
from launch.benches import unet3d
from tests.models import networks

SMALL = unet3d.settings((16, 32)) | dict(in_channels=1, heads={"cells": 1}, dtype="float32")


@pytest.mark.parametrize(("base", "published"), [(32, 4_081_267), (64, 16_318_691)])
def test_it_has_as_many_parameters_as_published(base, published):
    """Of pytorch-3dunet 1.9.6, four levels, one channel in and out."""
    widths = tuple(base * 2**level for level in range(4))
    network = networks.abstract("unet", **SMALL | unet3d.settings(widths) | dict(dtype="float32"))
    assert networks.count(network) == published == _closed_form(widths)


def _closed_form(widths):
    def convolution(channels, width):
        return 27 * channels * width + 2 * channels

    total, channels = widths[0] + 1, 1
    for width in widths:
        first = max(width // 2, channels)
        total += convolution(channels, first) + convolution(first, width)
        channels = width
    for fine, coarse in itertools.pairwise(widths):
        total += convolution(fine + coarse, fine) + convolution(fine, fine)
    return total


@pytest.mark.parametrize("width", [3, 2])
def test_up_sampling_repeats_pixels(width):
    """Without parameters where the channels stay, behind a 1x1 convolution where they change."""
    module = layers.Upsample(nnx.Rngs(0), 3, width, (1, 2, 3), "nearest", jnp.float32)
    assert module.learned == (width != 3)
    x = networks.image(2, 3, 2, 4, 3)
    repeated = jnp.repeat(jnp.repeat(x, 2, 2), 3, 3)
    if module.learned:
        repeated = repeated @ module.kernel[...]
    np.testing.assert_allclose(module(x), repeated, atol=1e-5)


@pytest.mark.parametrize("norm", [pytest.param("group", marks=pytest.mark.slow), "batch"])
def test_features_that_are_not_repeated_give_the_same_as_repeated_ones(norm):
    """A block of skips and coarser features, against one of the array that they stand for."""
    settings = dict(bias=True, norm=norm, groups=2, affine=True, activation="relu", order="nac")
    block, twin = (
        layers.Block(nnx.Rngs(0), 5 + 3, (4,), (3, 3), **settings, dtype=jnp.float32) for _ in range(2)
    )
    fine, coarse = networks.image(2, 8, 6, 5), 2 + 3 * networks.image(2, 4, 6, 3, seed=1)
    whole = jnp.concatenate([fine, jnp.repeat(coarse, 2, 1)], -1)
    ours, reference = block(layers.Joined(fine, coarse, (2, 1)), True), twin(whole, True)
    np.testing.assert_allclose(ours, reference, atol=1e-4)
    states = nnx.state(block, nnx.BatchStat), nnx.state(twin, nnx.BatchStat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *states)
    assert bool(jax.tree.leaves(states)) == (norm == "batch")


@pytest.mark.slow
def test_forward_and_backward_equal_pytorch():
    torch = pytest.importorskip("torch", reason="torch is the oracle of this test")
    pytest.importorskip("pytorch3dunet", reason="pytorch-3dunet is the oracle of this test")
    model = networks.functional("unet", **SMALL)
    variables = jax.jit(model.init)(jax.random.key(0))
    twin = unet3d.peer_network((16, 32))
    for ours, theirs in _pairs(variables.params, twin):
        theirs.data[...] = torch.from_numpy(np.array(ours))
    x = networks.image(1, 4, 6, 4, 1)

    def loss(params):
        return jnp.mean(model.apply(variables._replace(params=params), x)[0]["cells"] ** 2)

    ours, gradients = jax.jit(jax.value_and_grad(loss))(variables.params)
    theirs = (twin(torch.from_numpy(np.moveaxis(np.array(x), -1, 1).copy())) ** 2).mean()
    theirs.backward()
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-4)
    pairs = list(_pairs(gradients, twin))
    assert len(pairs) == len(jax.tree.leaves(gradients))
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-2, atol=2e-5)


def _pairs(params, twin):
    """Our parameters, transposed to PyTorch's layout, beside the twin's."""
    blocks = [(params["down"][level], theirs) for level, theirs in enumerate(twin.encoders)]
    blocks += [(params["merge"][level], theirs) for level, theirs in enumerate(reversed(twin.decoders))]
    for ours, theirs in blocks:
        steps = theirs.basic_module.SingleConv1, theirs.basic_module.SingleConv2
        for number, step in enumerate(steps):
            yield jnp.moveaxis(ours["convs"][number]["kernel"], (-1, -2), (0, 1)), step.conv.weight
            yield ours["norms"][number]["scale"], step.groupnorm.weight
            yield ours["norms"][number]["offset"], step.groupnorm.bias
    head = params["heads"]["cells"]
    yield head["kernel"].T[..., None, None, None], twin.final_conv.weight
    yield head["bias"], twin.final_conv.bias
