"""Cellpose's network: its size, its statistics, its style, how far it sees; the golden test has its values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.errors import InputError
from tests.models import networks

PUBLISHED: dict[str, Any] = dict(
    in_channels=2,
    heads={"cells": 3},
    widths=(32, 64, 128, 256),
    kernels=((3, 3),) * 4,
    pools=((2, 2),) * 3,
    norm="batch",
    groups=8,
    style=True,
    dtype="float32",
)
SMALL: dict[str, Any] = PUBLISHED | dict(in_channels=1, widths=(4, 6), kernels=((3, 3),) * 2, pools=((2, 2),))
VOLUME: dict[str, Any] = SMALL | dict(
    heads={"cells": 4},
    widths=(4, 6),
    kernels=((1, 3, 3), (3, 3, 3)),
    pools=((1, 2, 2),),
)


def _variables(model, seed=0):
    return jax.jit(model.init)(jax.random.key(seed))


def test_it_has_the_parameters_of_the_original():
    assert networks.count(networks.abstract("cpnet", **PUBLISHED)) == 6_600_843


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("settings", "size"), [(SMALL, (16, 24)), (VOLUME, (3, 8, 12))])
def test_shapes_of_the_outputs(norm, settings, size):
    x = networks.image(2, *size, 1)
    found = networks.shapes("cpnet", x, **settings | dict(norm=norm, dtype="bfloat16"))
    assert found["cells"].shape == (2, *size, settings["heads"]["cells"])
    assert found["style"].shape == (2, settings["widths"][-1])
    assert {out.dtype for out in found.values()} == {jnp.dtype("float32")}


def test_pixels_see_the_style_beyond_their_receptive_field():
    model = networks.functional("cpnet", **SMALL)
    radius = networks.abstract("cpnet", **SMALL).receptive_radius[0]
    near = networks.image(1, 2 * (radius // 2) + 4, 8, 1)
    far = near.at[:, -2:].add(3)
    variables, apply = _variables(model), jax.jit(model.apply)
    here, there = (apply(variables, x)[0] for x in (near, far))
    np.testing.assert_allclose(np.linalg.norm(here["style"], axis=-1), 1, rtol=1e-5)
    assert not np.allclose(here["cells"][0, 0, 0], there["cells"][0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("settings", [SMALL, pytest.param(VOLUME, marks=pytest.mark.slow)])
def test_it_sees_as_far_as_it_says(settings):
    network = networks.module("cpnet", **settings | dict(style=False, norm="none"))
    assert networks.reach(network, "cells") == network.receptive_radius


def test_training_keeps_95_percent_of_the_statistics_and_inference_all():
    model = networks.functional("cpnet", **SMALL)
    variables = _variables(model)
    x = 2 + 3 * networks.image(4, 16, 16, 1)
    apply = jax.jit(model.apply, static_argnames="train")
    _, stats = apply(variables, x, train=True)
    first = stats["down"][0]["project"]["norm"]
    np.testing.assert_allclose(first["mean"], [0.05 * x.mean()], rtol=1e-4)
    np.testing.assert_allclose(first["variance"], [0.95 + 0.05 * x.var()], rtol=1e-4)
    before, after = jax.tree.leaves(variables.stats), jax.tree.leaves(stats)
    assert not any(np.allclose(a, b) for a, b in zip(before, after, strict=True))
    _, left = apply(variables._replace(stats=stats), x)
    jax.tree.map(np.testing.assert_array_equal, left, stats)


def test_every_kernel_is_learned():
    model = networks.functional("cpnet", **SMALL)
    variables = _variables(model)
    x = networks.image(2, 8, 12, 1)

    def loss(params):
        out, _ = model.apply(variables._replace(params=params), x, train=True)
        return jnp.mean(jnp.sin(3 * out["cells"]))

    slopes = jax.jit(jax.grad(loss))(variables.params)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        # What is the same everywhere the next normalisation takes away.
        name = jax.tree_util.keystr(path)
        assert np.abs(slope).max() > 1e-6 or "kernel" not in name, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(heads={"style": 3}), "'style'"),
        (dict(norm="layer"), "norm 'layer'"),
        (dict(pools=((2, 2),) * 2), "give 1"),
        (dict(kernels=((3, 3), (2, 2))), "must be odd"),
        (dict(colour=1), "colour"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        networks.abstract("cpnet", **SMALL | change)


def test_an_input_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(InputError, match="no multiple"):
        networks.shapes("cpnet", networks.image(1, 17, 16, 1), **SMALL)
