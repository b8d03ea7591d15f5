"""The trunk against a plain numpy twin; its size, start, statistics and shifts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.models.resnet import BasicBlock, ConvolutionNorm, ResNet

SMALL: dict[str, Any] = dict(ndim=2, depth=18, widths=(2, 3, 3, 4), dtype="float32")


def _functional(**changes):
    return FunctionalModel(lambda rngs: ResNet(rngs, **SMALL | changes))


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _anything(tree):
    """Values like those of a trained network: no statistic and no offset at its neutral start."""
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda x: np.asarray(x + rng.uniform(0.2, 0.8, x.shape), np.float32), tree)


@pytest.mark.parametrize(
    ("ndim", "depth", "count"), [(2, 18, 11_170_240), (2, 34, 21_278_400), (3, 18, 33_160_000)]
)
def test_it_has_the_parameters_of_the_original(ndim, depth, count):
    widths = (64, 128, 256, 512)
    model = nnx.eval_shape(
        lambda: ResNet(nnx.Rngs(0), ndim=ndim, depth=depth, widths=widths, dtype="float32")
    )
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))) == count


@pytest.mark.parametrize(
    ("change", "message"),
    [(dict(ndim=1), "ndim 1"), (dict(depth=50), "depth 50"), (dict(widths=(2, 2)), "give 4")],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        _functional(**change)


def _plain_convolution(x, kernel, strides):
    """Pixel by pixel, with half a kernel of zeros around."""
    taps = kernel.shape[:-2]
    padded = np.pad(x, [(0, 0), *((k // 2, k // 2) for k in taps), (0, 0)])
    sizes = [-(-n // s) for n, s in zip(x.shape[1:], strides, strict=False)]
    out = np.zeros((len(x), *sizes, kernel.shape[-1]))
    for place in np.ndindex(*sizes):
        window = tuple(slice(i * s, i * s + k) for i, s, k in zip(place, strides, taps, strict=True))
        out[(slice(None), *place)] = np.tensordot(padded[(slice(None), *window)], kernel, kernel.ndim - 1)
    return out


def _plain_layer(params, stats, x, strides, train):
    y = _plain_convolution(x, params["kernel"], strides)
    axes = tuple(range(y.ndim - 1))
    mean, variance = (
        (y.mean(axes), y.var(axes)) if train else (stats["norm"]["mean"], stats["norm"]["variance"])
    )
    norm = params["norm"]
    return (y - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["offset"]


def _plain_block(params, stats, x, strides, train):
    y = np.maximum(_plain_layer(params["first"], stats["first"], x, strides, train), 0)
    y = _plain_layer(params["second"], stats["second"], y, (1,) * len(strides), train)
    if "shortcut" in params:
        x = _plain_layer(params["shortcut"], stats["shortcut"], x, strides, train)
    return np.maximum(x + y, 0)


def _plain_pool(x):
    ndim = x.ndim - 2
    padded = np.pad(x, [(0, 0), *((1, 1),) * ndim, (0, 0)], constant_values=-np.inf)
    sizes = [-(-n // 2) for n in x.shape[1:-1]]
    out = np.zeros((len(x), *sizes, x.shape[-1]))
    for place in np.ndindex(*sizes):
        window = (slice(None), *(slice(2 * i, 2 * i + 3) for i in place))
        out[(slice(None), *place)] = padded[window].max(tuple(range(1, 1 + ndim)))
    return out


def _plain_network(variables, x, train):
    (params, stats), ndim = variables, x.ndim - 2
    strides = (2, 2) if ndim == 2 else (1, 2, 2)
    x = _plain_pool(np.maximum(_plain_layer(params["stem"], stats["stem"], x, strides, train), 0))
    for number in range(8):
        stride = 2 if number in (2, 4, 6) else 1
        x = _plain_block(params["blocks"][number], stats["blocks"][number], x, (stride,) * ndim, train)
    return x.mean(tuple(range(1, 1 + ndim)))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(37, 50), (3, 9, 18)])
def test_it_is_its_plain_twin_in_training_and_after(size):
    model = _functional(ndim=len(size))
    variables = _anything(jax.jit(model.init)(jax.random.key(0)))
    x = _random(3, *size, 1)
    for train in (False, True):
        ours, _ = jax.jit(model.apply, static_argnames="train")(variables, x, train=train)
        twin = _plain_network(variables, x, train)
        assert twin.std() > 1e-2
        np.testing.assert_allclose(ours, twin, rtol=2e-3, atol=2e-3 * np.abs(twin).max())


@pytest.mark.parametrize(("channels", "strides"), [(4, (1, 1)), (4, (2, 2)), (3, (1, 1)), (3, (1, 2, 2))])
def test_a_block_is_its_plain_twin(channels, strides):
    model = FunctionalModel(lambda rngs: _Called(BasicBlock(rngs, channels, 4, strides)))
    variables = _anything(jax.jit(model.init)(jax.random.key(0)))
    assert ("shortcut" in variables.params["inner"]) == (channels != 4 or max(strides) > 1)
    x = _random(2, *(5, 8, 7)[-len(strides) :], channels)
    for train in (False, True):
        ours, _ = jax.jit(model.apply, static_argnames="train")(variables, x, train=train)
        twin = _plain_block(variables.params["inner"], variables.stats["inner"], x, strides, train)
        np.testing.assert_allclose(ours, twin, rtol=1e-4, atol=1e-4)


class _Called(nnx.Module):
    """Passes `train` by name, as `FunctionalModel` does."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x, train=False):
        return self.inner(x, train)


def test_a_shift_by_the_stride_moves_a_block_s_output_by_one_pixel():
    model = FunctionalModel(lambda rngs: _Called(BasicBlock(rngs, 3, 4, (2, 2))))
    variables = jax.jit(model.init)(jax.random.key(0))
    x = np.zeros((1, 24, 24, 3), np.float32)
    x[:, 8:14, 8:12] = _random(1, 6, 4, 3)
    apply = jax.jit(lambda x: model.apply(variables, x)[0])
    here, there, between = (np.asarray(apply(np.roll(x, shift, (1, 2)))) for shift in (0, 2, 1))
    assert np.abs(here).max() > 0.1
    np.testing.assert_allclose(there, np.roll(here, 1, (1, 2)), atol=1e-6)
    assert not np.allclose(between, here, atol=1e-2)


def test_weights_start_normal_with_variance_two_over_fan_out():
    params = nnx.state(ConvolutionNorm(nnx.Rngs(0), 32, 64, (3, 3), (1, 1)), nnx.Param)
    weights = np.asarray(params["kernel"][...])
    expected = (2 / (9 * 64)) ** 0.5
    np.testing.assert_allclose(weights.std(), expected, rtol=0.02)
    # A normal distribution cut at two deviations, another usual choice, ends there.
    assert np.abs(weights).max() > 3 * expected


def test_training_averages_the_statistics_of_its_batches_and_inference_leaves_them():
    model = _functional()
    variables = jax.jit(model.init)(jax.random.key(0))
    apply = jax.jit(model.apply, static_argnames="train")
    x = 2 + _random(4, 33, 40, 1)
    seen = _plain_convolution(x, np.asarray(variables.params["stem"]["kernel"]), (2, 2))
    _, stats = apply(variables, x, train=True)
    _, again = apply(variables._replace(stats=stats), x, train=True)
    mean, variance = seen.mean((0, 1, 2)), seen.var((0, 1, 2))
    for found, kept in ((stats, 0.9), (again, 0.81)):
        norm = found["stem"]["norm"]
        np.testing.assert_allclose(norm["mean"], (1 - kept) * mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(norm["variance"], kept + (1 - kept) * variance, rtol=1e-4)
    before, after = jax.tree.leaves(variables.stats), jax.tree.leaves(stats)
    assert len(after) == 2 * 20, "a mean and a variance for the stem, 16 convolutions and 3 shortcuts"
    assert not any(np.allclose(a, b) for a, b in zip(before, after, strict=True))
    _, left = apply(variables._replace(stats=stats), x)
    jax.tree.map(np.testing.assert_array_equal, left, stats)


@pytest.mark.slow
def test_a_crop_sees_the_others_of_its_batch_in_training_only():
    model = _functional()
    variables = jax.jit(model.init)(jax.random.key(0))
    apply = jax.jit(model.apply, static_argnames="train")
    x = _random(4, 33, 40, 1)
    for train in (False, True):
        whole, _ = apply(variables, x, train=train)
        other, _ = apply(variables, np.concatenate([x[:1], 3 + x[1:]]), train=train)
        assert np.allclose(whole[0], other[0], rtol=1e-5) == (not train)


@pytest.mark.slow
def test_bfloat16_is_close_to_float32_and_keeps_its_parameters():
    x = _random(4, 33, 40, 1)
    outputs = []
    for dtype in ("float32", "bfloat16"):
        model = _functional(dtype=dtype, widths=(8, 8, 8, 8))
        variables = jax.jit(model.init)(jax.random.key(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        outputs.append(np.asarray(jax.jit(model.apply)(variables, x)[0]))
    assert outputs[1].dtype == np.float32
    error = np.abs(outputs[1] - outputs[0]).max() / outputs[0].std()
    assert 0 < error < 0.2
