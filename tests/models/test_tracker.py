"""The default network of links: shapes, invariances, directions, blocks, remat, precision, learning."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from celltrack_jax import models
from celltrack_jax.errors import InputError
from celltrack_jax.models import tracker
from celltrack_jax.models.functional import FunctionalModel
from tests.models.graphs import check_order, check_union_and_padding, leaves_are_finite, random_graph

SMALL = dict(node_features=3, edge_features=2, width=8, edge_width=6, layers=2, block=0)


def _model(**changes):
    return FunctionalModel(lambda rngs: models.build("tracker", rngs, **SMALL | changes))


def _variables(model):
    return jax.jit(model.init)(jax.random.key(0))


def _graph(nodes, edges, embedding=0, seed=0) -> Any:
    return random_graph(nodes, edges, features=3, embedding=embedding, edge_features=2, seed=seed)


def _applied(model):
    variables = _variables(model)
    apply = jax.jit(model.apply)
    return lambda graph: apply(variables, graph)[0]


@pytest.mark.parametrize(
    "changes", [dict(layers=0), dict(layers=8), dict(directions="forward"), dict(embedding=4)]
)
def test_every_edge_and_node_is_judged(changes):
    model = _model(**changes)
    graph = _graph(5, 9, changes.get("embedding", 0))
    out, _ = jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0)), graph)
    shapes = {name: y.shape for name, y in out.items()}
    assert shapes == {"edge": (9,)} | dict.fromkeys(("divide", "appear", "disappear", "false"), (5,))
    assert {y.dtype for y in out.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(dict(), marks=pytest.mark.slow),
        dict(directions="forward", embedding=4, block=4),
        dict(layers=0),
    ],
)
def test_order_padding_and_other_graphs_do_not_matter(changes):
    apply, embedding = _applied(_model(**changes)), changes.get("embedding", 0)
    check_order(apply, _graph(6, 14, embedding))
    check_union_and_padding(apply, _graph(6, 14, embedding), _graph(4, 5, embedding, seed=1))


def _nodes_seen(model):
    """Which nodes of the chain 0 -> 1 -> ... the middle edge depends on."""
    graph = _graph(8, 7)._replace(senders=np.arange(7), receivers=np.arange(1, 8))
    variables = _variables(model)

    def middle(features):
        return model.apply(variables, graph._replace(nodes={"features": features}))[0]["edge"][3]

    gradient = jax.jit(jax.grad(middle))(jnp.asarray(graph.nodes["features"]))
    return set(np.flatnonzero(np.any(np.asarray(gradient), -1)).tolist())


@pytest.mark.parametrize(
    ("layers", "both", "forward"), [(0, {3, 4}, {3, 4}), (2, set(range(1, 7)), {1, 2, 3, 4})]
)
def test_messages_reach_as_far_as_there_are_layers_in_the_directions_asked_for(layers, both, forward):
    assert _nodes_seen(_model(layers=layers)) == both
    assert _nodes_seen(_model(layers=layers, directions="forward")) == forward


def _loss_and_gradients(model, variables, graph, key=None):
    def loss(params):
        out, _ = model.apply(variables._replace(params=params), graph, key, train=key is not None)
        return sum(jnp.mean(jnp.sin(y)) for y in out.values())

    return jax.jit(jax.value_and_grad(loss))(variables.params)


def test_blocks_and_remat_change_nothing():
    graph, variables = _graph(6, 14), _variables(_model())
    whole = _loss_and_gradients(_model(), variables, graph)
    for changes in (dict(block=4), dict(remat=True)):
        ours = _loss_and_gradients(_model(**changes), variables, graph)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), ours, whole)


def test_gradients_are_finite_at_zeros_and_padding():
    graph = _graph(6, 14, embedding=4)
    zeros = graph._replace(nodes=jax.tree.map(np.zeros_like, graph.nodes), edges=0 * graph.edges)
    model = _model(embedding=4)
    assert leaves_are_finite(_loss_and_gradients(model, _variables(model), zeros))


def test_dropout_needs_a_key_and_only_training_has_it():
    model, graph = _model(dropout=0.5), _graph(6, 14)
    variables = _variables(model)
    with pytest.raises(ValueError, match="pass a key"):
        model.apply(variables, graph, train=True)
    train = jax.jit(functools.partial(model.apply, train=True))
    first, second = (train(variables, graph, jax.random.key(i))[0]["edge"] for i in range(2))
    assert not np.allclose(first, second, atol=1e-3)
    still = [jax.jit(model.apply)(variables, graph, key)[0]["edge"] for key in (None, jax.random.key(0))]
    np.testing.assert_array_equal(*still)


def test_bfloat16_is_close_to_float32():
    graph = _graph(6, 14)
    exact, rough = (_applied(_model(dtype=dtype))(graph) for dtype in ("float32", "bfloat16"))
    for name, y in exact.items():
        assert rough[name].dtype == jnp.float32
        assert 0 < np.abs(rough[name] - y).max() < 0.1


def test_it_learns_which_links_are_short():
    graph = _graph(30, 80)
    truth = jnp.asarray(graph.edges[:, 0] + graph.nodes["features"][graph.senders, 1] > 0, jnp.float32)
    model, optimizer = _model(layers=1, directions="forward"), optax.adam(1e-2)
    variables = _variables(model)

    def loss(params):
        edge = model.apply(variables._replace(params=params), graph)[0]["edge"]
        return optax.sigmoid_binary_cross_entropy(edge, truth).mean()

    @jax.jit
    def step(state, _):
        value, gradients = jax.value_and_grad(loss)(state[0])
        updates, moments = optimizer.update(gradients, state[1])
        return (optax.apply_updates(state[0], updates), moments), value

    state = variables.params, optimizer.init(variables.params)
    _, losses = jax.jit(lambda state: jax.lax.scan(step, state, length=100))(state)
    assert losses[0] > 0.5
    assert losses[-1] < 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(width=6), "multiple of 4"),
        (dict(layers=-1), "layers"),
        (dict(directions="back"), "directions"),
        (dict(dropout=1.0), "dropout"),
        (dict(depth=3), "depth"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        nnx.eval_shape(lambda: tracker.build(nnx.Rngs(0), **SMALL | changes))
