"""What a network that compares cells sees of each: a crop of fixed size, its intensities on a common scale.

Shapes: F axes of a frame and S of a crop, both (Y, X) or (Z, Y, X), D of them; n cells of a frame.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax.data import normalise
from celltrack_jax.errors import InputError
from celltrack_jax.ops import crops

KINDS = ("masked", "patch")
SCALES = ("percentiles", "movie", "fixed")


@dataclass(frozen=True)
class CropSpec:
    """How cells are shown. All of it is part of a run's config, so that other movies are shown in the same way."""

    size: tuple[int, ...]
    """*S, voxels."""
    kind: str
    """"masked": the cell alone, in the middle, 0 elsewhere. "patch": a window around it, with whatever it shows."""
    light: bool
    """Whether the image is shown; else the mask, 1 in the cell."""
    scale: str
    """What becomes 0 and 1: the frame's 1st and 99.8th percentile ("percentiles", as everywhere here), the least and
    the largest intensity in the movie's cells ("movie", as the original does), or `fixed_range` ("fixed")."""
    fixed_range: tuple[float, ...]
    """Two intensities where the scale is "fixed", else none."""

    def __post_init__(self):
        where = "config.crops"
        if self.kind not in KINDS or self.scale not in SCALES:
            raise InputError(
                f"{where}: kind {self.kind!r}, scale {self.scale!r}: choose among {KINDS} and {SCALES}"
            )
        if len(self.size) not in (2, 3):
            raise InputError(f"{where}.size {self.size}: give y, x or z, y, x")
        if (self.scale == "fixed") != (len(self.fixed_range) == 2):
            raise InputError(
                f"{where}: scale {self.scale!r} and fixed_range {self.fixed_range}: 'fixed' takes two intensities, "
                "the others none"
            )
        if self.kind == "patch" and not self.light:
            raise InputError(f"{where}: patches without light show nothing: take kind 'masked' or light True")

    @property
    def ndim(self) -> int:
        """D."""
        return len(self.size)


def span(image: np.ndarray | None, spec: CropSpec, movie: tuple[float, float] | None) -> np.ndarray:
    """Returns (2,) float32, the intensities that become 0 and 1 in the crops of a frame.

    Args:
      image: (*F), None where crops show masks.
      spec: how cells are shown.
      movie: the least and the largest intensity in the movie's cells, where the scale is "movie".
    """
    if image is None:
        return np.array([0, 1], np.float32)
    if spec.scale == "percentiles":
        found = normalise.percentiles(image[None])[0, [0, 2]]
    else:
        found = np.array(movie if spec.scale == "movie" else spec.fixed_range, np.float32)
    return found if found[1] > found[0] else found[0] + np.array([0, 1], np.float32)


def cut(
    image: jax.Array | None,
    labels: jax.Array,
    ids: jax.Array,
    low: jax.Array,
    high: jax.Array,
    between: jax.Array,
    spec: CropSpec,
) -> crops.Crops:
    """Cuts out the cells of a frame; to be compiled.

    Args:
      image: (*F), None where crops show masks.
      labels: (*F) integers.
      ids: (n,) the cells' labels, 0 in padding.
      low: (n, D) int32, each cell's first voxel.
      high: (n, D) int32, behind its last.
      between: of `span`.
      spec: how cells are shown.

    Returns:
      Intensities on the common scale, neighbours' too, and which voxels are shown.
    """
    if image is None:
        found = crops.of_cells(labels, labels, ids, low, high, spec.size)
        return found._replace(values=found.inside.astype(jnp.float32))
    if spec.kind == "patch":
        found = crops.around(image, (low + high) // 2, spec.size)
    else:
        found = crops.of_cells(image, labels, ids, low, high, spec.size)
    return found._replace(values=(found.values - between[0]) / (between[1] - between[0]))


def shown(found: crops.Crops) -> jax.Array:
    """Returns (n, *S, 1) float32, what the network sees: 0 where nothing is shown."""
    return jnp.where(found.inside, found.values, 0)[..., None]


class FrameEmbedder:
    """Embeds the cells of whole frames, in chunks of a few static sizes; see `tracking.cells.Embed`."""

    def __init__(
        self,
        apply: Callable[[Any, jax.Array], jax.Array],
        variables: Any,
        spec: CropSpec,
        outputs: int,
        chunks: tuple[int, ...],
    ):
        """Compiles nothing yet.

        Args:
          apply: the network, (variables, (n, *S, 1) float32) -> (n, outputs) float32; traced.
          variables: of the network.
          spec: how cells are shown.
          outputs: of the network.
          chunks: cells per call, ascending.
        """
        self.spec, self.outputs = spec, outputs
        self.movie: tuple[float, float] | None = None
        self.needs_range = spec.light and spec.scale == "movie"
        self._variables, self._chunks = variables, chunks

        def embed(variables: Any, *frame: Any) -> jax.Array:
            image, labels, ids, low, high, between = frame
            return apply(variables, shown(cut(image, labels, ids, low, high, between, spec)))

        self._embed = jax.jit(embed)

    def __call__(
        self, labels: np.ndarray, image: np.ndarray | None, ids: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> np.ndarray:
        """Embeds the cells of a frame.

        Args:
          labels: (*F) integers.
          image: (*F), or None.
          ids: (n,) labels of the cells.
          low: (n, 3) integers, each cell's first voxel.
          high: (n, 3) integers, behind its last.

        Returns:
          (n, outputs) float32.

        Raises:
          InputError: the frame is 3D and the network 2D, or the reverse; or it has no image and the network looks
            at images.
        """
        ndim = self.spec.ndim
        if labels.ndim != ndim:
            raise InputError(
                f"frames have {labels.ndim} axes and the embedder was trained on {ndim}: give a run of such movies"
            )
        if self.spec.light and image is None:
            raise InputError(
                "there are no images, which the embedder was trained on (crops.light): give --images, or a run whose "
                "embedder was trained with --config.crops.light=False"
            )
        if self.needs_range and self.movie is None:
            raise ValueError("the scale 'movie' needs the intensities of the movie: call `of_movie` first")
        image = image if self.spec.light else None
        between = span(image, self.spec, self.movie)
        on_device = None if image is None else jnp.asarray(image.astype(np.float32, copy=False))
        # CTC labels and those of stores are unsigned; jax has no 64-bit integers.
        mask = jnp.asarray(labels.astype(np.uint32, copy=False))
        rows = []
        for part, size in crops.chunks(len(ids), self._chunks):
            extra = size - (part.stop - part.start)
            columns = [ids[part].astype(np.uint32), low[part, -ndim:], high[part, -ndim:]]
            of_cells, *box = (np.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1)) for x in columns)
            first, behind = (end.astype(np.int32) for end in box)
            rows.append(self._embed(self._variables, on_device, mask, of_cells, first, behind, between))
        none = np.zeros((0, self.outputs), np.float32)
        # Only now, so that chunks queue up on the device.
        return np.concatenate([none, *map(np.asarray, rows)])[: len(ids)]

    def of_movie(self, least: float, largest: float) -> "FrameEmbedder":
        """Returns the embedder for a movie whose cells' intensities lie between these."""
        made = copy.copy(self)
        made.movie = (least, largest)
        return made
