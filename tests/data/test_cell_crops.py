"""How cells are shown to a network, and whole frames embedded."""

import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.data import normalise
from celltrack_jax.data.cell_crops import CropSpec, FrameEmbedder, span
from celltrack_jax.errors import InputError

MASKED = CropSpec(size=(6, 6), kind="masked", light=True, scale="percentiles", fixed_range=())


def embedder(spec, chunks=(4, 8)):
    """A network that returns its input, scaled by its only variable."""
    outputs = int(np.prod(spec.size))
    return FrameEmbedder(
        lambda factor, x: factor * x.reshape(len(x), -1), jnp.float32(1), spec, outputs, chunks
    )


def frame(cells=11, ndim=2, seed=0):
    """Squares of 3 voxels, in one row; ids above 32 bits' sign."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((8, 5 * cells), np.uint32)
    ids = rng.permutation(100)[:cells].astype(np.int64) + 2**31
    for i, label in enumerate(ids):
        labels[2:5, 5 * i : 5 * i + 3] = label
    low = np.stack([np.zeros(cells, int), np.full(cells, 2), 5 * np.arange(cells)], 1)
    image = rng.integers(100, 4000, labels.shape).astype(np.uint16)
    if ndim == 3:
        labels, image = labels[None], image[None]
    return labels, image, ids, low, low + np.array([1, 3, 3])


@pytest.mark.parametrize("scale", ["percentiles", "movie", "fixed"])
def test_a_masked_crop_shows_the_cell_alone_on_the_chosen_scale(scale):
    labels, image, ids, low, high = frame()
    fixed = (50.0, 5000.0) if scale == "fixed" else ()
    embed = embedder(CropSpec((6, 6), "masked", True, scale, fixed))
    between = {"fixed": fixed, "movie": (7.0, 900.0)}.get(scale)
    if scale == "movie":
        with pytest.raises(ValueError, match="of_movie"):
            embed(labels, image, ids, low, high)
        embed = embed.of_movie(7.0, 900.0)
    if scale == "percentiles":
        between = normalise.percentiles(image[None])[0, [0, 2]]
    found = embed(labels, image, ids, low, high).reshape(-1, 6, 6)
    assert found.shape == (11, 6, 6)
    for i, crop in enumerate(found):
        inside = image[2:5, 5 * i : 5 * i + 3].astype(np.float64)
        expected = np.pad((inside - between[0]) / (between[1] - between[0]), ((1, 2), (1, 2)))
        np.testing.assert_allclose(crop, expected, rtol=1e-5)


def test_chunks_change_nothing_and_no_cell_is_fine():
    labels, image, ids, low, high = frame()
    whole, parts = (embedder(MASKED, chunks)(labels, image, ids, low, high) for chunks in [(16,), (1, 2)])
    np.testing.assert_array_equal(whole, parts)
    none = embedder(MASKED)(np.zeros_like(labels), image, ids[:0], low[:0], high[:0])
    assert none.shape == (0, 36)


def test_without_light_the_mask_is_shown_whatever_the_image():
    labels, image, ids, low, high = frame()
    embed = embedder(CropSpec((6, 6), "masked", False, "percentiles", ()))
    found = embed(labels, None, ids, low, high)
    np.testing.assert_array_equal(found, embed(labels, image, ids, low, high))
    expected = np.pad(np.ones((3, 3)), ((1, 2), (1, 2)))
    np.testing.assert_array_equal(found.reshape(-1, 6, 6), np.repeat(expected[None], 11, 0))


def test_a_patch_shows_the_neighbours_too():
    labels, image, ids, low, high = frame()
    found = embedder(CropSpec((8, 8), "patch", True, "fixed", (0.0, 1.0)))(labels, image, ids, low, high)
    # Around the middle of the fifth cell, columns 20 to 22.
    np.testing.assert_array_equal(found[4].reshape(8, 8), image[:, 17:25])


def test_stacks_are_shown_as_stacks():
    labels, image, ids, low, high = frame(ndim=3)
    spec = CropSpec((3, 6, 6), "masked", True, "fixed", (0.0, 1.0))
    found = embedder(spec)(labels, image, ids, low, high).reshape(-1, 3, 6, 6)
    flat = CropSpec((6, 6), "masked", True, "fixed", (0.0, 1.0))
    expected = embedder(flat)(labels[0], image[0], ids, low, high).reshape(-1, 6, 6)
    np.testing.assert_array_equal(found[:, 1], expected)
    assert not found[:, [0, 2]].any()


def test_a_constant_frame_has_a_scale():
    np.testing.assert_array_equal(span(np.full((4, 4), 7, np.uint8), MASKED, None), [7, 8])


def test_errors_name_the_cure():
    labels, image, ids, low, high = frame()
    with pytest.raises(InputError, match=r"give --images, or a run whose"):
        embedder(MASKED)(labels, None, ids, low, high)
    with pytest.raises(InputError, match="3 axes and the embedder was trained on 2"):
        embedder(MASKED)(labels[None], image[None], ids, low, high)
    for change in ({"kind": "round"}, {"scale": "fixed"}, {"size": (4,)}, {"kind": "patch", "light": False}):
        with pytest.raises(InputError, match=r"config\.crops"):
            CropSpec(**{**MASKED.__dict__, **change})
