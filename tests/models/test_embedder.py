"""The embedder: its size, its linear layers, unit vectors, and a batch split over devices."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from celltrack_jax import models
from celltrack_jax.errors import InputError
from celltrack_jax.models import embedder
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.models.resnet import ResNet
from tests.devices import on_devices

SMALL: dict[str, Any] = dict(widths=(3, 4, 4, 5), outputs=6)
TRUNK = 11_170_240


def _functional(**changes):
    return FunctionalModel(lambda rngs: models.build("embedder", rngs, **SMALL | changes))


def _crops(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (dict(ndim=2, depth=18, outputs=128, hidden=(), dtype="float32"), TRUNK + 65_664),
        (dict(ndim=3), 33_160_000 + 65_664),
        (dict(hidden=(256,)), TRUNK + 513 * 256 + 257 * 128),
    ],
)
def test_it_has_the_parameters_of_the_original(settings, count):
    model = nnx.eval_shape(lambda: models.build("embedder", nnx.Rngs(0), **settings))
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))) == count


@pytest.mark.parametrize("size", [(64, 64), (21, 30), (5, 32, 17)])
def test_a_crop_of_any_size_becomes_a_unit_vector(size):
    model = _functional(ndim=len(size), dtype="bfloat16")
    variables = jax.eval_shape(model.init, jax.random.key(0))
    crops = jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
    out, _ = jax.eval_shape(model.apply, variables, crops)
    assert (out.shape, out.dtype) == ((2, 6), jnp.float32)


@pytest.mark.parametrize("hidden", [(), (7, 3)])
def test_linear_layers_have_a_relu_between_them_and_norm_one_after(hidden):
    model = _functional(hidden=hidden)
    trunk = FunctionalModel(
        lambda rngs: ResNet(rngs, ndim=2, depth=18, widths=SMALL["widths"], dtype="float32")
    )
    variables = jax.jit(model.init)(jax.random.key(0))
    crops = _crops(3, 33, 20, 1)
    x = np.asarray(jax.jit(trunk.apply)(Variables(*(tree["trunk"] for tree in variables)), crops)[0])
    for number, layer in variables.params["layers"].items():
        x = np.maximum(x, 0) if number else x
        x = x @ layer["kernel"] + layer["bias"]
    apply = jax.jit(lambda *inputs: model.apply(variables, *inputs)[0])
    out = apply(crops)
    np.testing.assert_allclose(out, x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(apply(crops, jax.random.key(0)), out)


def test_a_zero_vector_has_a_finite_gradient():
    model = _functional()
    variables = jax.jit(model.init)(jax.random.key(0))
    params = {**variables.params, "layers": jax.tree.map(jnp.zeros_like, variables.params["layers"])}

    def total(params):
        return jnp.sum(model.apply(variables._replace(params=params), _crops(2, 33, 20, 1))[0])

    value, gradients = jax.jit(jax.value_and_grad(total))(params)
    assert value == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


def test_linear_layers_start_as_pytorch_s():
    layer = embedder.Linear(nnx.Rngs(0), 400, 50)
    for values in (layer.kernel[...], layer.bias[...]):
        assert 0.9 / 20 < np.abs(values).max() < 1 / 20
    np.testing.assert_allclose(np.std(layer.kernel[...]), 1 / 20 / 3**0.5, rtol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [(dict(outputs=0), "outputs 0"), (dict(hidden=(4, 0)), "hidden"), (dict(width=3), "width")],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        _functional(**change)


@pytest.mark.slow
def test_a_batch_split_over_devices_gives_the_statistics_and_gradients_of_the_whole():
    environment = on_devices(4)
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.run_sharded"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    whole, split = json.loads(done.stdout.splitlines()[-1])
    assert (whole.pop("devices"), split.pop("devices")) == ([1], [4])
    assert max(whole["gradients"]) > 1e-2
    for name, values in whole.items():
        np.testing.assert_allclose(split[name], values, rtol=1e-3, atol=1e-5, err_msg=name)
