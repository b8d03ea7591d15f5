"""What the masks and images of a movie tell about its cells, from which all features are made.

Shapes: N detections of a movie, n cells of one frame, Z Y X space; a 2D frame has Z = 1. K components of an
embedding, 0 without an embedder.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.lineage import Detections
from celltrack_jax.tracking import features

MIN, MEAN, MAX, STD = range(4)
"""Columns of `Cells.intensity`."""
_FAR = np.iinfo(np.int64).max


class Cells(NamedTuple):
    """The cells of a movie."""

    detections: Detections
    covariance_um: np.ndarray
    """(N, 3, 3) float32 µm², of the voxels' centres about the cell's; 0 along z in 2D."""
    low: np.ndarray
    """(N, 3) int64, the bounding box's first voxel."""
    high: np.ndarray
    """(N, 3) int64, behind its last voxel."""
    intensity: np.ndarray
    """(N, 4) float32, smallest, mean, largest and standard deviation in the cell; NaN where there is no image."""
    shape: np.ndarray
    """(3,) int64, Z Y X of the frames; 0 where there was no frame."""
    spacing_um: np.ndarray
    """(3,) float64. With 2D frames z counts as 1, so that always volume_um = voxels * product of spacing_um."""
    embedding: np.ndarray
    """(N, K) float32, what a network makes of each cell's looks."""


class Embed(Protocol):
    """Embeds the cells of one frame at a time."""

    outputs: int
    """K."""
    needs_range: bool
    """Whether it has to know the intensities of the movie's cells first: `of_movie`."""

    def of_movie(self, least: float, largest: float) -> "Embed":
        """Returns the embedder of a movie in whose cells the intensities lie between these."""
        ...

    def __call__(
        self, labels: np.ndarray, image: np.ndarray | None, ids: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> np.ndarray:
        """Returns (n, K) float32 of the labels and image of a frame, and the cells' labels (n,) and boxes (n, 3)."""
        ...


def measure_cells(
    frames: Iterable[tuple[int, np.ndarray, np.ndarray | None]],
    spacing: np.ndarray,
    embed: Embed | None = None,
) -> Cells:
    """Measures every cell of a movie; one frame is in memory at a time.

    Args:
      frames: (frame number, labels (Y, X) or (Z, Y, X) integers with 0 the background, image of that shape or
        None), ascending.
      spacing: voxel size in µm, z y x or y x; the last entries belong to the mask's axes.
      embed: makes the embeddings.

    Raises:
      ValueError: a negative label, or frame numbers that do not ascend.
      InputError: an image or a frame is of another shape, or not what the embedder was trained on.
    """
    spacing = np.asarray(spacing, np.float64)
    found, parts = [], [_no_measures()]
    embedding = [np.zeros((0, embed.outputs if embed else 0), np.float32)]
    shape = None
    for frame, labels, image in features.in_order(frames):
        shape = labels.shape if shape is None else shape
        if labels.shape != shape:
            raise InputError(
                f"frame {frame} is of shape {labels.shape}, those before of {shape}: give frames of one shape"
            )
        if image is not None and image.shape != shape:
            raise InputError(
                f"frame {frame} has an image of shape {image.shape} for a mask of {shape}: give those that "
                "belong together"
            )
        inside = features.Foreground(labels)
        found.append(features.frame_detections(frame, inside, spacing))
        parts.append(_measures(inside, image, spacing[-labels.ndim :]))
        _, low, high, _ = parts[-1]
        none = np.zeros((len(low), 0), np.float32)
        embedding.append(embed(labels, image, inside.names, low, high) if embed else none)
    covariance, low, high, intensity = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    padded = np.ones(3, np.int64) if shape else np.zeros(3, np.int64)
    scale = np.ones(3)
    if shape:
        padded[3 - len(shape) :], scale[3 - len(shape) :] = shape, spacing[-len(shape) :]
    return Cells(
        features.joined(found), covariance, low, high, intensity, padded, scale, np.concatenate(embedding)
    )


def measure_and_embed(
    frames: Callable[[], Iterable[tuple[int, np.ndarray, np.ndarray | None]]],
    spacing: np.ndarray,
    embed: Embed | None,
) -> Cells:
    """Measures a movie as `measure_cells` does; looks through it once more where the embedder needs its intensities.

    Args:
      frames: called for each look.
      spacing: as of `measure_cells`.
      embed: makes the embeddings, if any.
    """
    if embed is not None and embed.needs_range:
        light = measure_cells(frames(), spacing).intensity
        known = light[~np.isnan(light[:, MIN])]
        embed = embed.of_movie(
            float(known[:, MIN].min(initial=np.inf)), float(known[:, MAX].max(initial=-np.inf))
        )
    return measure_cells(frames(), spacing, embed)


def select(cells: Cells, index: np.ndarray) -> Cells:
    """Returns some of the cells.

    Args:
      cells: of the movie.
      index: (n,) integers or (N,) bool; ascending integers keep the order by frame and label.
    """
    return cells._replace(
        detections=Detections(*(column[index] for column in cells.detections)),
        covariance_um=cells.covariance_um[index],
        low=cells.low[index],
        high=cells.high[index],
        intensity=cells.intensity[index],
        embedding=cells.embedding[index],
    )


_Measures = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _no_measures() -> _Measures:
    box = np.zeros((0, 3), np.int64)
    return np.zeros((0, 3, 3), np.float32), box, box, np.zeros((0, 4), np.float32)


def _measures(inside: features.Foreground, image: np.ndarray | None, scale: np.ndarray) -> _Measures:
    """Covariance (n, 3, 3), box (n, 3) twice and intensity (n, 4) of the cells of a frame."""
    count, axes = len(inside.names), range(3 - len(scale), 3)
    low, high = np.full((count, 3), _FAR), np.zeros((count, 3), np.int64)
    low[:, : axes[0]], high[:, : axes[0]] = 0, 1
    least, most = np.full(count, np.inf), np.full(count, -np.inf)
    for coordinates, cell in inside.blocks():
        for axis, x in zip(axes, coordinates, strict=True):
            np.minimum.at(low[:, axis], cell, x)
            np.maximum.at(high[:, axis], cell, x + 1)
        if image is not None:
            values = image[coordinates].astype(np.float64)
            np.minimum.at(least, cell, values)
            np.maximum.at(most, cell, values)

    # Sums of what exceeds the least, so that far from the origin, and in bright cells, nothing cancels.
    voxels, first, second = np.zeros(count), np.zeros((count, 3)), np.zeros((count, 3, 3))
    bright = np.zeros((2, count))
    for coordinates, cell in inside.blocks():
        voxels += np.bincount(cell, minlength=count)
        offset = [(axis, x - low[cell, axis]) for axis, x in zip(axes, coordinates, strict=True)]
        for place, (i, one) in enumerate(offset):
            first[:, i] += np.bincount(cell, one, count)
            for j, two in offset[place:]:
                second[:, i, j] += np.bincount(cell, one * two, count)
        if image is not None:
            above = image[coordinates].astype(np.float64) - least[cell]
            bright[0] += np.bincount(cell, above, count)
            bright[1] += np.bincount(cell, above * above, count)
    first, second = first / voxels[:, None], second / voxels[:, None, None]
    second = np.maximum(second, second.swapaxes(1, 2)) - first[:, :, None] * first[:, None]
    second[:, axes[0] :, axes[0] :] *= scale * scale[:, None]
    intensity = np.full((count, 4), np.nan, np.float32)
    if image is not None:
        mean = bright[0] / voxels
        deviation = np.sqrt(np.maximum(bright[1] / voxels - mean * mean, 0))
        intensity = np.stack([least, least + mean, most, deviation], 1).astype(np.float32)
    return second.astype(np.float32), low, high, intensity
