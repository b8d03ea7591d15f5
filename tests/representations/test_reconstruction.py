"""Images of which a part is hidden: what is hidden, and what counts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax import representations
from celltrack_jax.errors import InputError
from celltrack_jax.representations.reconstruction import Reconstruction

SHAPE = (7, 10, 9)
SETTINGS = {
    **{"channels": 2, "loss_name": "l2", "hidden": "blocks", "plane": 3, "block": (2, 4, 4), "share": 0.33},
    **{"everywhere": False, "fold": False, "output": "linear"},
}
_hide = jax.jit(Reconstruction.hide, static_argnums=0)
_cost = jax.jit(
    jax.value_and_grad(lambda told, r, wanted, hidden, known: r.loss(told, wanted, hidden, known)[0]),
    static_argnums=1,
)


def reconstruction(**changes) -> Any:
    built = representations.build("reconstruction", **SETTINGS | changes)
    assert isinstance(built, Reconstruction)
    return built


def image_of(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=(*shape, 2)).astype(np.float32)


@pytest.mark.parametrize(("share", "block"), [(0.33, 2), (0.5, 4)])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_same_share_of_whole_blocks_is_hidden_in_every_sample(share, block, seed):
    """Blocks need not divide the shape: those at the end are cut."""
    one = reconstruction(share=share, block=(block, 4, 4))
    image = image_of(seed)
    seen, hidden = map(np.asarray, _hide(one, image, jax.random.key(seed)))
    counts = [-(-size // length) for size, length in zip(SHAPE, (block, 4, 4), strict=True)]
    chosen = hidden[::block, ::4, ::4, 0]
    assert chosen.shape == tuple(counts)
    assert chosen.sum() == np.ceil(share * np.prod(counts))
    whole = chosen
    for axis, length in enumerate((block, 4, 4)):
        whole = np.repeat(whole, length, axis)
    np.testing.assert_array_equal(hidden[..., 0], whole[tuple(slice(size) for size in SHAPE)])
    np.testing.assert_array_equal(seen, np.where(hidden > 0, 0, image))
    _, again = _hide(one, image, jax.random.key(seed))
    np.testing.assert_array_equal(again, hidden)


def test_all_blocks_get_their_turn():
    hide = jax.jit(jax.vmap(lambda key: reconstruction().hide(jnp.ones((*SHAPE, 2)), key)[1]))
    mean = np.asarray(hide(jax.random.split(jax.random.key(0), 400))).mean(0)
    # Of 4 x 3 x 3 blocks twelve are hidden.
    assert np.abs(mean - 1 / 3).max() < 0.12


def test_a_plane_is_hidden_in_2d_too():
    seen, hidden = map(np.asarray, _hide(reconstruction(hidden="plane"), image_of(0), jax.random.key(0)))
    assert np.flatnonzero(hidden.any((1, 2, 3))).tolist() == [3]
    assert hidden[3].all()
    assert not seen[3].any()
    np.testing.assert_array_equal(seen[4:], image_of(0)[4:])
    _, row = _hide(reconstruction(hidden="plane"), image_of(0, (7, 9)), jax.random.key(0))
    assert np.flatnonzero(np.asarray(row).any((1, 2))).tolist() == [3]


def test_nothing_is_hidden_where_that_is_wanted():
    seen, hidden = _hide(reconstruction(hidden="nothing", everywhere=True), image_of(0), jax.random.key(0))
    np.testing.assert_array_equal(seen, image_of(0))
    assert not np.asarray(hidden).any()


@pytest.mark.parametrize("loss_name", ["l2", "rmsle"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_what_counts_is_hidden_or_everything(loss_name, everywhere):
    one = reconstruction(loss_name=loss_name, everywhere=everywhere)
    wanted, told = np.stack([image_of(0), image_of(1)]), np.stack([image_of(2), image_of(3)])
    hidden = np.random.default_rng(4).random((2, *SHAPE, 1)) < 0.3
    known = np.ones((2, *SHAPE, 1), np.float32)
    known[:, :2] = 0
    counts = np.broadcast_to((hidden | everywhere) & (known > 0), wanted.shape)
    if loss_name == "l2":
        expected = np.square(told - wanted)[counts].mean()
    else:
        off = np.log1p(np.maximum(told, 0)) - np.log1p(np.maximum(wanted, 0))
        expected = np.sqrt(np.square(off)[counts].mean())
    value, slope = _cost(told, one, wanted, hidden.astype(np.float32), known)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert not np.asarray(slope)[~counts].any()
    assert np.asarray(slope)[counts].any()
    best, flat = _cost(wanted, one, wanted, hidden.astype(np.float32), known)
    assert float(best) <= 1e-6
    assert np.isfinite(flat).all()
    none, slope = _cost(told, one, wanted, np.zeros_like(hidden, np.float32), known)
    assert np.isfinite(none)
    assert np.isfinite(slope).all()


def test_outputs_mean_what_they_say_and_a_sigmoid_tells_nothing_beyond_1():
    raw = np.linspace(-30, 30, 61).astype(np.float32)
    np.testing.assert_array_equal(reconstruction().told(raw), raw)
    soft = np.asarray(reconstruction(output="softplus").told(raw))
    np.testing.assert_allclose(soft, np.logaddexp(0, raw), rtol=1e-4, atol=1e-6)
    assert soft.min() >= 0
    assert soft.max() > 29
    assert np.asarray(reconstruction(output="sigmoid").told(raw)).max() <= 1
    # So that an image of 3 cannot be learned: the best loss is 2 squared, and nothing but it remains.
    wanted, hidden = np.full((1, 2, 2, 2, 2), 3, np.float32), np.ones((1, 2, 2, 2, 1), np.float32)
    high = np.full_like(wanted, 30)
    assert float(_cost(high, reconstruction(output="sigmoid"), wanted, hidden, hidden)[0]) == pytest.approx(4)
    exact = np.log(np.expm1(wanted))
    assert float(_cost(exact, reconstruction(output="softplus"), wanted, hidden, hidden)[0]) < 1e-9


def test_folding_turns_dark_background_bright():
    image = 100 + 7 * image_of(5)
    wanted = np.asarray(reconstruction(fold=True).wanted(jnp.asarray(image)))
    axes = (0, 1, 2)
    np.testing.assert_allclose(wanted, np.abs((image - image.mean(axes)) / image.std(axes)), atol=1e-3)
    assert wanted.min() >= 0
    np.testing.assert_allclose(np.square(wanted).mean(axes), 1, rtol=1e-3)
    assert not np.asarray(reconstruction(fold=True).wanted(jnp.ones((3, 4, 2)))).any()
    np.testing.assert_array_equal(reconstruction().wanted(image), image)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss_name": "l3"}, "representation.loss_name is 'l3'"),
        ({"hidden": "faces"}, "representation.hidden is 'faces'"),
        ({"output": "tanh"}, "representation.output is 'tanh'"),
        ({"share": 1.0}, "share 1.0 lies between 0 and 1"),
        ({"block": (0, 4, 4)}, r"representation.block \(0, 4, 4\) counts voxels"),
        ({"hidden": "nothing"}, "nothing is left to learn: set everywhere"),
    ],
)
def test_impossible_settings_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        reconstruction(**changes)
