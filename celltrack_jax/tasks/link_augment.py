"""Windows of candidate graphs turned, flipped, blurred and darkened, on the device.

Shapes: A nodes and C edges of a window.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from celltrack_jax.tracking.feature_sets import NodeSet


class AugmentSpec(NamedTuple):
    """What is done to a window."""

    flips: bool
    """Whether space is mirrored, along z too, and y and x exchanged, each with probability 0.5."""
    noise: float
    """Standard deviation that is added to the features of nodes."""
    dark_probability: float
    """Of a window without intensities."""


def augment(
    window: dict[str, jax.Array], key: jax.Array, spec: AugmentSpec, nodes: NodeSet, edges: Sequence[str]
) -> dict[str, jax.Array]:
    """Changes a window as the microscope might have.

    Args:
      window: "node/features" (A, F), "edge/features" (C, G), and more that stays as it is.
      key: of all chance.
      spec: what is done.
      nodes: what the features of nodes are. Where they say where a cell is, they are in [0, 1].
      edges: names of the features of edges.
    """
    chance, blur, dark = jax.random.split(key, 3)
    x, e = window["node/features"], window["edge/features"]
    if spec.flips:
        swap, *mirrors = jax.random.bernoulli(chance, 0.5, (4,))
        for axis, mirrored in zip("xyz", mirrors, strict=True):
            x = jnp.where(mirrored, _mirrored(x, nodes.columns, axis), x)
            e = jnp.where(mirrored, _mirrored(e, edges, axis), e)
        x = jnp.where(swap, _swapped(x, nodes.columns), x)
        e = jnp.where(swap, _swapped(e, edges), e)
    x = x + spec.noise * jax.random.normal(blur, x.shape)
    lit = jax.random.bernoulli(dark, 1 - spec.dark_probability)
    x = x.at[:, _from_light(nodes.columns)].multiply(lit)
    e = e.at[:, _from_light(edges)].multiply(lit)
    return {**window, "node/features": x, "edge/features": e}


def _mirrored(x: jax.Array, names: Sequence[str], axis: str) -> jax.Array:
    """Displacements change their sign; of boxes in [0, 1], what was high is low."""
    here = {name: i for i, name in enumerate(names)}
    if f"d{axis}" in here:
        x = x.at[:, here[f"d{axis}"]].multiply(-1)
    low, high, centre = (here.get(f"{what}_{axis}") for what in ("low", "high", "centroid"))
    if low is not None:
        x = x.at[:, low].set(1 - x[:, high]).at[:, high].set(1 - x[:, low])
    if centre is not None:
        x = x.at[:, centre].set(1 - x[:, centre])
    return x


def _swapped(x: jax.Array, names: Sequence[str]) -> jax.Array:
    """Exchanges what is along y and along x."""
    other = {"dy": "dx", "dx": "dy"}
    for name in names:
        if name.endswith(("_y", "_x")):
            other[name] = name[:-1] + ("x" if name[-1] == "y" else "y")
    return x[:, jnp.array([list(names).index(other.get(name, name)) for name in names], int)]


def _from_light(names: Sequence[str]) -> jax.Array:
    return jnp.array([i for i, name in enumerate(names) if name.startswith("intensity")], int)
