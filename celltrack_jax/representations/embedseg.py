"""Cells as clusters: each pixel points at the centre of its cell, and says how near is near enough.

EmbedSeg (Lalit, Tomancak and Jug, Medical Image Analysis 2022, arXiv:2101.10033) after Neven et al. (CVPR 2019,
arXiv:1906.11109). A pixel at x is embedded at e = x + scale * tanh(offset / 4). It belongs to the cell with centre c by

    phi = 2 ** -sum_a exp(10 s_a) ((e_a - c_a) / margin)^2,

s being the mean of the cell's sigmas: more than 1/2 inside an ellipsoid around c, of radius `margin` where s is 0. With
exp instead of the power of 2, as the paper writes it, s moves by log(log(2) / margin^2) / 10. The network's raw answer
is 10 s, since a head starts with answers of about 1: as s those would make clusters 150 times too wide or too narrow,
where nothing is learned.

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), D of them, K cells of a crop, W window, N points of a frame. Raw
channels: D offsets, a quarter of which the tangent is taken of, as they would start beyond the cluster's edge otherwise;
D of 10 s; and the logit of the seed above that of `prior`, which learns phi inside of cells and 0 outside. Channels of
the target: the cell's number, D of the pixel's place and D of its cell's centre, both in the unit of the spacing; in
the background the centre is the place.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops import windows
from celltrack_jax.ops.labels import centroids
from celltrack_jax.ops.lovasz import lovasz_hinge
from celltrack_jax.representations import Found, Target, losses, sources
from celltrack_jax.representations.room import tell

_CALM = 0.25
"""Share of an offset's raw answer whose tangent is taken."""
_GAIN = 10.0
"""Raw answer of a sigma of 1."""
_STEEPEST = 15.0
"""Bound on that answer's size: clusters are up to 1800 times wider or narrower than the margin, and floats finite."""
_SURE = 5.0
"""Raw answer for sigma of a perfect network; its clusters are 12 times narrower than the margin."""
_FARTHEST = 0.9999
"""Share of the scale that the perfect offset reaches."""


def build(**kwargs) -> "EmbedSeg":
    """Makes the representation; all constants are given, see `EmbedSeg`."""
    return from_mapping(EmbedSeg, kwargs, "representation")


@dataclass(frozen=True)
class EmbedSeg:
    """Offsets, sigmas and seeds. Lengths are in the unit of the spacing."""

    axes: int
    """D."""
    max_cells: int
    """K, upper bound on the cells in a crop and on its dense ids; the loss does the work of K cells in any case."""
    centre: str
    """Of a labelled cell: "medoid", the pixel nearest to all others, as published; or "centroid"."""
    radius: float
    """Points stand for balls of this radius, and for the pixel that holds them; where balls meet, each pixel is of the
    nearest point."""
    scale: float
    """Length of the largest offset along an axis: more than any pixel is away from its cell's centre."""
    margin: float
    """Radius of the cluster of a raw answer of 0: about half the distance of the nearest centres."""
    window: tuple[int, ...]
    """W, pixels along each axis around the middle of a cell in which its Lovász hinge is taken: the largest cell and
    its neighbours fit in. Time and memory of the loss go with K * W."""
    variance_weight: float
    seed_weight: float
    """Factors of the variance of sigma in a cell and of the seed's error; the Lovász hinge has 1."""
    prior: float
    """Seed that a raw output of 0 means: what most pixels are, from the first step on."""
    foreground_weight: float
    """Factor of pixels of cells in the seed's error."""
    foreground_threshold: float
    """Seed above which a pixel can be part of a cell."""
    threshold: float
    """Seed from which a pixel can start a cell."""
    min_size: int
    """Cells with fewer pixels are dropped."""
    max_found: int
    """Most cells of a frame."""

    def __post_init__(self):
        if self.centre not in ("medoid", "centroid"):
            raise InputError(f'representation.centre is {self.centre!r}: "medoid" or "centroid"')
        if len(self.window) != self.axes or min(self.window) < 1:
            raise InputError(f"representation.window {self.window}: give {self.axes} sizes, one per axis")
        for name in ("radius", "scale", "margin"):
            if getattr(self, name) <= 0:
                raise InputError(f"representation.{name} is {getattr(self, name)}: a positive length")
        for name in ("prior", "foreground_threshold", "threshold"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"representation.{name} is {getattr(self, name)}: in (0, 1)")

    @property
    def channels(self) -> int:
        """Offset, sigma and seed."""
        return 2 * self.axes + 1

    @property
    def has_threshold(self) -> bool:
        """Reading starts at sure pixels."""
        return True

    @property
    def learns_steps(self) -> bool:
        """Frames are read one by one."""
        return False

    @property
    def directed(self) -> bool:
        """Offsets have directions."""
        return True

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """Numbers, places and centres, see the module; unknown where labels are -1."""
        if self.centre == "medoid":
            centres = windows.medoids(labels, spacing, self.max_cells, self.window)
        else:
            centres = centroids(labels, self.max_cells + 1)[1:]
        return self._target(labels, centres, spacing)

    def point_target(
        self, points: jax.Array, steps: jax.Array, known: jax.Array, spacing: jax.Array
    ) -> Target:
        """Makes the target of one sample's points, which are centres of balls; traced into the training step.

        Args:
          points: (K, D) float32 index, also outside of the map; NaN for none.
          steps: not used.
          known: (*S) int32, -1 where the truth is unknown.
          spacing: (D,) float32.
        """
        del steps
        row = sources.of_points(points, known, spacing, self.radius).row
        return self._target(jnp.where(known < 0, -1, row + 1), points, spacing)

    def _target(self, ids: jax.Array, centres: jax.Array, spacing: jax.Array) -> Target:
        """From ids (*S) int32 and their centres (K, D) index."""
        place = spacing * jnp.stack(jnp.meshgrid(*map(jnp.arange, ids.shape), indexing="ij"), -1)
        centre = (centres * spacing).at[ids - 1].get(mode="clip")
        centre = jnp.where((ids > 0)[..., None], centre, place)
        value = jnp.concatenate([jnp.maximum(ids, 0)[..., None], place, centre], -1)
        return Target(value.astype(jnp.float32), losses.known_weight(ids))

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Lovász hinge of 2 phi - 1 and variance of sigma, means over cells, and squared error of the seed."""
        del step
        prediction = losses.known(prediction, target.weight)
        hinge, spread, phi, there = jax.vmap(self._of_cells)(prediction, target)
        count = jnp.maximum(there.sum(), 1)
        cell = target.value[..., :1] > 0
        seed = jax.nn.sigmoid(prediction[..., -1:] + losses.logit(self.prior))
        error = jnp.square(seed - jax.lax.stop_gradient(phi))
        metrics = {
            "lovasz": jnp.where(there, hinge, 0.0).sum() / count,
            "variance": spread.sum() / count,
            "seed": losses.weighted_mean(jnp.where(cell, self.foreground_weight, 1.0) * error, target.weight),
        }
        value = metrics["lovasz"] + self.variance_weight * metrics["variance"]
        return value + self.seed_weight * metrics["seed"], metrics

    def _of_cells(
        self, prediction: jax.Array, target: Target
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Of one sample: Lovász hinge (K,), variance of sigma () summed over cells, phi (*S, 1) of each pixel to its own
        cell and 0 outside of cells, and which cells there are (K,)."""
        ndim, known = self.axes, target.weight[..., 0] > 0
        ids = jnp.where(known, target.value[..., 0].astype(jnp.int32), -1)
        place, centre = target.value[..., 1 : 1 + ndim], target.value[..., 1 + ndim :]
        embedding, sigma = self._embedding(prediction, place), prediction[..., ndim : 2 * ndim] / _GAIN
        cell = (ids > 0)[..., None]

        segment = jnp.where(ids > 0, ids - 1, self.max_cells).reshape(-1)  # a row behind the last is dropped
        rows = jnp.concatenate([jnp.ones_like(cell), sigma], -1).reshape(-1, 1 + ndim)
        total = jax.ops.segment_sum(rows, segment, self.max_cells)
        size, there = jnp.maximum(total[:, :1], 1), total[:, 0] > 0
        mean = total[:, 1:] / size
        middle = jax.ops.segment_max(centre.reshape(-1, ndim), segment, self.max_cells)
        middle = jnp.where(there[:, None], middle, 0.0)

        own = jnp.maximum(ids - 1, 0)
        spread = jnp.square(sigma - jax.lax.stop_gradient(mean)[own]).mean(-1, keepdims=True) / size[own]
        phi = jnp.where(cell, self._phi(embedding - centre, mean[own])[..., None], 0.0)
        hinge = self._hinges(embedding, ids, middle, mean)
        return hinge, jnp.where(cell, spread, 0.0).sum(), phi, there

    def _hinges(self, embedding: jax.Array, ids: jax.Array, centre: jax.Array, sigma: jax.Array) -> jax.Array:
        """Lovász hinge (K,) of each cell in its window; embeddings (*S, D), centres and sigmas (K, D)."""
        size = tuple(min(pair) for pair in zip(self.window, ids.shape, strict=True))
        start = windows.starts(ids, self.max_cells, size)
        near, label = windows.cut(embedding, start, size), windows.cut(ids, start, size)
        shape = (self.max_cells, *(1,) * self.axes)
        phi = self._phi(near - centre.reshape(*shape, -1), sigma.reshape(*shape, -1))
        mask, valid = label == 1 + jnp.arange(self.max_cells).reshape(shape), label >= 0
        flat = (part.reshape(self.max_cells, -1) for part in (2 * phi - 1, mask, valid))
        return jax.vmap(lovasz_hinge)(*flat)

    def _embedding(self, prediction: jax.Array, place: jax.Array) -> jax.Array:
        return place + self.scale * jnp.tanh(_CALM * prediction[..., : self.axes])

    def _phi(self, away: jax.Array, sigma: jax.Array) -> jax.Array:
        """(...) from distances to the centre and sigmas (..., D)."""
        steepness = jnp.exp(jnp.clip(_GAIN * sigma, -_STEEPEST, _STEEPEST))
        return jnp.exp2(-(steepness * jnp.square(away / self.margin)).sum(-1))

    def read(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, Found]:
        """Clusters greedily: the surest pixel that is free takes all pixels with phi > 1/2 to it.

        A cluster is a cell if more than half of it was free and that is `min_size` or more; in any case its pixels are
        free no longer. A pixel stays with the cluster that was surest. A point lies where the embeddings of its cell's
        pixels lie on average; its heat is the seed of the surest.

        Pixels whose embedding can lie in a cluster are in a box around it, so clusters cost no pass over the frame.

        Args:
          prediction: (*S, C) float32 of one frame.
          spacing: (D,).
        """
        prediction, spacing = np.asarray(prediction, np.float32), np.asarray(spacing, np.float64)
        shape = prediction.shape[:-1]
        seed = special.expit(prediction[..., -1] + np.float32(losses.logit(self.prior)))
        cell = seed > min(self.foreground_threshold, self.threshold)
        grid = np.ogrid[tuple(slice(size) for size in shape)]
        # One map per axis, so that a box of it is read row by row.
        embedding = np.stack(
            [
                g * s + self.scale * np.tanh(_CALM * prediction[..., a])
                for a, (g, s) in enumerate(zip(grid, spacing, strict=True))
            ]
        )
        labels, free = np.zeros(shape, np.int32), cell.copy()
        surest = np.flatnonzero((seed >= self.threshold).reshape(-1))
        surest = surest[np.argsort(-seed.reshape(-1)[surest], kind="stable")]
        position, heat = [], []
        for pixel in zip(*np.unravel_index(surest, shape), strict=True):
            if not free[pixel]:
                continue
            centre = embedding[(slice(None), *pixel)]
            raw = prediction[pixel][self.axes : 2 * self.axes]
            semi_axis = self.margin * np.exp(-0.5 * np.clip(raw, -_STEEPEST, _STEEPEST))
            box = _box(centre / spacing, (semi_axis + self.scale) / spacing, shape)
            away = sum(np.square((embedding[a][box] - centre[a]) / semi_axis[a]) for a in range(self.axes))
            cluster = cell[box] & (away < 1)
            taken = cluster & free[box]
            free[box] &= ~cluster
            count = int(taken.sum())
            if count < self.min_size or 2 * count <= cluster.sum():
                continue
            labels[box][taken] = len(heat) + 1
            position.append(embedding[(slice(None), *box)][:, taken].mean(1) / spacing)
            heat.append(seed[pixel])
            if len(heat) == self.max_found:
                tell("max_found", self.max_found)
                break
        found = np.array(position, np.float32).reshape(-1, self.axes)
        return labels, Found(found, np.array(heat, np.float32), None)

    def points(self, prediction: np.ndarray, spacing: np.ndarray) -> Found:
        """The points alone."""
        return self.read(prediction, spacing)[1]

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """The clusters alone."""
        return self.read(prediction, spacing)[0]

    def perfect(self, target: Target) -> jax.Array:
        """Offsets to the centre, narrow clusters, and saturated seeds."""
        place, centre = jnp.split(target.value[..., 1:], 2, -1)
        offset = jnp.arctanh(jnp.clip((centre - place) / self.scale, -_FARTHEST, _FARTHEST))
        seed = losses.saturated((target.value[..., :1] > 0).astype(jnp.float32)) - losses.logit(self.prior)
        return jnp.concatenate([offset / _CALM, jnp.full_like(offset, _SURE), seed], -1)


def _box(middle: np.ndarray, reach: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Pixels of a map that lie within `reach` (D,) pixels of a place (D,)."""
    slack = 1e-3  # of rounding
    low, high = np.maximum(np.ceil(middle - reach - slack), 0), np.floor(middle + reach + slack) + 1
    return tuple(
        slice(int(first), max(int(first), min(int(last), size)))
        for first, last, size in zip(low, high, shape, strict=True)
    )
