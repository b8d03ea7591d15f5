"""The faithful network against a plain twin of its formulas that concatenates; its invariances; parity with PyTorch."""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from celltrack_jax import models
from celltrack_jax.errors import InputError
from celltrack_jax.models import ben_haim2022
from celltrack_jax.models.functional import FunctionalModel
from tests.models.graphs import check_order, check_union_and_padding, leaves_are_finite, random_graph

FEATURES, EMBEDDING = 5, 7


@functools.cache
def _model(block=0, embedding=EMBEDDING):
    settings = dict(node_features=FEATURES, embedding=embedding, block=block)
    return FunctionalModel(lambda rngs: models.build("ben_haim2022", rngs, **settings))


@functools.cache
def _fresh(embedding=EMBEDDING):
    return jax.jit(_model(embedding=embedding).init)(jax.random.key(0))


def _variables(embedding=EMBEDDING):
    """Larger than they start, where nine layers make all edges alike to 1e-4 and would hide a difference."""
    return jax.tree.map(lambda x: 2 * x, _fresh(embedding))


def _apply(graph, embedding=EMBEDDING):
    return jax.jit(_model(embedding=embedding).apply)(_variables(embedding), graph)[0]


def _graph(nodes, edges, embedding=EMBEDDING, seed=0) -> Any:
    return random_graph(nodes, edges, features=FEATURES, embedding=embedding, seed=seed)


@pytest.mark.parametrize(("features", "count"), [(13, 249_319), (16, 249_895), (6, 247_975)])
def test_it_has_the_parameters_of_the_original(features, count):
    model = nnx.eval_shape(lambda: ben_haim2022.build(nnx.Rngs(0), node_features=features))
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))) == count


@pytest.mark.slow
def test_weights_start_as_the_original_s():
    params = _fresh().params
    kernel, bias = (np.asarray(params["classifier"][name][1]) for name in ("kernels", "biases"))
    assert 0.95 / 128**0.5 < np.abs(kernel).max() < 1 / 128**0.5
    assert 0 < np.abs(bias).max() < 1 / 128**0.5
    layer = params["layers"][0]
    assert not any(np.any(bias) for bias in (layer["bias"], *layer["gate"]["biases"].values()))
    assert 0.95 * (6 / 64) ** 0.5 < np.abs(layer["kernel"]).max() < (6 / 64) ** 0.5


def _plain(weights, x):
    for kernel, bias in _layers(weights):
        x = x @ kernel + bias
        x = np.maximum(x, 0) if kernel.shape[-1] > 1 else x
    return x


def _layers(weights):
    return [(weights["kernels"][i], weights["biases"][i]) for i in range(len(weights["kernels"]))]


def _plain_cosine(a, b):
    norms = [np.maximum(np.linalg.norm(x, axis=-1), 1e-8) for x in (a, b)]
    return (np.sum(a * b, -1) / norms[0] / norms[1])[:, None]


def _plain_convolution(layer, h, e, s, t):
    """PDN-Conv node by node."""
    w = 1 / (1 + np.exp(-_plain(layer["gate"], e)[:, 0]))
    degree = np.array([1 + w[t == i].sum() for i in range(len(h))])
    v = h @ layer["kernel"]
    u = np.zeros_like(h)
    for i in range(len(h)):
        for edge in np.flatnonzero(t == i):
            u[i] += w[edge] / np.sqrt(degree[s[edge]] * degree[i]) * v[s[edge]]
        u[i] += v[i] / degree[i] + layer["bias"]
    return u


def _plain_network(params, graph):
    x, y = graph.nodes["features"], graph.nodes.get("embedding")
    s, t = graph.senders, graph.receivers
    z, h = x, _plain(params["features_encoder"], x)
    if y is not None:
        z, h = np.concatenate([x, y], -1), np.concatenate([h, _plain(params["embedding_encoder"], y)], -1)
    difference = np.abs(h[s] - h[t])
    e = [np.abs(z[s] - z[t]), _plain_cosine(z[s], z[t]), h[s], h[t], difference, _plain_cosine(h[s], h[t])]
    e = _plain(params["edge_encoder"], np.concatenate(e, -1))
    for i in range(6):
        layer = params["layers"][i]
        u = _plain_convolution(layer, h, e, s, t)
        parts = [e, u[s], u[t], np.abs(u[s] - u[t]), _plain_cosine(u[s], u[t])]
        e = _plain(layer["edge_update"], np.concatenate(parts, -1))
        h = np.maximum(u, 0)
    return _plain(params["classifier"], e)[:, 0]


@pytest.mark.parametrize("embedding", [EMBEDDING, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("double", "atol"), [(False, 1e-5), (True, 1e-12)])
def test_it_equals_a_plain_network_that_concatenates(embedding, double, atol):
    graph = _graph(6, 14, embedding)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), _variables(embedding).params)
    wide = graph._replace(nodes=jax.tree.map(lambda x: x.astype(np.float64), graph.nodes))
    expected = _plain_network(params, wide)
    assert expected.std() > 0.01
    if not double:
        np.testing.assert_allclose(_apply(graph, embedding)["edge"], expected, atol=atol)
        return
    with jax.enable_x64(True):
        variables = jax.tree.map(jnp.asarray, _variables(embedding)._replace(params=params))
        ours = jax.jit(_model(embedding=embedding).apply)(variables, wide)[0]["edge"]
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, expected, atol=atol)


def test_the_convolution_equals_its_formula_at_each_node():
    graph = _graph(6, 14)
    s, t = graph.senders, graph.receivers
    module = ben_haim2022.build(nnx.Rngs(3), node_features=FEATURES).layers[2]
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    rng = np.random.default_rng(0)
    h, e = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 32), (14, 64)))
    w = jax.nn.sigmoid(ben_haim2022.mlp(module.gate.weights(), e)[:, 0])
    degree = jax.ops.segment_sum(w, t, 6)
    ours = module.convolve(h, w, degree, (jnp.asarray(s), jnp.asarray(t)), dict(nodes=6, block=0))
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    np.testing.assert_allclose(ours, _plain_convolution(params, h, e, s, t), atol=1e-6)


def test_the_order_of_nodes_and_edges_does_not_matter():
    check_order(_apply, _graph(6, 14))


def test_padding_and_other_graphs_do_not_matter():
    padded = check_union_and_padding(_apply, _graph(6, 14), _graph(4, 5, seed=1))

    def loss(params):
        edge = _model().apply(_variables()._replace(params=params), padded, jax.random.key(0), train=True)[0][
            "edge"
        ]
        return jnp.sum(edge**2)

    gradients = jax.jit(jax.grad(loss))(_variables().params)
    assert leaves_are_finite(gradients)
    assert all(np.any(np.asarray(x)) for x in jax.tree.leaves(gradients["layers"][1]["edge_update"]))


@pytest.mark.slow
@pytest.mark.slow
def test_blocks_of_edges_change_nothing():
    graph = _graph(6, 14)

    def loss(params, block):
        return jnp.sum(_model(block).apply(_variables()._replace(params=params), graph)[0]["edge"] ** 2)

    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    ours, whole = grad(_variables().params, 4), grad(_variables().params, 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, whole)


def test_dropout_needs_a_key_and_only_training_has_it():
    graph = _graph(6, 14)
    with pytest.raises(ValueError, match="pass a key"):
        _model().apply(_variables(), graph, train=True)
    train = jax.jit(functools.partial(_model().apply, train=True))
    first, second = (train(_variables(), graph, jax.random.key(i))[0]["edge"] for i in range(2))
    assert not np.allclose(first, second, atol=1e-3)
    still = jax.jit(_model().apply)(_variables(), graph, jax.random.key(0))[0]["edge"]
    np.testing.assert_array_equal(still, _apply(graph)["edge"])


def test_unknown_settings_are_refused():
    with pytest.raises(InputError, match="layers"):
        models.build("ben_haim2022", nnx.Rngs(0), node_features=3, layers=2)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is the oracle of this test")
def test_logits_equal_pytorch_s():
    from launch.benches import gnn

    graph = random_graph(6, 14, features=13, embedding=128)
    model = FunctionalModel(lambda rngs: models.build("ben_haim2022", rngs, node_features=13))
    variables = jax.tree.map(lambda x: 2 * x, jax.jit(model.init)(jax.random.key(0)))
    twin = gnn.torch_twin(13).eval()
    gnn.copy_weights(variables.params, twin)
    ours = jax.jit(model.apply)(variables, graph)[0]["edge"]
    theirs = twin(*gnn.torch_inputs(graph)).detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
