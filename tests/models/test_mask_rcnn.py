"""The network's shapes, its start, and what its levels see."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from celltrack_jax.errors import InputError
from celltrack_jax.models.feature_pyramid import FeaturePyramid
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.models.mask_rcnn import BoxRegions, MaskRCNN, MaskRegions

SMALL: dict[str, Any] = dict(
    in_channels=1,
    classes=3,
    anchors=2,
    depth=10,
    widths=(4, 4, 8, 8),
    channels=8,
    stem_kernel=3,
    stem_strides=(2, 1),
    norm="group",
    groups=2,
    hidden=16,
    mask_convs=1,
    samples=1,
    finest_px=32.0,
    prior=0.05,
    dtype="float32",
)
SMALL_PYRAMID = {
    key: value
    for key, value in SMALL.items()
    if key not in ("classes", "anchors", "hidden", "mask_convs", "samples", "finest_px", "prior")
}
BOXES = np.array([[[3, 4, 20, 30], [0, 0, 64, 48], [0, 0, 0, 0]]] * 2, np.float32)


class _Called(nnx.Module):
    """Passes `train` by name, as `FunctionalModel` does."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x, train=False):
        return self.inner(x, train)


def _functional(**changes):
    return FunctionalModel(lambda rngs: MaskRCNN(rngs, **SMALL | changes))


@pytest.fixture(scope="module")
def outputs():
    """Of a fresh network: image, boxes and masks."""
    model = _functional()

    def everything(key):
        variables = model.init(key)
        image = model.apply(variables, jax.random.normal(key, (2, 64, 48, 1)))[0]
        boxes = model.apply(variables, BoxRegions(image.pyramid, jnp.asarray(BOXES)))[0]
        return image, boxes, model.apply(variables, MaskRegions(image.pyramid, jnp.asarray(BOXES)))[0]

    return jax.jit(everything)(jax.random.key(0))


def test_each_part_has_its_shapes(outputs):
    image, boxes, masks = outputs
    sizes = [(32, 24), (16, 12), (8, 6), (4, 3), (2, 2)]
    assert [level.shape for level in image.pyramid] == [(2, *size, 8) for size in sizes]
    assert [logits.shape for logits in image.objectness] == [(2, 2 * math.prod(size)) for size in sizes]
    assert [deltas.shape for deltas in image.deltas] == [(2, 2 * math.prod(size), 4) for size in sizes]
    assert boxes.logits.shape == (2, 3, 4)
    assert boxes.deltas.shape == (2, 3, 3, 4)
    assert masks.shape == (2, 3, 28, 28, 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}


def test_it_starts_near_its_priors(outputs):
    image, boxes, masks = outputs
    for logits in image.objectness:
        np.testing.assert_allclose(jax.nn.sigmoid(logits), 0.05, atol=0.02)
    shares = np.asarray(jax.nn.softmax(boxes.logits))
    np.testing.assert_allclose(shares[..., 0], 0.75, atol=0.05)
    np.testing.assert_allclose(shares[..., 1:], 0.25 / 3, atol=0.03)
    assert all(np.abs(deltas).max() < 0.5 for deltas in (*image.deltas, boxes.deltas))
    np.testing.assert_allclose(jax.nn.sigmoid(masks), 0.5, atol=0.2)


def test_features_of_no_box_are_those_of_zeros(outputs):
    _, boxes, masks = outputs
    np.testing.assert_array_equal(boxes.logits[0, 2], boxes.logits[1, 2])
    assert not np.array_equal(boxes.logits[0, 0], boxes.logits[1, 0])
    np.testing.assert_array_equal(masks[0, 2], masks[1, 2])


@pytest.mark.parametrize(
    ("stem_strides", "expected"), [((2, 2), (4, 8, 16, 32, 64)), ((1, 1), (1, 2, 4, 8, 16))]
)
def test_the_stem_sets_the_strides(stem_strides, expected):
    model = nnx.eval_shape(lambda: MaskRCNN(nnx.Rngs(0), **SMALL | dict(stem_strides=stem_strides)))
    assert model.strides == expected
    assert model.stride == (expected[3],) * 2
    functional = _functional(stem_strides=stem_strides)
    image = jax.ShapeDtypeStruct((1, 64, 96, 1), jnp.float32)
    variables = jax.eval_shape(functional.init, jax.random.key(0))
    pyramid = jax.eval_shape(functional.apply, variables, image)[0].pyramid
    assert [level.shape[1] for level in pyramid] == [64 // stride for stride in expected]


@pytest.mark.parametrize(
    ("depth", "count"), [(50, 23_508_032 - 2 * 49 * 64), (34, 21_278_400), (18, 11_170_240)]
)
def test_the_stages_have_the_parameters_of_the_original(depth, count):
    """Those of torchvision's ResNet-50 without its last layer, whose stem sees three channels."""
    settings: dict[str, Any] = SMALL | dict(
        depth=depth, widths=(64, 128, 256, 512), stem_kernel=7, norm="batch"
    )
    model = nnx.eval_shape(lambda: MaskRCNN(nnx.Rngs(0), **settings))
    parts = nnx.state((model.pyramid.stem, model.pyramid.stages), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(parts)) == count


def test_norms_batch_learns_statistics_frozen_keeps_them():
    x = 2 + jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    for norm in ("batch", "frozen"):
        pyramid: dict[str, Any] = SMALL_PYRAMID | dict(norm=norm)
        model = FunctionalModel(lambda rngs, pyramid=pyramid: _Called(FeaturePyramid(rngs, **pyramid)))
        variables = jax.jit(model.init)(jax.random.key(0))
        _, stats = jax.jit(lambda v, model=model: model.apply(v, x, train=True))(variables)
        same = jax.tree.map(np.array_equal, stats, variables.stats)
        assert all(jax.tree.leaves(same)) == (norm == "frozen")
        assert len(jax.tree.leaves(stats)) > 0


def test_blocks_start_as_their_shortcuts_so_that_frozen_statistics_do_not_explode():
    model = _functional(norm="frozen")
    params = jax.jit(model.init)(jax.random.key(0)).params["pyramid"]
    blocks = [block for stage in params["stages"].values() for block in stage.values()]
    assert len(blocks) == 4
    for block in blocks:
        assert not np.asarray(block["second"]["norm"]["scale"]).any()
        assert np.asarray(block["first"]["norm"]["scale"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(depth=51), "depth 51 is none of"),
        (dict(widths=(2, 2)), "give 4, one per stage"),
        (dict(norm="layer"), "norm 'layer' is none of"),
        (dict(stem_strides=(4, 1)), "give 1 or 2"),
        (dict(stem_kernel=4), "must be odd"),
        (dict(prior=0.0), "prior 0.0"),
        (dict(classes=0), "classes 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        _functional(**change)


def test_an_image_that_does_not_divide_is_refused():
    model = _functional()
    variables = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(InputError, match="an image of 40x64 pixels for a pyramid of stride 16: pad it"):
        jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((1, 40, 64, 1), jnp.float32))
