"""One training step of the link classifiers, ours against PyTorch's: `python -m launch.bench gnn --against=torch`.

The peer is the network of Ben-Haim & Riklin-Raviv (ECCV 2022) written plainly, with gathers, concatenations and
`index_add_`; it is timed against the same network of ours, and against our default one at its widths and depth. A step is
forward, binary cross-entropy weighted by class, backward and Adam, in float32.
"""

import functools
import importlib
import itertools
import os
from collections.abc import Callable
from typing import Any

from celltrack_jax.errors import InputError
from launch.benches import timing

NODES, EDGES = 4_000, 120_000
FEATURES, EMBEDDING, EDGE_FEATURES = 13, 128, 8
POSITIVES = 0.03
"""Share of edges that are links, about one a node."""
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-5
REPEATS = 7


def run(against: str | None) -> list[dict[str, Any]]:
    """Times a step of both networks, in turns with the peer's.

    Args:
      against: "torch", or None for ours alone.

    Returns:
      a row per network, as `timing` makes them, with the kilobytes of temporary memory per edge.

    Raises:
      InputError: the peer is not known or not installed.
    """
    if against not in (None, "torch"):
        raise InputError(f"bench gnn: no peer {against!r}; give --against=torch or leave it out")
    graph, links = random_graph()
    rows = []
    for name in ("ben_haim2022", "tracker"):
        label = f"{name} step, {NODES} nodes, {EDGES} edges"
        step, kilobytes = jax_step(name, graph, links)
        if against is None:
            row = timing.alone_row(label, timing.alone(step, REPEATS))
        else:
            row = timing.interleaved(step, torch_step(graph, links), REPEATS).row(label)
        rows.append(row | {"temporary_kb_per_edge": kilobytes})
    return rows


def random_graph() -> tuple[Any, Any]:
    """Returns a `jraph.GraphsTuple` of links sorted by receiver, and which of them are true, (E,) float32."""
    import jraph
    import numpy as np

    rng = np.random.default_rng(0)
    frame = NODES // 10
    receivers = np.sort(rng.integers(frame, NODES, EDGES)).astype(np.int32)
    senders = (receivers - rng.integers(1, frame, EDGES)).astype(np.int32)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    values: dict[str, Any] = dict(
        nodes={"features": normal(NODES, FEATURES), "embedding": normal(NODES, EMBEDDING)},
        edges=normal(EDGES, EDGE_FEATURES),
        senders=senders,
        receivers=receivers,
        n_node=np.array([NODES]),
        n_edge=np.array([EDGES]),
        globals=None,
    )
    return jraph.GraphsTuple(**values), (rng.random(EDGES) < POSITIVES).astype(np.float32)


def jax_step(name: str, graph: Any, links: Any) -> tuple[Callable[[], float], float]:
    """Returns our training step, which returns its loss, and its temporary memory in kilobytes per edge."""
    import jax
    import jax.numpy as jnp
    import optax

    from celltrack_jax import models
    from celltrack_jax.models.functional import FunctionalModel, Variables

    faithful = dict(node_features=FEATURES, embedding=EMBEDDING)
    default = dict(
        node_features=FEATURES,
        edge_features=EDGE_FEATURES,
        embedding=EMBEDDING,
        width=32,
        edge_width=64,
        layers=6,
    )
    settings = {"ben_haim2022": faithful, "tracker": default}[name]
    on_cpu = jax.default_backend() == "cpu"
    model = FunctionalModel(
        functools.partial(models.build, name, **settings, **({} if on_cpu else {"block": 0}))
    )
    optimizer = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.adam(LEARNING_RATE))
    params, stats = jax.jit(model.init)(jax.random.key(0))
    graph, links = jax.tree.map(jnp.asarray, (graph, links))

    def step(params, moments, graph, links, key):
        def loss(params):
            logits = model.apply(Variables(params, stats), graph, key, train=True)[0]["edge"]
            weight = jnp.sum(1 - links) / jnp.sum(links)
            return jnp.mean(weight * links * jax.nn.softplus(-logits) + (1 - links) * jax.nn.softplus(logits))

        value, gradients = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, value

    state = [params, optimizer.init(params)]
    key = jax.random.key(1)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*state, graph, links, key).compile()
    count = itertools.count()

    def once() -> float:
        state[0], state[1], value = compiled(*state, graph, links, jax.random.fold_in(key, next(count)))
        return float(value)

    return once, compiled.memory_analysis().temp_size_in_bytes / len(links) / 1e3


def torch_step(graph: Any, links: Any) -> Callable[[], float]:
    """Returns PyTorch's training step on as many threads as this process may use; each call returns its loss."""
    torch = _torch()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torch_twin(FEATURES).to(device)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    inputs = [x.to(device) for x in torch_inputs(graph)]
    truth = torch.from_numpy(links).to(device)

    def once() -> float:
        optimizer.zero_grad(set_to_none=True)
        weight = (1 - truth).sum() / truth.sum()
        logits = model(*inputs)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight)
        loss.backward()
        optimizer.step()
        return loss.item()

    return once


def torch_inputs(graph: Any) -> list[Any]:
    """Returns what the twin takes: features, embedding, senders, receivers."""
    torch = _torch()
    floats = (graph.nodes["features"], graph.nodes["embedding"])
    ends = (torch.from_numpy(x).long() for x in (graph.senders, graph.receivers))
    return [*map(torch.from_numpy, floats), *ends]


def torch_twin(features: int) -> Any:
    """Returns `ben_haim2022` as a `torch.nn.Module` that maps `torch_inputs` to (E,) logits."""
    torch = _torch()
    nn, cosine = torch.nn, torch.nn.functional.cosine_similarity

    def mlp(*widths, dropout=0.0):
        layers = []
        for before, width in itertools.pairwise(widths):
            layers.append(nn.Linear(before, width))
            if width > 1:
                layers += [nn.ReLU(), nn.Dropout(dropout)] if dropout else [nn.ReLU()]
        return nn.Sequential(*layers)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = mlp(64, 16, 1)
            self.value = nn.Linear(32, 32)
            self.edge_update = mlp(161, 128, 64)

        def forward(self, h, e, s, t):
            w = torch.sigmoid(self.gate(e))[:, 0]
            degree = torch.ones(len(h), device=h.device).index_add_(0, t, w)
            scale = degree.rsqrt()
            v = h @ self.value.weight.T
            messages = (scale[s] * w * scale[t])[:, None] * v[s]
            u = torch.zeros_like(v).index_add_(0, t, messages) + v / degree[:, None] + self.value.bias
            a, b = u[s], u[t]
            wide = torch.cat([e, a, b, (a - b).abs(), cosine(a, b)[:, None]], -1)
            return torch.relu(u), self.edge_update(wide)

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.features_encoder = mlp(features, 64, 16, dropout=0.4)
            self.embedding_encoder = mlp(EMBEDDING, 64, 16, dropout=0.4)
            self.edge_encoder = mlp(features + EMBEDDING + 98, 128, 64, dropout=0.4)
            self.layers = nn.ModuleList(Layer() for _ in range(6))
            self.classifier = mlp(64, 128, 32, 1, dropout=0.2)

        def forward(self, x, embedding, s, t):
            z = torch.cat([x, embedding], -1)
            h = torch.cat([self.features_encoder(x), self.embedding_encoder(embedding)], -1)
            a, b = h[s], h[t]
            first = [(z[s] - z[t]).abs(), cosine(z[s], z[t])[:, None]]
            e = self.edge_encoder(torch.cat([*first, a, b, (a - b).abs(), cosine(a, b)[:, None]], -1))
            for layer in self.layers:
                h, e = layer(h, e, s, t)
            return self.classifier(e)[:, 0]

    return Twin()


def copy_weights(params: Any, twin: Any) -> None:
    """Gives the twin our parameters."""
    import numpy as np

    torch = _torch()

    def copy(kernel, bias, linear):
        linear.weight.data = torch.from_numpy(np.array(kernel).T.copy())
        linear.bias.data = torch.from_numpy(np.array(bias))

    def copy_mlp(ours, theirs):
        linears = [layer for layer in theirs if isinstance(layer, torch.nn.Linear)]
        for i, linear in enumerate(linears):
            copy(ours["kernels"][i], ours["biases"][i], linear)

    for name in ("features_encoder", "embedding_encoder", "edge_encoder", "classifier"):
        copy_mlp(params[name], getattr(twin, name))
    for i, layer in enumerate(twin.layers):
        ours = params["layers"][i]
        copy_mlp(ours["gate"], layer.gate)
        copy_mlp(ours["edge_update"], layer.edge_update)
        copy(ours["kernel"], ours["bias"], layer.value)


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError:
        raise InputError(
            "bench gnn: PyTorch, the peer, is not installed; make bench-setup, or leave --against out"
        ) from None
