"""Properties of UNETR: sizes, its parameter count, positions of other sizes, attention, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from celltrack_jax import models
from celltrack_jax.errors import InputError
from celltrack_jax.models import unetr
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.training.optimizer import make_optimizer
from configs.hela import centroids

FLAT = dict(
    in_channels=1,
    heads={"cells": 2, "flow": 3},
    patch=(4, 4),
    size=(16, 24),
    depth=3,
    width=8,
    heads_count=2,
    mlp_ratio=2,
    widths=(4, 6),
    taps=(1, 3),
    norm="group",
    groups=2,
    dtype="float32",
)
DEEP = FLAT | dict(patch=(4, 4, 4), size=(8, 16, 16))


def _functional(**kwargs):
    return FunctionalModel(lambda rngs: models.build("unetr", rngs, **kwargs))


def _abstract(**kwargs):
    return nnx.eval_shape(lambda: unetr.build(nnx.Rngs(0), **kwargs))


def _module(**kwargs):
    """The module, its parameters made in one program."""
    values = jax.jit(lambda: nnx.state(unetr.build(nnx.Rngs(0), **kwargs)))()
    return nnx.merge(nnx.graphdef(_abstract(**kwargs)), values)


def _image(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _shapes(x, **kwargs):
    def built_and_applied(x):
        model = unetr.build(nnx.Rngs(0), **kwargs)
        return model(x)

    return jax.eval_shape(built_and_applied, x)


def _outputs(model, x):
    return jax.jit(lambda x: model(x))(x)  # noqa: PLW0108 (a module is no function of arrays to jit)


@pytest.mark.parametrize(
    ("changes", "size", "stride"),
    [
        (FLAT, (16, 24), (4, 4)),
        (FLAT, (32, 20), (4, 4)),
        (DEEP, (8, 16, 16), (4, 4, 4)),
        (DEEP, (4, 8, 20), (4, 4, 4)),
    ],
)
def test_outputs_have_the_size_of_the_input(changes, size, stride):
    network = _abstract(**changes)
    assert network.stride == stride
    assert network.receptive_radius == tuple(n // 2 for n in changes["size"])
    out = _shapes(_image(2, *size, 1), **changes)
    assert {name: y.shape for name, y in out.items()} == {"cells": (2, *size, 2), "flow": (2, *size, 3)}
    assert all(y.dtype == jnp.float32 for y in out.values())


def test_a_size_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(InputError, match=r"\(16, 22\).*stride \(4, 4\)"):
        _shapes(_image(1, 16, 22, 1), **FLAT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(patch=(4,)), "2 or 3 axes"),
        (dict(patch=(8, 8)), r"patch \(8, 8\) for 2 levels: give 4 pixels"),
        (dict(patch=(4, 2)), "give 4 pixels"),
        (dict(size=(16, 16, 16)), "differ in axes"),
        (dict(size=(16, 22)), "no multiple of the patch"),
        (dict(heads_count=3), "width 8 does not divide among heads_count 3"),
        (dict(taps=(3,)), "one block per level"),
        (dict(taps=(3, 1)), "ascending"),
        (dict(taps=(0, 3)), "from 1"),
        (dict(taps=(1, 2)), "end with the last of 3 blocks"),
        (dict(norm="layer"), "norm"),
        (dict(heads={}), "heads"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        _abstract(**FLAT | change)


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.split(tree, nnx.Param, ...)[1]))


def _transformer(grid, pixels, width, depth, ratio):
    """Parameters of the encoder: patches, positions, blocks, and the last normalisation."""
    attention = 4 * width * width + 4 * width
    perceptron = 2 * ratio * width * width + (ratio + 1) * width
    return (pixels + 1 + grid) * width + depth * (attention + perceptron + 4 * width) + 2 * width


def _decoder(width, widths, heads):
    """Parameters in 2D: convolutions have no bias but a scale and an offset, transposed ones a bias."""

    def conv(channels, out):
        return 9 * channels * out + 2 * out

    def rise(channels, out):
        return (4 * channels + 1) * out

    total = conv(1, widths[0]) + conv(widths[0], widths[0]) + (widths[0] + 1) * heads
    for level, (fine, coarse) in enumerate(zip(widths, (*widths[1:], width), strict=True)):
        total += rise(coarse, fine) + conv(2 * fine, fine) + conv(fine, fine)
        if level:
            again = len(widths) - level - 1
            total += rise(width, fine) + conv(fine, fine) + again * (rise(fine, fine) + conv(fine, fine))
    return total


def test_the_number_of_parameters_is_in_closed_form():
    network = _abstract(**FLAT)
    assert _count(network.encoder) == _transformer(4 * 6, 16, 8, 3, 2)
    assert _count(network) == _transformer(4 * 6, 16, 8, 3, 2) + _decoder(8, (4, 6), 5)
    settings = centroids.get_config("vit").model.to_dict() | dict(
        in_channels=1, heads={"cells": 3}, dtype="float32"
    )
    settings.pop("name")
    expected = _transformer(8 * 8, 256, 384, 12, 4) + _decoder(384, (32, 64, 128, 256), 3)
    assert _count(_abstract(**settings)) == expected


@pytest.mark.slow
def test_every_patch_sees_every_other_and_knows_its_place():
    network = _module(**FLAT)
    encode = jax.jit(lambda x: network.encoder(x, (3,))[-1])
    x = _image(1, 16, 24, 1)
    features = encode(x)
    changed = encode(x.at[0, 15, 23].add(1.0))
    assert (np.abs(changed - features).max(-1) > 1e-7).all()
    # Equal patches differ by their position alone; without positions, attention would not tell them apart.
    flat = encode(jnp.ones((1, 16, 24, 1))).reshape(24, -1)
    assert np.linalg.norm(flat[:, None] - flat, axis=-1)[~np.eye(24, dtype=bool)].min() > 1e-3
    network.encoder.position[...] = jnp.zeros((4, 6, 8))
    alone = jax.jit(lambda x: network.encoder(x, (3,))[-1])
    shuffled = jnp.flip(x.reshape(1, 4, 4, 6, 4, 1), (1, 3)).reshape(x.shape)
    np.testing.assert_allclose(alone(shuffled), jnp.flip(alone(x), (1, 2)), atol=1e-5)


def test_attention_is_softmax_of_scaled_products():
    block = unetr.TransformerBlock(nnx.Rngs(0), 8, 2, 16)
    x = np.asarray(_image(2, 5, 8))
    weights = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(block)))

    def linear(name, x):
        return x @ weights[name]["kernel"] + weights[name]["bias"]

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    query, key, value = np.split(linear("ask", norm(x)).reshape(2, 5, 3 * 2, 4), 3, 2)
    score = np.exp(np.einsum("bqhc,bkhc->bhqk", query, key) / 2)
    seen = np.einsum("bhqk,bkhc->bqhc", score / score.sum(-1, keepdims=True), value).reshape(2, 5, 8)
    middle = x + linear("answer", seen)
    expected = middle + linear("out", np.asarray(jax.nn.gelu(linear("hidden", norm(middle)))))
    np.testing.assert_allclose(block(jnp.asarray(x)), expected, atol=1e-5)


def test_positions_of_other_sizes_are_interpolated():
    """Positions that are the patch's own place, halfway between two patches, are those of the learned ones' middle."""
    network = _module(**FLAT)
    place = np.stack(np.meshgrid(np.arange(4.0), np.arange(6.0), indexing="ij"), -1)
    position = np.concatenate([place, np.zeros((4, 6, 6))], -1)
    network.encoder.position[...] = jnp.asarray(position, jnp.float32)
    expected = np.stack(np.meshgrid(np.arange(8), np.arange(12), indexing="ij"), -1) / 2 - 0.25
    found = np.asarray(network.encoder.positions((8, 12)))
    np.testing.assert_allclose(found[1:-1, 1:-1, :2], expected[1:-1, 1:-1], atol=1e-6)
    np.testing.assert_array_equal(network.encoder.positions((4, 6)), position)


def _loss(model, variables, x, wanted):
    def loss(params):
        out, _ = model.apply(variables._replace(params=params), x, train=True)
        return jnp.mean((out["cells"] - wanted) ** 2)

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_lowers_the_loss_and_a_rule_freezes_the_encoder(frozen):
    model = _functional(**FLAT | dict(heads={"cells": 2}))
    variables = jax.jit(model.init)(jax.random.key(0))
    x, wanted = _image(2, 16, 24, 1), _image(2, 16, 24, 2, seed=1)
    loss = _loss(model, variables, x, wanted)
    config = centroids.get_config("tiny").optimizer
    config.warmup_steps, config.learning_rate = 0, 1e-3
    if frozen:
        config.learning_rate_rules = (("^encoder/", 0.0), (".*", 1.0))
    optimizer = make_optimizer(config, 10, variables.params)

    @jax.jit
    def step(params, gradients):
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return jax.tree.map(jnp.add, params, updates)

    before, gradients = loss(variables.params)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients))
    params = step(variables.params, gradients)
    assert float(loss(params)[0]) < float(before)
    moved = {
        name: any(
            bool((a != b).any())
            for a, b in zip(
                jax.tree.leaves(params[name]), jax.tree.leaves(variables.params[name]), strict=True
            )
        )
        for name in params
    }
    assert moved.pop("encoder") == (not frozen)
    assert all(moved.values())


@pytest.mark.slow
def test_bfloat16_is_close_to_float32():
    x = _image(2, 16, 24, 1)
    exact, rough = (_outputs(_module(**FLAT | dict(dtype=dtype)), x) for dtype in ("float32", "bfloat16"))
    for name, y in exact.items():
        assert rough[name].dtype == jnp.float32
        error = float(jnp.abs(rough[name] - y).max() / y.std())
        assert 0 < error < 0.3
