"""Small graphs of links, and what every network of links must keep."""

from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np


def random_graph(nodes, edges, *, features, embedding=0, edge_features=0, seed=0) -> Any:
    """A graph of links from smaller to larger node numbers, as a `jraph.GraphsTuple` of float32."""
    rng = np.random.default_rng(seed)
    ends = np.sort(np.stack([rng.choice(nodes, 2, replace=False) for _ in range(edges)]), -1)
    ends = ends[np.argsort(ends[:, 1], kind="stable")].astype(np.int32)
    values = {"features": rng.normal(size=(nodes, features)).astype(np.float32)}
    if embedding:
        values["embedding"] = rng.normal(size=(nodes, embedding)).astype(np.float32)
    parts: dict[str, Any] = dict(
        nodes=values,
        edges=rng.normal(size=(edges, edge_features)).astype(np.float32),
        senders=ends[:, 0],
        receivers=ends[:, 1],
        n_node=np.array([nodes]),
        n_edge=np.array([edges]),
        globals=None,
    )
    return jraph.GraphsTuple(**parts)


def permuted(graph, rng):
    """The same graph in another order; returns it with the orders of its nodes and edges."""
    nodes, edges = rng.permutation(graph.n_node[0]), rng.permutation(graph.n_edge[0])
    rank = np.argsort(nodes).astype(np.int32)
    return graph._replace(
        nodes=jax.tree.map(lambda x: x[nodes], graph.nodes),
        edges=graph.edges[edges],
        senders=rank[graph.senders[edges]],
        receivers=rank[graph.receivers[edges]],
    ), (nodes, edges)


def check_order(apply, graph):
    """Another order of nodes and edges gives the outputs in that order."""
    other, (nodes, edges) = permuted(graph, np.random.default_rng(1))
    ours, reference = apply(other), apply(graph)
    for name, y in reference.items():
        np.testing.assert_allclose(ours[name], y[edges if name == "edge" else nodes], rtol=1e-4, atol=2e-5)


def check_union_and_padding(apply, first, second):
    """Two graphs and their padding in one give the outputs of each alone, and finite gradients."""
    both: Any = jraph.batch_np([first, second])
    nodes, edges = int(both.n_node.sum()) + 3, len(both.senders) + 5
    padded = jraph.pad_with_graphs(both, n_node=nodes, n_edge=edges, n_graph=4)
    out = apply(padded)
    alone = [apply(graph) for graph in (first, second)]
    for name, y in out.items():
        parts = np.concatenate([a[name] for a in alone])
        np.testing.assert_allclose(y[: len(parts)], parts, rtol=1e-4, atol=2e-5)
        assert np.isfinite(y).all()
    np.testing.assert_array_equal(out["edge"][len(both.senders) :], 0)
    return padded


def leaves_are_finite(tree):
    """Whether no number of a tree is infinite or not a number."""
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(tree))
