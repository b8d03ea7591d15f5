"""What holds for every representation: losses, shapes, and decoding of its own target."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax import representations
from celltrack_jax.errors import InputError
from tests.representations.arms import ARMS, build, build_for, cost, decoded, perfect, targets
from tests.representations.cells import seg_score, touching_cells

CASES = {
    "2d": (touching_cells((64, 72), (1, 1), 8.0, seed=0), np.ones(2, np.float32)),
    "3d": (touching_cells((12, 40, 44), (3, 1, 1), 9.0, seed=0), np.array([3, 1, 1], np.float32)),
}
EMPTY = np.zeros((16, 16), np.int32)
SINGLE = EMPTY.copy()
SINGLE[4, 5] = 1
TWINS = ("star, maxima and balls", "offset, nll", "harmonic, mean shift", "heat, point distance and way")
"""Arms that differ from another in what their own tests look at."""
every_arm = pytest.mark.parametrize(
    "arm", [pytest.param(arm, marks=pytest.mark.slow) if arm in TWINS else arm for arm in ARMS]
)
every_case = pytest.mark.parametrize("case", CASES)


@every_arm
@every_case
def test_shapes_and_dtypes(arm, case):
    labels, spacing = CASES[case]
    representation = build_for(arm, labels)
    batch = jax.ShapeDtypeStruct((1, *labels.shape), jnp.int32)
    target = jax.eval_shape(jax.vmap(lambda ids: representation.target(ids, spacing)), batch)
    assert target.value.shape[:-1] == target.weight.shape[:-1] == batch.shape
    assert target.value.dtype == target.weight.dtype == jnp.float32
    assert target.weight.shape[-1] == 1
    best = jax.eval_shape(representation.perfect, target)
    assert best.shape == (*batch.shape, representation.channels)
    value, metrics = jax.eval_shape(representation.loss, best, target, jnp.int32(0))
    assert value.shape == ()
    assert all(metric.shape == () for metric in metrics.values())


@every_arm
def test_a_better_prediction_costs_less(arm):
    representation, (labels, spacing) = build(arm), CASES["2d"]
    target = targets(representation, labels[None], spacing)
    best = perfect(representation, target)
    noise = np.random.default_rng(0).normal(size=best.shape).astype(np.float32)
    # From the target itself towards an answer that knows nothing.
    nothing = jnp.full_like(best, best.mean()) + noise
    costs = [float(cost(representation, target, best + f * (nothing - best))[0]) for f in (0, 0.3, 0.6, 1)]
    if not arm.startswith(("heat, focal", "clusters")):
        # The focal loss forgives heat around a centre but does not ask for it: less is better still. Seeds that are
        # sure of clusters that miss cost more than ones that know nothing.
        assert costs == sorted(costs)
    assert costs[0] < 0.1 * costs[-1]


@every_arm
def test_descent_from_nothing_reaches_the_cost_of_the_target(arm):
    representation = build(arm)
    labels = touching_cells(EMPTY.shape, (1, 1), 6.0, seed=1)
    target = targets(representation, labels[None], np.ones(2, np.float32))
    best = float(cost(representation, target, perfect(representation, target))[0])
    prediction = jnp.zeros((1, *EMPTY.shape, representation.channels))

    def descend(_, prediction):
        slope = jax.grad(lambda x: representation.loss(x, target, jnp.int32(0))[0])(prediction)
        return prediction - 0.03 * jnp.sign(slope)

    reached = jax.jit(lambda x: jax.lax.fori_loop(0, 400, descend, x))(prediction)
    start = float(cost(representation, target, prediction)[0])
    assert float(cost(representation, target, reached)[0]) < best + 0.05 * (start - best)


@every_arm
def test_unknown_pixels_have_exactly_no_gradient(arm):
    representation, (labels, spacing) = build(arm), CASES["2d"]
    hidden = labels.copy()
    hidden[20:44, 10:50] = -1
    target = targets(representation, hidden[None], spacing)
    assert not np.asarray(target.weight[0])[hidden == -1].any()
    assert (np.asarray(target.weight[0])[hidden != -1] > 0).all()
    prediction = jnp.asarray(
        np.random.default_rng(0).normal(size=(*hidden.shape, representation.channels)), jnp.float32
    )
    poisoned = jnp.where(hidden[..., None] == -1, jnp.inf, prediction)
    value, gradient = cost(representation, target, poisoned[None])
    assert value == cost(representation, target, prediction[None])[0]
    assert not np.asarray(gradient[0])[hidden == -1].any()
    assert np.asarray(gradient[0])[hidden != -1].any()


@every_arm
@pytest.mark.parametrize("kind", ["empty", "all unknown", "single pixel", "one cell everywhere"])
def test_degenerate_crops_stay_finite(arm, kind):
    labels = {
        "empty": EMPTY,
        "all unknown": np.full_like(EMPTY, -1),
        "single pixel": SINGLE,
        "one cell everywhere": np.ones_like(EMPTY),
    }[kind]
    representation = build(arm)
    target = targets(representation, labels[None], np.ones(2, np.float32))
    assert np.isfinite(target.value).all()
    for prediction in (
        perfect(representation, target),
        jnp.full((1, 16, 16, representation.channels), 3.0),
    ):
        value, gradient = cost(representation, target, prediction)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        if kind == "all unknown":
            assert value == 0
            assert not gradient.any()


@every_arm
@every_case
def test_decoding_the_target_gives_the_cells_back(arm, case):
    labels, spacing = CASES[case]
    representation = build_for(arm, labels)
    if arm in ("outline", "touching border"):
        # Planes lie 3 apart, and the border cuts pieces of up to 20 voxels off some cells.
        representation = build(arm, width=float(spacing[0]), min_core=20)
    found = decoded(representation, labels, spacing)
    assert found.shape == labels.shape
    assert found.dtype == np.int32
    if arm.startswith("heat"):
        # One ball per cell, in its cell.
        owners = [np.bincount(labels[found == k]).argmax() for k in range(1, found.max() + 1)]
        assert sorted(owners) == list(range(1, labels.max() + 1))
    elif arm == "foreground":
        assert ((found > 0) == (labels > 0)).all()
    else:
        assert found.max() == labels.max()
        assert seg_score(labels, found) >= 0.97


@every_arm
@every_case
def test_nothing_is_found_where_nothing_is(arm, case):
    labels, spacing = CASES[case]
    representation = build_for(arm, labels)
    assert not decoded(representation, np.zeros_like(labels), spacing).any()


@every_arm
def test_constants_are_all_named_and_checked(arm):
    name, constants = ARMS[arm]
    representation = build(arm)
    field = dataclasses.fields(representation)[0].name  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=field):
        representations.build(name, **{key: value for key, value in constants.items() if key != field})
    with pytest.raises(InputError, match="colour"):
        representations.build(name, **constants, colour="green")


def test_an_unknown_name_is_an_input_error():
    with pytest.raises(InputError, match="middleground"):
        representations.build("mask", arm="middleground")
    with pytest.raises(InputError, match="astrology"):
        representations.build("astrology")


@pytest.mark.parametrize(
    ("arm", "changes"),
    [
        ("distance of the cell", {"scale": "parsec"}),
        ("distance of the cell", {"distance_loss": "l3"}),
        ("distance of the cell", {"max_distance": 0.0}),
        ("distance of the cell", {"foreground_threshold": 1.0}),
        ("foreground", {"foreground_threshold": 0.0}),
        ("touching border", {"border": "disputed"}),
        ("touching border", {"class_weights": (1.0, 1.0)}),
        ("touching border", {"width": 0.0}),
        ("heat, mse", {"compose": "product"}),
        ("heat, mse", {"loss_name": "l0"}),
        ("heat, mse", {"sigma": 0.0}),
        ("heat, focal", {"compose": "sum"}),
        ("star", {"candidates": "minima"}),
        ("star", {"overlap": "union"}),
        ("star", {"axes": 4}),
        ("star", {"grid": (1, 1, 1)}),
        ("star", {"grid": (1, 0)}),
        ("star", {"rays": 3}),
        ("star", {"radius": 31.0}),
        ("star", {"threshold": 1.0}),
        ("heat, focal, votes", {"radius": 3.9}),
        ("heat, focal, ball", {"form": "cube"}),
        ("heat, focal, ball", {"radius": 0.0}),
        ("heat, focal, ball", {"prior": 0.0}),
        ("offset", {"evidence": "hearsay"}),
        ("offset", {"offset_loss": "l3"}),
        ("offset", {"prior": 1.0}),
        ("offset", {"bins": 0}),
    ],
)
def test_bad_constants_are_input_errors_that_name_them(arm, changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        build(arm, **changes)
