"""Cells as phases: what plane waves are worth at the cell's centre, seen from each of its pixels.

Guides are waves cos and sin 2 pi f.x, and a cell's embedding is their mean over a ball around its centre c
(`ops/harmonic.py`). A convolutional network does not know where it looks, in a random crop least of all, so a pixel at x
learns the embedding relative to itself, that of c - x: it is the same for all crops and tiles, moves with the image, and
is turned by the pixel's own phase 2 pi f.x into that of c, which all pixels of a cell share.

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), D of them, K points of a crop, F frequencies. Channels: the
foreground's logit; F cosines and F sines.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops import guides, harmonic
from celltrack_jax.ops.labels import centroids
from celltrack_jax.representations import Found, Target, clusters, losses, sources, voting

FOREGROUND, SHARE, FIRST = 0, 1, 2
"""Channels of the target: foreground, one over the pixels of the cell, and the first component of c - x."""


def build(frequencies, **kwargs) -> "Harmonic":
    """Makes the representation; all constants are given, see `Harmonic`."""
    rows = tuple(tuple(float(f) for f in wave) for wave in frequencies)
    return from_mapping(Harmonic, {"frequencies": rows, **kwargs}, "representation")


@dataclass(frozen=True)
class Harmonic:
    """Relative harmonic embeddings of the centroids. Lengths are in the unit of the spacing."""

    axes: int
    """D."""
    frequencies: harmonic.Frequencies
    """F rows of D, in cycles per unit length, such as from `guides.octaves` or `guides.fit`; see `guides.check`."""
    ball_radius: float
    """Radius of the ball over which guides are averaged, which makes waves that are short beside a cell count less; 0
    for their values at the centre."""
    radius: float
    """How far from a point its cell reaches; in label maps cells are themselves."""
    max_offset: float
    """Largest distance of a pixel from its cell's centre, about which phases are unwrapped: not less than `radius`, and
    less than half of the longest wavelength."""
    max_cells: int
    """K, upper bound on the cells in a crop; in label maps on the dense ids."""
    prior: float
    """Foreground that a raw output of 0 means: what most pixels are, from the first step on."""
    balance: str
    """"cell": the embedding's loss counts all cells alike; "log_size": a pixel counts one over the logarithm of its
    cell's size."""
    embedding_weight: float
    """Factor of the L1 loss of the embedding."""
    decoder: str
    """"phase": each pixel votes for the centre that its phases say; "mean_shift": pixels of like embeddings are a
    cell."""
    bins: int
    vote_blur: float
    min_distance: float
    capture: float
    """"phase": how votes are read, see `voting.Ballot`."""
    bandwidth: float
    iterations: int
    max_voters: int
    """"mean_shift": distance of embeddings, rounds, and the number of pixels that are moved, evenly drawn from the
    foreground; the others go to the cluster next to them. Memory is `max_voters` squared."""
    min_votes: float
    """Least number of pixels, weighted, that are for a cell."""
    max_peaks: int
    """Most cells of a frame."""
    threshold: float
    """Foreground that the surest pixel of a cell must exceed."""
    foreground_threshold: float
    """Foreground above which a pixel is part of a cell."""

    def __post_init__(self):
        choices = {"balance": ("cell", "log_size"), "decoder": ("phase", "mean_shift")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"representation.{name} is {getattr(self, name)!r}: one of {known}")
        for name in ("radius", "vote_blur", "capture", "bins", "bandwidth", "max_voters"):
            if getattr(self, name) <= 0:
                raise InputError(f"representation.{name} is {getattr(self, name)}: it must be positive")
        for name in ("prior", "foreground_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"representation.{name} is {getattr(self, name)}: it lies in (0, 1)")
        if self.max_offset < self.radius or {len(wave) for wave in self.frequencies} != {self.axes}:
            raise InputError(
                f"representation.max_offset {self.max_offset} is at least radius {self.radius}, and rows of frequencies "
                f"have as many numbers as there are axes, {self.axes}"
            )
        guides.check_phases(self.frequencies, self.ball_radius, self.max_offset)

    @property
    def channels(self) -> int:
        """Foreground, cosines, sines."""
        return 1 + 2 * len(self.frequencies)

    @property
    def has_threshold(self) -> bool:
        """Reading depends on it."""
        return True

    @property
    def learns_steps(self) -> bool:
        """Points come without steps."""
        return False

    @property
    def directed(self) -> bool:
        """Phases have directions."""
        return True

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """The target of the cells' centroids; unknown where labels are -1. A cell that the crop's border cuts has the
        centroid of what is left of it."""
        centres = centroids(labels, self.max_cells)[1:]
        return _target(sources.of_labels(labels, centres, spacing), labels)

    def point_target(
        self, points: jax.Array, steps: jax.Array, known: jax.Array, spacing: jax.Array
    ) -> Target:
        """Makes the target of one sample's points; traced into the training step.

        Args:
          points: (K, D) float32 index, also outside of the map; NaN for none.
          steps: not used.
          known: (*S) int32, -1 where the truth is unknown.
          spacing: (D,) float32.

        Returns:
          Channels: foreground in {0, 1}; 1 over the number of the cell's pixels, 0 in the background; D offsets to the
          centre, of which the loss makes the embedding.
        """
        del steps
        return _target(sources.of_points(points, known, spacing, self.radius), known)

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Cross entropy and Dice of the foreground, and L1 of the embedding in it."""
        del step
        prediction = losses.known(prediction, target.weight)
        truth, share = target.value[..., :1], target.value[..., SHARE:FIRST]
        logits = prediction[..., :1] + losses.logit(self.prior)
        bce, dice = losses.bce_and_dice(logits, truth, target.weight)
        error = jnp.abs(prediction[..., 1:] - self._embedding(target))
        if self.balance == "log_size":
            share = jnp.where(share > 0, 1 / jnp.log1p(1 / jnp.where(share > 0, share, 1.0)), 0.0)
        embedding = losses.weighted_mean(error, target.weight * share)
        metrics = {"bce": bce, "dice": dice, "embedding": embedding}
        return bce + dice + self.embedding_weight * embedding, metrics

    def points(self, prediction: np.ndarray, spacing: np.ndarray) -> Found:
        """Reads points from the raw output (*S, C) float32 of one frame; thread-safe.

        Args:
          prediction: of the frame.
          spacing: (D,).
        """
        if self.decoder == "mean_shift":
            return self._clusters(prediction, spacing)[1]
        return self._votes(prediction, spacing)[0]

    def read(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, Found]:
        """The pixels that vote for each point, or that are like it."""
        if self.decoder == "mean_shift":
            return self._clusters(prediction, spacing)
        found, offset = self._votes(prediction, spacing)
        mask = self._foreground(prediction) > self.foreground_threshold
        return voting.areas(offset, mask, found, spacing, self.capture), found

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """The labels alone."""
        return self.read(prediction, spacing)[0]

    def perfect(self, target: Target) -> jax.Array:
        """Logits of the foreground, and the embedding."""
        logits = losses.saturated(target.value[..., :1]) - losses.logit(self.prior)
        return jnp.concatenate([logits, self._embedding(target)], -1)

    def _embedding(self, target: Target) -> jax.Array:
        waves = jnp.asarray(self.frequencies)
        there = target.value[..., SHARE:FIRST] > 0
        return jnp.where(there, harmonic.embed(target.value[..., FIRST:], waves, self.ball_radius), 0.0)

    def _foreground(self, prediction: np.ndarray) -> np.ndarray:
        return special.expit(prediction[..., FOREGROUND] + np.float32(losses.logit(self.prior)))

    def _votes(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[Found, np.ndarray]:
        """Points, and the offset that the phases of each pixel say."""
        foreground = self._foreground(prediction)
        offset, sure = (
            np.asarray(part)
            for part in _offsets(
                jnp.asarray(prediction[..., 1:]), self.frequencies, self.ball_radius, self.max_offset
            )
        )
        ballot = voting.Ballot.of(self)
        return voting.read(offset, foreground * sure, foreground, spacing, self.threshold, ballot), offset

    def _clusters(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, Found]:
        """Labels and points of like pixels."""
        foreground = self._foreground(prediction)
        pixel = np.nonzero(foreground > self.foreground_threshold)
        lengths = np.asarray(spacing, np.float32)
        evidence = foreground[pixel]
        clustering = clusters.Clustering(
            frequencies=self.frequencies,
            ball_radius=self.ball_radius,
            max_offset=self.max_offset,
            bandwidth=self.bandwidth,
            iterations=self.iterations,
            max_voters=self.max_voters,
            max_peaks=self.max_peaks,
        )
        owner, centre = clusters.read(
            prediction[pixel][:, 1:], np.stack(pixel, -1) * lengths, evidence, clustering
        )
        ours = owner >= 0
        votes = np.bincount(owner[ours], evidence[ours], len(centre))
        heat = np.zeros(len(centre), np.float32)
        np.maximum.at(heat, owner[ours], evidence[ours])
        order = np.argsort(-heat, kind="stable")
        order = order[(votes >= self.min_votes)[order] & (heat > self.threshold)[order]]
        # The last row is for pixels of no cluster.
        label = np.zeros(len(centre) + 1, np.int32)
        label[order] = np.arange(len(order)) + 1
        labels = np.zeros(foreground.shape, np.int32)
        labels[pixel] = label[owner]
        return labels, Found((centre / lengths)[order].astype(np.float32), heat[order], None)


def _target(found: sources.Sources, known: jax.Array) -> Target:
    return Target(jnp.concatenate([found.inside, found.share, found.offset], -1), losses.known_weight(known))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _offsets(
    embedding: jax.Array, frequencies: harmonic.Frequencies, ball_radius: float, max_offset: float
) -> tuple[jax.Array, jax.Array]:
    """Offsets (..., D), and how sure they are: mean amplitude over the true one, (...,) in 0..1."""
    offset = harmonic.phase_offset(embedding, frequencies, ball_radius, max_offset)
    cos, sin = jnp.split(embedding, 2, -1)
    height = jnp.abs(harmonic.amplitudes(jnp.asarray(frequencies), ball_radius))
    return offset, jnp.minimum(jnp.sqrt(cos**2 + sin**2) / height, 1.0).mean(-1)
