"""Features, crops and embeddings of all cells of a movie: `python -m launch.bench embed --against=per-cell`.

100 frames of 1024x1024 with 300 cells, 64x64 crops, ResNet-18. The peer is the way of Ben-Haim & Riklin-Raviv (2022),
written plainly: for each cell the whole frame is compared and copied and `regionprops` runs over it, and the network is
given one crop at a time. Its network is the same compiled one as ours. One frame is measured, and the times of all are
multiples of it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from celltrack_jax import models
from celltrack_jax.data.cell_crops import CropSpec, FrameEmbedder
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.tracking.cells import Cells, measure_cells
from launch.benches import timing

FRAMES = 100
SIDE, CELLS, RADII = 1024, 300, (10, 26)
"""Pixels of a frame, its cells, and their least and largest radius."""
CROP, DEPTH, OUTPUTS = (64, 64), 18, 128
CHUNKS = (16, 64, 256)
"""Cells that ours gives the network at a time."""
REPEATS = 3
SPEC = CropSpec(size=CROP, kind="masked", light=True, scale="fixed", fixed_range=(0.0, 1000.0))


def run(against: str | None) -> list[dict[str, Any]]:
    """Times features with crops, the network, and all of it.

    Args:
      against: "per-cell", or None for ours alone.

    Returns:
      A row for each, as `timing` makes them, scaled to `FRAMES`.

    Raises:
      InputError: the peer is not known.
    """
    if against not in (None, "per-cell"):
        raise InputError(f"bench embed: no peer {against!r}; give --against=per-cell or leave it out")
    labels, image = frame()
    apply, variables = network()
    embed = functools.partial(jax.jit(apply), variables)
    whole = FrameEmbedder(apply, variables, SPEC, OUTPUTS, CHUNKS)
    pixels = FrameEmbedder(lambda _, x: x.reshape(len(x), -1), None, SPEC, int(np.prod(CROP)), CHUNKS)
    crops = per_cell(labels, image, None)[1]
    kinds: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "features and crops": (lambda: at_once(labels, image, pixels), lambda: per_cell(labels, image, None)),
        "embedding the crops": (lambda: batched(crops, embed), lambda: one_by_one(crops, embed)),
        "all of it": (lambda: at_once(labels, image, whole), lambda: per_cell(labels, image, embed)),
    }
    rows = []
    for name, (ours, peer) in kinds.items():
        label = f"{name}, {FRAMES} frames of {SIDE}x{SIDE}, {CELLS} cells (1 measured)"
        if against is None:
            row = timing.alone_row(label, timing.alone(ours, REPEATS))
        else:
            row = timing.interleaved(ours, peer, REPEATS).row(label)
        rows.append(row | {key: FRAMES * row[key] for key in ("ours_s", "peer_s") if key in row})
    return rows


def frame() -> tuple[np.ndarray, np.ndarray]:
    """Returns (Y, X) uint16 labels, discs on a jittered grid that may touch, and the image."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(CELLS)))
    grid = np.stack(np.divmod(np.arange(CELLS), side), 1) + 0.5
    centre = grid * SIDE / side + rng.normal(size=(CELLS, 2)) * 4
    labels = np.zeros((SIDE, SIDE), np.uint16)
    y, x = np.indices(labels.shape)
    for label, (at, radius) in enumerate(zip(centre, rng.uniform(*RADII, CELLS), strict=True), 1):
        near = tuple(slice(max(0, int(c - radius)), int(c + radius) + 2) for c in at)
        disc = (y[near] - at[0]) ** 2 + (x[near] - at[1]) ** 2 <= radius**2
        labels[near][disc & (labels[near] == 0)] = label
    return labels, rng.integers(100, 1000, labels.shape).astype(np.uint16)


def network() -> tuple[Callable[[Any, Any], Any], Any]:
    """Returns the embedder as (variables, (n, *S, 1)) -> (n, K), and its variables."""
    make = functools.partial(models.build, "embedder", ndim=len(CROP), depth=DEPTH, outputs=OUTPUTS)
    model = FunctionalModel(make)
    return lambda variables, x: model.apply(variables, x)[0], jax.jit(model.init)(jax.random.key(0))


def at_once(labels: np.ndarray, image: np.ndarray, embed: FrameEmbedder) -> Cells:
    """Our way."""
    return measure_cells([(0, labels, image)], np.ones(3), embed)


def batched(crops: np.ndarray, embed: Callable[[Any], Any]) -> np.ndarray:
    """Embeds crops (n, *S, 1) all at once."""
    return np.asarray(embed(crops))


def one_by_one(crops: np.ndarray, embed: Callable[[Any], Any]) -> np.ndarray:
    """Embeds crops (n, *S, 1) one after the other."""
    return np.concatenate([np.asarray(embed(crop[None])) for crop in crops])


def per_cell(
    labels: np.ndarray, image: np.ndarray, embed: Callable[[Any], Any] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The slow way: (n, 12) features of each cell, and embeddings (n, K), or crops (n, *S, 1) without a network."""
    from skimage.measure import regionprops

    low, high = SPEC.fixed_range
    features, rows = [], []
    for label in np.unique(labels)[1:]:
        own, picture = (labels == label).astype(np.uint8), image.copy()
        (cell,) = regionprops(own, picture)
        light = cell.intensity_max, cell.intensity_mean, cell.intensity_min
        axes = cell.axis_major_length, cell.axis_minor_length
        features.append([cell.area, *cell.bbox, *cell.centroid, *axes, *light])
        picture[own == 0] = 0
        box = cell.slice
        crop = np.where(own[box], (picture[box].astype(np.float32) - low) / (high - low), 0)
        pads = [((s - n) // 2, s - n - (s - n) // 2) for s, n in zip(CROP, crop.shape, strict=True)]
        crop = np.pad(crop, pads).astype(np.float32)[None, ..., None]
        rows.append(crop if embed is None else np.asarray(embed(crop)))
    return np.array(features), np.concatenate(rows)
