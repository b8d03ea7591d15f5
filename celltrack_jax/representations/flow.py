"""Cells as flows to their centres: pixels that end at the same place are one cell (Stringer et al., Cellpose 2021).

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), D of them. Channels: D components of the flow, `flow_scale` times a
unit vector in cells, and the logit of cell. Flows, steps and sizes count in pixels, whatever the spacing.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops import flows
from celltrack_jax.ops.labels import sizes
from celltrack_jax.ops.rooms import room
from celltrack_jax.representations import Target, instances, losses
from celltrack_jax.representations.room import with_room


def build(**kwargs) -> "Flow":
    """Makes the representation; all constants are given, see `Flow`."""
    return from_mapping(Flow, kwargs, "representation")


@dataclass(frozen=True)
class Flow:
    """Flows and cell; docs/originals.md, 3.4, has the published constants."""

    axes: int
    """D."""
    max_cells: int
    """K, upper bound on the dense ids of a crop. In a frame as many seeds are looked for at first."""
    logarithm: bool
    """Whether flows go up log(1 + heat), as before Cellpose's third version, or heat itself."""
    flow_scale: float
    """Length of a flow that is learned, published 5: beside the logits a unit vector would be small."""
    flow_weight: float
    """Factor of the flow's mean square error beside the cross entropy, published 0.5."""
    cellprob_threshold: float
    """Logit above which a pixel is part of a cell, published 0 and, for this system, -1."""
    steps: int
    """That a pixel follows the flow, each of a pixel's length where the network is sure; published 200."""
    flow_threshold: float
    """Cells are dropped whose flows differ by more, in mean square, from those of their own shape, published 0.4 and,
    for this system, 0.6; 0 keeps all."""
    max_fraction: float
    """Cells that cover a larger part of the map are dropped, published 0.4."""
    min_size: int
    """Cells with fewer pixels are dropped, published 15."""
    fill_holes: bool
    """Whether background that one cell encloses becomes part of it."""

    def __post_init__(self):
        if self.axes not in (2, 3):
            raise InputError(f"representation.axes is {self.axes}: 2 or 3")
        for name in ("flow_scale", "steps", "max_fraction"):
            if getattr(self, name) <= 0:
                raise InputError(f"representation.{name} is {getattr(self, name)}: it must be positive")
        for name in ("flow_weight", "flow_threshold"):
            if getattr(self, name) < 0:
                raise InputError(f"representation.{name} is {getattr(self, name)}: it must not be negative")

    @property
    def channels(self) -> int:
        """The flow and the logit."""
        return self.axes + 1

    @property
    def vector(self) -> tuple[int, ...]:
        """The flow's channels, one per axis of S."""
        return tuple(range(self.axes))

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """Unit flows, and 1 in cells; unknown where labels are -1. A cell that the crop's border cuts has the flows of
        what is left of it."""
        del spacing
        flow = flows.target_flows(labels, self.max_cells, logarithm=self.logarithm)
        cell = (labels > 0).astype(jnp.float32)[..., None]
        return Target(jnp.concatenate([flow, cell], -1), losses.known_weight(labels))

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean square error of the flow, 0 in the background, and cross entropy of the cell."""
        del step
        flow, cell = target.value[..., : self.axes], target.value[..., self.axes :]
        bce = losses.binary_cross_entropy(prediction[..., self.axes :], cell, target.weight)
        off = losses.known(prediction[..., : self.axes], target.weight) - self.flow_scale * flow
        error = losses.weighted_mean(jnp.square(off), target.weight)
        return bce + self.flow_weight * error, {"bce": bce, "flow": error}

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """Follows the flow, gathers pixels by where they end, and drops cells that are too large, too small or whose
        flows are not those of their shape."""
        del spacing
        mask = prediction[..., self.axes] > self.cellprob_threshold
        if not mask.any():
            return np.zeros(mask.shape, np.int32)
        flow = prediction[..., : self.axes] / np.float32(self.flow_scale)
        labels = self._gathered(flow, mask)
        if self.fill_holes:
            labels = instances.fill_holes(labels)
        return instances.drop_small(labels, self.min_size)

    def believed(self, prediction: jax.Array, *, flow_error: float, sure: float) -> jax.Array:
        """Makes labels of what the prediction is sure of, to learn from; traceable.

        Args:
          prediction: (*S, D + 1) float32.
          flow_error: cells whose flows differ by more, in mean square, from those of their shape are unknown, as are
            cells that are too small or too large.
          sure: pixels of no cell are background where its probability is at least this, unknown elsewhere.

        Returns:
          (*S) int32: cells 1..max_cells - 1, some of which may be lacking, 0 background, -1 unknown.
        """
        logit, flow = prediction[..., self.axes], prediction[..., : self.axes] / self.flow_scale
        mask = logit > self.cellprob_threshold
        labels, _ = flows.gathered(flows.follow(flow, mask, steps=self.steps), mask, count=self.max_cells - 1)
        errors = flows.flow_errors(flow, labels, self.max_cells, logarithm=self.logarithm)
        size = sizes(labels, self.max_cells)
        good = (errors <= flow_error) & (size >= self.min_size) & (size <= self.max_fraction * mask.size)
        background = ~mask & (logit <= losses.logit(1 - sure))
        return jnp.where((labels > 0) & good[labels], labels, jnp.where(background, 0, -1))

    def _gathered(self, flow: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(*S) int32 cells of a flow (*S, D), without those that are too large or have other flows."""
        size = mask.shape
        # Planes are padded, so that images of many sizes share a few programs; a volume would become twice as large.
        around = [(0, room(n, per_doubling=4) - n if self.axes == 2 else 0) for n in size]
        mask, flow = np.pad(mask, around), np.pad(flow, [*around, (0, 0)])
        end = _follow(flow, mask, steps=self.steps, size=size)
        (labels,) = with_room(lambda count: _gathered(end, mask, count=count), self.max_cells)
        pixels = np.bincount(labels.reshape(-1))
        kept = (pixels > 0) & (pixels <= self.max_fraction * math.prod(size))
        if self.flow_threshold:
            most = self.max_cells
            while most < len(kept):
                most *= 4
            # Not of what is dropped anyway: heat takes long to spread over the largest.
            errors = _errors(flow, np.where(kept[labels], labels, 0), most, logarithm=self.logarithm)
            kept &= np.asarray(errors)[: len(kept)] <= self.flow_threshold
        kept[0] = False
        labels = (np.cumsum(kept, dtype=np.int32) * kept)[labels]
        return labels[tuple(map(slice, size))]

    def perfect(self, target: Target) -> jax.Array:
        """The flow as it is learned, and saturated logits."""
        flow, cell = target.value[..., : self.axes], target.value[..., self.axes :]
        return jnp.concatenate([self.flow_scale * flow, losses.saturated(cell)], -1)


_follow = jax.jit(flows.follow)
_gathered = jax.jit(flows.gathered, static_argnames="count")
_errors = jax.jit(flows.flow_errors, static_argnums=2, static_argnames="logarithm")
