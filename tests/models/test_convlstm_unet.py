"""Properties of the ConvLSTM U-Net: what passes between frames, what does not, sizes, remat, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from celltrack_jax import models
from celltrack_jax.errors import InputError
from celltrack_jax.models import convlstm_unet
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.ops import blocks

SMALL = dict(
    in_channels=1,
    heads={"cells": 2},
    widths=(3, 4),
    kernels=((3, 3), (3, 3)),
    pools=((2, 2),),
    stem=(1, 1),
    cell="standard",
    recurrent=(True, True),
    direction="forward",
    norm="group",
    groups=1,
    activation="leaky_relu",
    truncate=0,
    remat=(False, False),
    upsample="bilinear",
    up_channels="keep",
    dtype="float32",
)
FLAT = dict(widths=(3,), kernels=((3, 3),), pools=(), recurrent=(True,), remat=(False,), norm="none")
"""One level, which compiles fast."""
MUSCLE = SMALL | dict(
    heads={"cells": 1},
    widths=(64, 128, 256, 512, 1024),
    kernels=((3, 3),) * 5,
    pools=((2, 2),) * 4,
    cell="czifan",
    recurrent=(True,) * 5,
    norm="batch",
    remat=(False,) * 5,
)


def _model(**changes):
    return FunctionalModel(lambda rngs: models.build("convlstm_unet", rngs, **SMALL | changes))


def _variables(model):
    return jax.jit(model.init)(jax.random.key(0))


def _abstract(**changes):
    return nnx.eval_shape(lambda: convlstm_unet.build(nnx.Rngs(0), **SMALL | changes))


def _clip(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _seen_by(frame, clip, **changes):
    """The frames that have a gradient of what a network of one level says about one."""
    model = _model(**FLAT | changes)
    variables = _variables(model)
    loss = lambda x: jnp.sum(model.apply(variables, x)[0]["cells"][:, frame] ** 2)  # noqa: E731
    return np.flatnonzero(jnp.abs(jax.jit(jax.grad(loss))(clip)).sum((0, 2, 3, 4))).tolist()


def test_outputs_have_the_size_of_the_clip_and_are_float32():
    for changes in ({}, dict(direction="both"), dict(recurrent=(False, True), dtype="bfloat16")):
        model = _model(**changes)
        out, _ = jax.eval_shape(
            model.apply, jax.eval_shape(model.init, jax.random.key(0)), _clip(2, 3, 8, 10, 1)
        )
        assert (out["cells"].shape, out["cells"].dtype) == ((2, 3, 8, 10, 2), jnp.float32)
        sizes = [tuple(part.shape for part in level) for level in out["state"]]
        fine, coarse = ((2, 8, 10, 3),) * 2, ((2, 4, 5, 4),) * 2
        assert sizes == {0: [fine, coarse], 1: [(), ()], 2: [(), coarse]}[len(changes)]
        assert all(level.cell.dtype == jnp.float32 for level in out["state"] if level)


def test_volumes_are_clips_too():
    changes = dict(kernels=((1, 3, 3), (3, 3, 3)), pools=((1, 2, 2),), stem=(1, 1, 1), upsample="transposed")
    model = _model(**changes, up_channels="halve")
    variables = jax.eval_shape(model.init, jax.random.key(0))
    out, _ = jax.eval_shape(model.apply, variables, _clip(1, 2, 3, 4, 6, 1))
    assert out["cells"].shape == (1, 2, 3, 4, 6, 2)


def test_two_clips_with_the_state_carried_are_one():
    model = _model(recurrent=(False, True), cell="czifan")
    variables = _variables(model)
    apply = jax.jit(model.apply)
    clip = _clip(1, 4, 8, 10, 1)
    whole, _ = apply(variables, clip)
    first, _ = apply(variables, clip[:, :2])
    second, _ = apply(variables, clip[:, 2:], first["state"])
    halves = jnp.concatenate([first["cells"], second["cells"]], 1)
    np.testing.assert_allclose(halves, whole["cells"], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), second["state"], whole["state"])
    alone, _ = apply(variables, clip[:, 2:])
    assert not np.allclose(alone["cells"], second["cells"], atol=1e-3)


def test_frames_see_those_before_them_or_all_or_those_since_the_cut():
    clip = _clip(1, 4, 8, 8, 1)
    assert _seen_by(2, clip) == [0, 1, 2]
    assert _seen_by(2, clip, direction="both") == [0, 1, 2, 3]
    assert _seen_by(2, clip, truncate=2, direction="both") == [2, 3]


def test_truncation_changes_no_value_and_keeps_gradients_from_a_given_state():
    clip = _clip(1, 3, 8, 8, 1)
    model, cut = _model(**FLAT), _model(**FLAT | dict(truncate=3))
    variables = _variables(model)
    out, _ = jax.jit(model.apply)(variables, clip)
    again, _ = jax.jit(cut.apply)(variables, clip)
    np.testing.assert_array_equal(out["cells"], again["cells"])
    gradients = []
    for each in (model, cut):
        loss = lambda state: jnp.sum(each.apply(variables, clip, state)[0]["cells"] ** 2)  # noqa: E731, B023
        gradients.append(jax.tree.leaves(jax.jit(jax.grad(loss))(out["state"])))
    assert min(float(jnp.abs(leaf).max()) for leaf in gradients[0]) > 0
    assert max(float(jnp.abs(leaf).max()) for leaf in gradients[1]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("change", [dict(norm="batch"), FLAT | dict(direction="both", truncate=2)])
def test_remat_changes_nothing(change):
    clip = _clip(2, 3, 8, 8, 1)
    plain, again = (
        _model(**change | dict(remat=(remat,) * len(change.get("widths", SMALL["widths"]))))
        for remat in (False, True)
    )
    variables = _variables(plain)

    def loss_and_gradients(model):
        def loss(params):
            out, stats = model.apply(variables._replace(params=params), clip, train=True)
            return jnp.mean(jnp.sin(3 * out["cells"])), stats

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)

    ours, reference = (loss_and_gradients(model) for model in (again, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, reference)
    jaxpr = str(jax.make_jaxpr(lambda v: again.apply(v, clip, train=True))(variables))
    assert jaxpr.count("remat") >= 2, "levels or directions"


@pytest.mark.slow
def test_batch_norm_sees_the_whole_clip():
    """Frames of other brightness share one mean: shuffled frames leave the same running statistics."""
    model = _model(norm="batch", recurrent=(False, False))
    variables = _variables(model)
    clip = _clip(2, 3, 8, 8, 1) * jnp.arange(1.0, 4)[:, None, None, None]
    train = jax.jit(lambda x: model.apply(variables, x, train=True)[1])
    stats, shuffled = train(clip), train(clip[:, ::-1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stats, shuffled)
    folded = train(clip.reshape(6, 1, 8, 8, 1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stats, folded)


def test_the_network_of_the_muscle_stem_cells_has_its_parameters():
    """ConvLSTMs without bias, a bias only where no norm follows, bilinear up-sampling without a convolution."""
    _, params, _ = nnx.split(_abstract(**MUSCLE), nnx.Param, ...)
    widths = (64, 128, 256, 512, 1024)
    count = 0
    for channels, width in zip((1, *widths), widths, strict=False):
        count += 9 * (channels + width) * 4 * width  # ConvLSTM
        count += 9 * width * width + 2 * width  # convolution, batch norm
    for channels, width in ((1536, 512), (768, 256), (384, 128), (192, 64)):
        count += (9 * channels + 1) * width + 9 * width * width + 2 * width
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count + 64 + 1


def test_stride_and_receptive_radius_are_those_of_the_frame():
    abstract = _abstract(**MUSCLE)
    assert abstract.stride == (16, 16)
    model = _model(norm="none", upsample="bilinear", activation="silu")
    variables = _variables(model)
    (radius, _), (stride, _) = (_abstract().receptive_radius, _abstract().stride)
    size = 2 * stride * (radius // stride + 2)
    see = jax.jit(jax.grad(lambda x, at: model.apply(variables, x)[0]["cells"][0, 0, at, 2].sum()))
    reach = 0
    for pixel in range(size // 2, size // 2 + stride):
        seen = [see(_clip(1, 1, size, 8, 1, seed=seed), pixel) for seed in range(4)]
        where = np.flatnonzero(np.any(np.asarray(seen) != 0, (0, 1, 2, 4, 5)))
        reach = max(reach, abs(where - pixel).max())
    assert reach == radius


@pytest.mark.slow
def test_repeated_calls_run_one_program():
    model = _model()
    variables = _variables(model)
    apply = jax.jit(model.apply)
    state = apply(variables, _clip(1, 2, 8, 8, 1))[0]["state"]
    for seed in range(3):
        state = apply(variables, _clip(1, 2, 8, 8, 1, seed=seed), state)[0]["state"]
    assert apply._cache_size() == 2, "without and with a state"


def test_a_stem_makes_channels_of_pixels():
    fine, coarse = _model(stem=(2, 2)), _model(in_channels=4, heads={"cells": 8})
    assert _abstract(stem=(2, 2)).stride == (4, 4)
    variables = _variables(fine)
    clip = _clip(1, 2, 8, 12, 1)
    packed = blocks.space_to_depth(clip[0], (2, 2))[None]
    expected = jax.jit(coarse.apply)(variables, packed)[0]["cells"]
    found = jax.jit(fine.apply)(variables, clip)[0]["cells"]
    np.testing.assert_allclose(found[0], blocks.depth_to_space(expected[0], (2, 2)), atol=1e-6)


@pytest.mark.slow
def test_bfloat16_is_close_to_float32():
    clip = _clip(1, 4, 8, 8, 1)
    exact, rough = (_model(dtype=dtype) for dtype in ("float32", "bfloat16"))
    variables = _variables(exact)
    expected, found = (jax.jit(model.apply)(variables, clip)[0]["cells"] for model in (exact, rough))
    error = float(jnp.abs(expected - found).max() / expected.std())
    assert 0 < error < 0.3


def test_a_state_for_both_directions_is_refused():
    model = _model(direction="both")
    variables = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(InputError, match="set direction to 'forward'"):
        jax.eval_shape(model.apply, variables, _clip(1, 2, 8, 8, 1), ((), ()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(cell="peephole"), "cell"),
        (dict(recurrent=(True,)), "recurrent"),
        (dict(direction="backward"), "direction"),
        (dict(truncate=-1), "truncate"),
        (dict(heads={"state": 1}), "state"),
        (dict(pools=()), "pools"),
        (dict(norm="layer"), "norm"),
        (dict(upsample="cubic"), "upsample"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        _abstract(**change)


def test_a_frame_that_is_no_multiple_of_the_stride_is_refused():
    model = _model()
    variables = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(InputError, match=r"\(5, 4\).*stride \(2, 2\)"):
        jax.eval_shape(model.apply, variables, _clip(1, 2, 5, 4, 1))


def test_forward_and_backward_equal_pytorch():
    torch = pytest.importorskip("torch", reason="torch is the oracle of this test")
    from launch.benches.convlstm import torch_convlstm_unet

    model = _model(heads={"cells": 1}, cell="czifan", norm="batch")
    variables = _variables(model)
    clip = _clip(2, 3, 8, 8, 1)
    twin = torch_convlstm_unet((3, 4))
    pairs = list(_pairs(variables.params, twin))
    assert len(pairs) == len(list(twin.parameters()))
    for ours, theirs in pairs:
        theirs.data[...] = torch.from_numpy(np.array(ours))

    def loss(params):
        return jnp.mean(model.apply(variables._replace(params=params), clip, train=True)[0]["cells"] ** 2)

    ours, gradients = jax.jit(jax.value_and_grad(loss))(variables.params)
    theirs = (twin(torch.from_numpy(np.moveaxis(np.array(clip), -1, 2).copy())) ** 2).mean()
    theirs.backward()
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-4)
    for ours, theirs in _pairs(gradients, twin):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-2, atol=2e-5)


def _pairs(params, twin):
    """Our parameters, transposed to PyTorch's layout, beside the twin's."""

    def normed(ours, theirs):
        yield _channels_first(ours["convolution"]["kernel"]), theirs[0].weight
        yield ours["norm"]["scale"], theirs[1].weight
        yield ours["norm"]["offset"], theirs[1].bias

    for level, lstm in enumerate(twin.lstm):
        gates = params["down"][level]["first"]["cells"][0]
        yield _channels_first(jnp.concatenate([gates["of_input"], gates["of_hidden"]], 2)), lstm.gates.weight
        yield from normed(params["down"][level]["second"], twin.down[level])
    for level, first in enumerate(twin.first):
        ours = params["merge"][level]
        yield _channels_first(ours["first"]["kernel"]), first.weight
        yield ours["first"]["bias"], first.bias
        yield from normed(ours["second"], twin.second[level])
    head = params["heads"]["cells"]
    yield head["kernel"].T[..., None, None], twin.head.weight
    yield head["bias"], twin.head.bias


def _channels_first(kernel):
    return jnp.moveaxis(kernel, (-1, -2), (0, 1))
