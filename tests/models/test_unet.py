"""Properties of the U-Net: sizes, sight, statistics, remat, precision, parity with PyTorch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from celltrack_jax import models
from celltrack_jax.errors import InputError
from celltrack_jax.models import encoder_decoder, layers, unet
from celltrack_jax.models.functional import FunctionalModel

FLAT = dict(
    in_channels=1,
    heads={"cells": 2, "flow": 3},
    widths=(4, 8, 12),
    kernels=((3, 3), (3, 3), (3, 3)),
    pools=((2, 2), (2, 2)),
    stem=(1, 1),
    convs=2,
    narrow_first=False,
    bias=True,
    norm="group",
    groups=2,
    affine=True,
    activation="relu",
    order="cna",
    dropout=0.0,
    upsample="transposed",
    up_channels="halve",
    join="concat",
    remat=(False, False, False),
    dtype="float32",
)
DEEP = FLAT | dict(
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)), pools=((1, 2, 2), (2, 2, 2)), stem=(1, 1, 1), convs=1
)


def _functional(**kwargs):
    return FunctionalModel(lambda rngs: models.build("unet", rngs, **kwargs))


def _module(**kwargs):
    """The module, its parameters made in one program: op by op, a test would compile hundreds."""
    values = jax.jit(lambda: nnx.state(unet.build(nnx.Rngs(0), **kwargs)))()
    return nnx.merge(nnx.graphdef(_abstract(**kwargs)), values)


def _abstract(**kwargs):
    """The module without values: enough for its shape properties, and nothing compiles."""
    return nnx.eval_shape(lambda: unet.build(nnx.Rngs(0), **kwargs))


def _image(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _shapes(x, **kwargs):
    def built_and_applied(x):
        model = unet.build(nnx.Rngs(0), **kwargs)
        return model(x)

    return jax.eval_shape(built_and_applied, x)


def _outputs(model, x):
    return jax.jit(lambda x: model(x))(x)  # noqa: PLW0108 (a module is no function of arrays to jit)


@pytest.mark.parametrize(
    ("changes", "size", "stride"),
    [
        (FLAT, (8, 12), (4, 4)),
        (FLAT | dict(stem=(2, 1)), (8, 12), (8, 4)),
        (DEEP, (2, 8, 4), (2, 4, 4)),
        (DEEP | dict(join="sum", norm="none", order="ac"), (4, 4, 8), (2, 4, 4)),
    ],
)
def test_outputs_have_the_size_of_the_input(changes, size, stride):
    assert _abstract(**changes).stride == stride
    out = _shapes(_image(2, *size, 1), **changes)
    assert {name: y.shape for name, y in out.items()} == {"cells": (2, *size, 2), "flow": (2, *size, 3)}
    assert all(y.dtype == jnp.float32 for y in out.values())


def test_a_size_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(InputError, match=r"\(8, 10\).*stride \(4, 4\)"):
        _shapes(_image(1, 8, 10, 1), **FLAT)
    with pytest.raises(InputError, match="2D U-Net"):
        _shapes(_image(1, 8, 8, 8, 1), **FLAT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(kernels=((3, 3), (2, 3), (3, 3))), "odd"),
        (dict(kernels=((3, 3), (3, 3))), "one per level"),
        (dict(pools=((2, 2),)), "1 pools for 3 levels"),
        (dict(pools=((2, 2), (2, 2, 2))), "axes"),
        (dict(stem=(1, 1, 1)), "axes"),
        (dict(remat=(True,)), "remat"),
        (dict(norm="layer"), "norm"),
        (dict(activation="tanh"), "tanh"),
        (dict(order="na"), "order"),
        (dict(order="cc"), "order"),
        (dict(join="add"), "join"),
        (dict(heads={}), "heads"),
        (dict(convs=0), "convs"),
        (dict(dropout=1.0), "dropout"),
        (dict(upsample="cubic"), "cubic"),
        (dict(up_channels="double"), "double"),
        (dict(convs=1, narrow_first=True), "raise convs"),
        (dict(upsample="overlapping", pools=((2, 4), (2, 2))), r"gaps in windows \(2, 4\)"),
        (dict(up_channels="keep", join="sum"), "set up_channels to 'halve'"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        _abstract(**FLAT | change)


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match=r"celltrack_jax/models/vnet\.py"):
        models.build("vnet", nnx.Rngs(0))


@pytest.mark.parametrize(
    "change",
    [
        dict(convs=1),
        dict(kernels=((5, 3), (3, 1), (3, 3)), convs=1),
        dict(pools=((2, 3), (1, 2)), convs=1),
        dict(stem=(2, 1), convs=1),
        dict(upsample="bilinear", pools=((2, 3), (1, 2)), convs=1),
        dict(upsample="nearest", join="none", pools=((2, 3), (1, 2)), convs=1),
        dict(upsample="overlapping", pools=((2, 3), (1, 2)), kernels=((5, 3), (3, 3), (3, 1)), convs=1),
        dict(upsample="bilinear", up_channels="keep", stem=(1, 2), convs=1),
    ],
)
def test_the_receptive_radius_is_where_gradients_end(change):
    """Over all output pixels of one stride: nothing beyond the radius is seen, and the radius itself is."""
    model = _module(**FLAT | dict(norm="none", activation="silu", widths=(3, 3, 3)) | change)
    radius, stride = model.receptive_radius, model.stride
    size = [(2 * -(-(r + 1) // s) + 1) * s for r, s in zip(radius, stride, strict=True)]
    corner = [(n - s) // 2 for n, s in zip(size, stride, strict=True)]
    see = jax.jit(jax.grad(lambda x, pixel: model(x)["cells"][0, pixel[0], pixel[1]].sum()))
    for axis in range(2):
        reach = 0
        for offset in range(stride[axis]):
            pixel = [c + offset * (i == axis) for i, c in enumerate(corner)]
            # A maximum sees one pixel of its window: the union over images sees what can be seen.
            seen = [np.asarray(see(_image(1, *size, 1, seed=seed), jnp.array(pixel))) for seed in range(6)]
            where = np.flatnonzero(np.any(seen, 0)[0, ..., 0].any(1 - axis))
            reach = max(reach, abs(where - pixel[axis]).max())
        assert reach == radius[axis]


def _loss_and_gradients(model, variables, inputs):
    def loss(params):
        out, stats = model.apply(variables._replace(params=params), *inputs, train=True)
        return sum(jnp.mean(jnp.sin(3 * y)) for y in out.values()), stats

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)


SHALLOW = FLAT | dict(widths=(4, 8), kernels=((3, 3), (3, 3)), pools=((2, 2),), convs=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "levels"), [(FLAT, 3), (FLAT | dict(norm="batch"), 3), (SHALLOW | dict(dropout=0.3), 2)]
)
def test_remat_changes_nothing(settings, levels):
    x = _image(2, 8, 8, 1), jax.random.split(jax.random.key(2), 2)
    plain, again = (_functional(**settings | dict(remat=(remat,) * levels)) for remat in (False, True))
    variables = jax.jit(plain.init)(jax.random.key(0))
    ours, reference = (_loss_and_gradients(model, variables, x) for model in (again, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, reference)
    equations = jax.make_jaxpr(lambda v: again.apply(v, *x, train=True))(variables).eqns
    names = [equation.primitive.name for equation in equations]
    assert sum(name in ("checkpoint", "remat", "remat2") for name in names) == 2 * levels - 1


def _parameters(block, **changes):
    """The count of a five-level network with one output, and what its blocks of the given channels would have."""
    levels = dict(kernels=((3, 3),) * 5, pools=((2, 2),) * 4, remat=(False,) * 5, heads={"cells": 1})
    _, params, _ = nnx.split(_abstract(**FLAT | levels | changes), nnx.Param, ...)
    return sum(leaf.size for leaf in jax.tree.leaves(params)), sum(
        itertools.starmap(_two_convolutions, block)
    )


def _two_convolutions(channels, width):
    return (9 * channels + 1) * width + (9 * width + 1) * width


def test_the_unet_of_torch_em_is_a_config():
    """Instance norm without parameters before each convolution; 1x1 convolutions behind bilinear up-sampling."""
    count, blocks = _parameters(
        [(1, 32), (32, 64), (64, 128), (128, 256), (256, 512), (512, 256), (256, 128), (128, 64), (64, 32)],
        widths=(32, 64, 128, 256, 512),
        norm="instance",
        affine=False,
        order="nca",
        upsample="bilinear",
    )
    halved = (512 + 1) * 256 + (256 + 1) * 128 + (128 + 1) * 64 + (64 + 1) * 32
    assert count == blocks + halved + (32 + 1)


def test_the_unet_of_the_muscle_stem_cells_is_a_config():
    """Transposed convolutions keep the channels, so that blocks take 1536 to 512 and so on; no norm, dropout."""
    down = [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    count, blocks = _parameters(
        [*down, (1536, 512), (768, 256), (384, 128), (192, 64)],
        widths=(64, 128, 256, 512, 1024),
        norm="none",
        order="ca",
        dropout=0.3,
        up_channels="keep",
    )
    risen = sum((4 * width + 1) * width for width in (1024, 512, 256, 128))
    assert count == blocks + risen + (64 + 1)


@pytest.mark.parametrize("up_channels", ["halve", "keep"])
def test_bilinear_upsampling_commutes_with_its_convolution(up_channels):
    """The 1x1 convolution runs before the interpolation, and learns the same as behind it."""
    width = 6 if up_channels == "keep" else 3
    module = layers.Upsample(nnx.Rngs(0), 6, width, (2, 3), "bilinear", jnp.float32)
    assert module.learned == (up_channels == "halve")
    x = _image(2, 4, 5, 6)
    expected = jax.image.resize(x, (2, 8, 15, 6), "linear")
    if module.learned:
        module.bias[...] = _image(3, seed=1)
        expected = expected @ module.kernel[...] + module.bias[...]
    np.testing.assert_allclose(module(x), expected, atol=1e-5)


def test_dropout_zeroes_a_share_of_each_block_by_the_samples_own_keys():
    x, keys = _image(3, 8, 8, 1), jax.random.split(jax.random.key(1), 3)
    shallow = FLAT | dict(widths=(4,), kernels=((3, 3),), pools=(), remat=(False,), convs=1)
    model, sure = (_functional(**shallow | dict(dropout=rate)) for rate in (0.4, 0.0))
    variables = jax.jit(model.init)(jax.random.key(0))
    train = jax.jit(lambda x, key: model.apply(variables, x, key, train=True)[0]["cells"])
    dropped = train(x, keys)
    np.testing.assert_array_equal(dropped, train(x, keys))
    assert not np.allclose(dropped, train(x, keys[::-1]), atol=1e-2)
    np.testing.assert_allclose(dropped[1:], train(x[1:], keys[1:]), atol=1e-5)
    plain = jax.jit(sure.apply)(variables, x)[0]["cells"]
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, x, keys)[0]["cells"], plain)
    with pytest.raises(ValueError, match="pass a key per sample"):
        model.apply(variables, x, train=True)
    ones = jnp.ones((3, 16, 16, 8))
    shares = (encoder_decoder._drop(keys, ones, 0.4) == 0).mean((1, 2, 3))
    np.testing.assert_allclose(shares, 0.4, atol=0.05)


def test_batch_norm_carries_running_statistics():
    model = _functional(**FLAT | dict(norm="batch"))
    variables = jax.jit(model.init)(jax.random.key(0))
    apply = jax.jit(model.apply, static_argnames="train")
    x = 3 + 2 * _image(4, 8, 8, 1)
    trained, stats = apply(variables, x, train=True)
    for _ in range(150):
        _, stats = apply(variables._replace(stats=stats), x, train=True)
    evaluated, after = apply(variables._replace(stats=stats), x, train=False)
    for name, y in trained.items():
        np.testing.assert_allclose(evaluated[name], y, atol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, after, stats)
    untrained, _ = apply(variables, x, train=False)
    assert not np.allclose(untrained["cells"], trained["cells"], atol=1e-2)


def test_other_norms_carry_nothing_and_ignore_the_rest_of_the_batch():
    x = _image(3, 8, 8, 1)
    for norm in ("group", "instance"):
        model = _functional(**FLAT | dict(norm=norm))
        variables = jax.jit(model.init)(jax.random.key(0))
        assert not jax.tree.leaves(variables.stats)
        whole, _ = jax.jit(lambda v, x: model.apply(v, x, train=True))(variables, x)  # noqa: B023
        alone, _ = jax.jit(model.apply)(variables, x[1:2])
        np.testing.assert_allclose(whole["cells"][1:2], alone["cells"], atol=1e-5)


@pytest.mark.parametrize("order", ["cna", "can", "nca", "nac", "ca"])
def test_fresh_networks_neither_explode_nor_vanish(order):
    model = _module(**FLAT | dict(order=order, widths=(16, 32, 64), groups=4))
    out = _outputs(model, _image(2, 16, 16, 1))
    for y in out.values():
        assert 0.1 < float(y.std()) < 10


def test_the_learned_tensors_are_float32_and_a_bias_is_there_only_where_no_norm_follows():
    _, params, _ = nnx.split(_abstract(**FLAT | dict(dtype="bfloat16")), nnx.Param, ...)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert _abstract(**FLAT).down[0].convs[0].bias is None
    assert _abstract(**FLAT | dict(order="nca")).down[0].convs[0].bias is not None
    assert _abstract(**FLAT | dict(norm="none")).down[0].convs[0].bias is not None


@pytest.mark.slow
def test_bfloat16_is_close_to_float32():
    x = _image(2, 16, 16, 1)
    exact, rough = (_outputs(_module(**FLAT | dict(dtype=dtype)), x) for dtype in ("float32", "bfloat16"))
    for name, y in exact.items():
        assert rough[name].dtype == jnp.float32
        error = float(jnp.abs(rough[name] - y).max() / y.std())
        assert 0 < error < 0.3


def test_a_sharded_batch_gives_the_same_numbers():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    x = _image(2, 8, 8, 1)
    model = _functional(**FLAT)
    variables = jax.jit(model.init)(jax.random.key(0))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    out, _ = jax.jit(model.apply)(variables, sharded)
    mapped = jax.jit(jax.vmap(lambda image: model.apply(variables, image[None])[0]["cells"][0]))(x)
    np.testing.assert_allclose(out["cells"], mapped, atol=1e-5)


def test_forward_and_backward_equal_pytorch():
    torch = pytest.importorskip("torch", reason="torch is the oracle of this test")
    from launch.benches.unet import torch_unet

    model = _functional(**FLAT | dict(heads={"cells": 1}))
    variables = jax.jit(model.init)(jax.random.key(0))
    x = _image(2, 8, 8, 1)
    twin = torch_unet(ndim=2, widths=(4, 8, 12), groups=2)
    _copy_weights(variables.params, twin)

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


def _copy_weights(params, twin):
    for ours, theirs in _pairs(params, twin):
        theirs.data[...] = type(theirs.data)(np.array(ours))


def _pairs(params, twin):
    """Our parameters, transposed to PyTorch's layout, beside the twin's."""
    for ours, theirs in ((params["down"], twin.down), (params["merge"], twin.merge)):
        for level, block in enumerate(theirs):
            for i in range(2):
                yield jnp.moveaxis(ours[level]["convs"][i]["kernel"], (-1, -2), (0, 1)), block[3 * i].weight
                yield ours[level]["norms"][i]["scale"], block[3 * i + 1].weight
                yield ours[level]["norms"][i]["offset"], block[3 * i + 1].bias
    for level, up in enumerate(twin.up):
        yield jnp.moveaxis(params["up"][level]["kernel"], (-2, -1), (0, 1)), up.weight
        yield params["up"][level]["bias"], up.bias
    head = params["heads"]["cells"]
    yield head["kernel"].T[..., None, None], twin.head.weight
    yield head["bias"], twin.head.bias
