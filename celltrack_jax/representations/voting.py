"""Sources from votes: each pixel says where its source's centre is, and where many say so there is one.

Votes are collected on a grid finer than the pixels and blurred; the peaks are the sources, which move to the centroid
of their own votes. A Hough vote whose table is learned (Ballard, Pattern Recognition 1981; Gall and Lempitsky, CVPR
2009).

Shapes: S spatial axes (Y, X) or (Z, Y, X), D of them, N sources. Lengths are in the unit of the spacing.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import spatial

from celltrack_jax.ops import gaussian
from celltrack_jax.ops.peaks import find_peaks
from celltrack_jax.ops.votes import splat
from celltrack_jax.representations import Found
from celltrack_jax.representations.room import with_room

_LEAST = 0.01
"""Weight below which a vote is not asked for its evidence."""


@dataclass(frozen=True)
class Ballot:
    """How votes are read."""

    bins: int
    """Nodes of the grid per pixel and axis."""
    vote_blur: float
    """Standard deviation of the Gaussian over the grid."""
    min_votes: float
    """Least number of pixels, weighted, that vote for a source: the blurred votes over those of a single one."""
    min_distance: float
    """Of two peaks nearer than this the lower is dropped."""
    capture: float
    """Votes farther than this from every peak count for none."""
    max_peaks: int
    """Most peaks."""

    @classmethod
    def of(cls, representation: Any) -> "Ballot":
        """Returns what a representation's fields of the same names say."""
        return cls(**{field.name: getattr(representation, field.name) for field in dataclasses.fields(cls)})


def read(
    offset: np.ndarray,
    weight: np.ndarray,
    evidence: np.ndarray,
    spacing: np.ndarray,
    threshold: float,
    ballot: Ballot,
) -> Found:
    """Counts votes; thread-safe.

    Args:
      offset: (*S, D) float32, to where each pixel votes.
      weight: (*S) float32 in 0..1, of each vote.
      evidence: (*S) float32, how sure the network is that a pixel belongs to a source.
      spacing: (D,).
      threshold: evidence that the surest voter of a source must exceed.
      ballot: how votes are read.

    Returns:
      Sources; their heat is the evidence of their surest voter.
    """
    spacing = np.asarray(spacing, np.float64)
    node = spacing / ballot.bins
    reach = tuple(math.ceil(3 * ballot.vote_blur / size) for size in node)
    given = (jnp.asarray(offset), jnp.asarray(weight), jnp.asarray(spacing, jnp.float32))
    counted = _votes(*given, dataclasses.replace(ballot, max_peaks=0), reach)
    find = functools.partial(
        _peaks, counted, node, threshold=ballot.min_votes, min_distance=ballot.min_distance
    )
    position, _, valid = with_room(lambda count: find(count=count), ballot.max_peaks)
    peak = position[valid] * node - spacing
    voter = np.nonzero(weight > _LEAST)
    place = np.stack(voter, -1) * spacing + offset[voter]
    owner = nearest(place, peak, ballot.capture)
    ours = owner >= 0
    owner, place, votes = owner[ours], place[ours], weight[voter][ours].astype(np.float64)
    total = np.bincount(owner, votes, len(peak))
    summed = [np.bincount(owner, votes * along, len(peak)) for along in place.T]
    position = np.stack(summed, -1) / np.maximum(total, 1e-12)[:, None] / spacing
    heat = np.zeros(len(peak), np.float32)
    np.maximum.at(heat, owner, evidence[voter][ours])
    order = np.argsort(-heat, kind="stable")
    order = order[heat[order] > threshold]
    return Found(position[order].astype(np.float32), heat[order], None)


def areas(
    offset: np.ndarray, mask: np.ndarray, found: Found, spacing: np.ndarray, capture: float
) -> np.ndarray:
    """Gives each pixel of a mask to the source that it votes for.

    Args:
      offset: (*S, D) float32.
      mask: (*S) bool.
      found: sources.
      spacing: (D,).
      capture: pixels whose vote lies farther from every source belong to none.

    Returns:
      (*S) int32, label k + 1 for source k.
    """
    labels = np.zeros(mask.shape, np.int32)
    pixel = np.nonzero(mask)
    place = np.stack(pixel, -1) * np.asarray(spacing) + offset[pixel]
    labels[pixel] = nearest(place, found.position * np.asarray(spacing), capture) + 1
    return labels


def nearest(place: np.ndarray, points: np.ndarray, within: float) -> np.ndarray:
    """Row of the nearest point (N, D) to each place (V, D), -1 where none lies within a distance: (V,) int."""
    if not len(points):
        return np.full(len(place), -1)
    apart, row = spatial.KDTree(points).query(place, distance_upper_bound=within)
    return np.where(np.isfinite(apart), row, -1)


_peaks = jax.jit(find_peaks, static_argnames="count")


@functools.partial(jax.jit, static_argnames=("ballot", "reach"))
def _votes(
    offset: jax.Array, weight: jax.Array, spacing: jax.Array, ballot: Ballot, reach: tuple[int, ...]
) -> jax.Array:
    """Blurred votes on the grid, which begins and ends a pixel beyond the map; 1 is a single one."""
    shape = weight.shape
    pixel = jnp.stack(jnp.meshgrid(*(jnp.arange(n) for n in shape), indexing="ij"), -1)
    place = (pixel + 1 + offset / spacing) * ballot.bins
    grid = tuple((n + 1) * ballot.bins + 1 for n in shape)
    votes = splat(place.reshape(-1, len(shape)), weight.reshape(-1), grid)
    sigma = ballot.vote_blur * ballot.bins / spacing
    single = jnp.ones(())
    for axis, radius in enumerate(reach):
        single *= gaussian.weights(sigma[axis], radius)[radius]
    return gaussian.blur(votes, list(sigma), reach) / single
