"""Ray lengths and thinning of star-convex cells against StarDist: `python -m launch.bench star --against=stardist`.

Both take a label map from host memory and leave lengths for all of its pixels there; "in one program" ours are left
where a training step leaves them, of which on a CPU the most is filling the background with zeros. Both take the same
candidates and say which of them are left. The other rows say how well cells are drawn from the lengths at their
middle: the mean intersection over union by the number of rays, from our lengths and from StarDist's.
"""

import functools
from typing import Any

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.ops import polyhedra
from celltrack_jax.ops.balls import draw_balls
from celltrack_jax.ops.polyhedra import Shapes
from launch.benches import timing

SHAPE, CELLS, RAYS = (48, 128, 128), 80, 96
RADII = (3.0, 6.0, 8.0)
"""Pixels, of the cells whose rays are timed."""
CANDIDATES, OVERLAP = 15_000, 0.3
REPEATS = 5
THINNING_REPEATS = 3
DRAWN_RADII, DRAWN_RAYS = (2.0, 3.0, 6.0), (32, 48, 64, 96, 128)
CHUNK = 8192


def run(against: str | None) -> list[dict[str, Any]]:
    """Times ray lengths and thinning, and scores what is drawn.

    Args:
      against: "stardist", or None for ours alone.

    Returns:
      Rows as `timing` makes them; those of thinning with the number of shapes that are left, those of drawing with the
      mean intersection over union by the number of rays, and the time that the lengths take.

    Raises:
      InputError: an unknown peer.
    """
    if against not in (None, "stardist"):
        raise InputError(f"bench star: no peer {against!r}; give --against=stardist or leave it out")
    rows = [_lengths_row(radius, against, whole) for radius in RADII for whole in (False, True)]
    rows += _thinning_rows(against)
    return rows + [_drawing_row(radius, against) for radius in DRAWN_RADII]


def cells(radius: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws balls, of which neighbours touch: places (CELLS, 3) and labels SHAPE int32."""
    rng = np.random.default_rng(seed)
    places = np.zeros((0, 3))
    while len(places) < CELLS:
        place = rng.uniform(0, 1, 3) * (np.array(SHAPE) - 1)
        if (np.linalg.norm(places - place, axis=1) > 1.6 * radius).all():
            places = np.vstack([places, place])
    return places, draw_balls(places, SHAPE, np.ones(3), radius)


def ours(labels: np.ndarray, rays: int, max_length: float) -> np.ndarray:
    """Returns lengths (*SHAPE, n) float32."""
    place = np.flatnonzero(labels > 0)
    pixel = np.stack(np.unravel_index(place, labels.shape), -1).astype(np.int32)
    padded = np.pad(pixel, ((0, -len(pixel) % CHUNK), (0, 0)))
    lengths = np.zeros((labels.size, rays), np.float32)
    follow = _compiled(rays)
    for first in range(0, len(pixel), CHUNK):
        found = follow(labels, padded[first : first + CHUNK], np.ones(3, np.float32), max_length=max_length)
        rows = place[first : first + CHUNK]
        lengths[rows] = np.abs(np.asarray(found)[: len(rows)])
    return lengths.reshape(*labels.shape, rays)


def in_one_program(labels: np.ndarray, rays: int, max_length: float) -> Any:
    """Returns the same as a `jax.Array`; negative as of `label_lengths`."""
    made = _compiled_whole(rays)(labels, np.ones(3, np.float32), max_length=max_length)
    return made.block_until_ready()


def theirs(labels: np.ndarray, rays: int) -> np.ndarray:
    """Returns StarDist's lengths (*SHAPE, n) float32."""
    from stardist.geometry import star_dist3D

    return np.asarray(star_dist3D(labels, _their_rays(rays)))


def candidates(radius: float, seed: int = 0) -> tuple[Shapes, np.ndarray]:
    """Takes pixels of cells, surer the nearer to the middle: shapes, and probabilities that fall."""
    rng = np.random.default_rng(seed)
    places, labels = cells(radius, seed)
    pixel = rng.permutation(np.argwhere(labels > 0))[:CANDIDATES]
    lengths = ours(labels, RAYS, 2 * radius + 2)[tuple(pixel.T)]
    away = np.linalg.norm(pixel - places[labels[tuple(pixel.T)] - 1], axis=1)
    probability = np.clip(1 - away / (radius + 1), 0.01, 0.95) + rng.uniform(0, 0.05, len(pixel))
    order = np.argsort(-probability, kind="stable")
    return Shapes(pixel[order], lengths[order], np.ones(3)), probability[order].astype(np.float32)


def thinned_exactly(shapes: Shapes) -> np.ndarray:
    """Returns the indices that are left, by pixels."""
    position = shapes.pixel * shapes.spacing
    return polyhedra.keep_first(position, shapes.lengths.max(1), polyhedra.pixel_overlaps(shapes), OVERLAP)


def thinned_as_balls(shapes: Shapes) -> np.ndarray:
    """Returns the indices that are left, by balls of the same volume."""
    size, offset = polyhedra.sizes_and_centres(shapes)
    centre = shapes.pixel * shapes.spacing + offset
    overlaps = polyhedra.ball_overlaps(size, centre)
    return polyhedra.keep_first(centre, polyhedra.ball_radii(size, 3), overlaps, OVERLAP)


def thinned_by_stardist(shapes: Shapes, probability: np.ndarray) -> np.ndarray:
    """Returns the indices that are left."""
    from stardist.nms import non_maximum_suppression_3d_sparse

    rays = _their_rays(shapes.lengths.shape[1])
    return non_maximum_suppression_3d_sparse(
        shapes.lengths, probability, shapes.pixel, rays, nms_thresh=OVERLAP
    )[3]


def drawing_score(labels: np.ndarray, places: np.ndarray, lengths: np.ndarray) -> float:
    """Mean over cells of the intersection over union of a cell with what its middle pixel's lengths draw."""
    pixel = np.clip(np.rint(places).astype(int), 0, np.array(SHAPE) - 1)
    own = labels[tuple(pixel.T)] == np.arange(1, len(places) + 1)
    shapes = Shapes(pixel[own], np.maximum(lengths[tuple(pixel[own].T)], 1e-3), np.ones(3))
    scores = []
    for k, cell in enumerate(np.flatnonzero(own) + 1):
        drawn, true = polyhedra.draw(shapes.take(np.array([k])), SHAPE) > 0, labels == cell
        scores.append((drawn & true).sum() / (drawn | true).sum())
    return float(np.mean(scores))


def _lengths_row(radius: float, against: str | None, whole: bool) -> dict[str, Any]:
    labels = cells(radius)[1]
    name = f"{RAYS} rays of {'x'.join(map(str, SHAPE))}, {CELLS} cells of radius {radius:g}"
    follow = functools.partial(in_one_program if whole else ours, labels, RAYS, 2 * radius + 2)
    name += ", in one program" if whole else ""
    if against is None:
        return timing.alone_row(name, timing.alone(follow, REPEATS))
    return timing.interleaved(follow, functools.partial(theirs, labels, RAYS), REPEATS).row(name)


def _thinning_rows(against: str | None) -> list[dict[str, Any]]:
    rows = []
    for radius in RADII:
        shapes, probability = candidates(radius)
        for name, thin in (("pixels", thinned_exactly), ("balls", thinned_as_balls)):
            title = f"{len(shapes.pixel)} candidates of radius {radius:g} thinned by {name}"
            own = functools.partial(thin, shapes)
            if against is None:
                row = timing.alone_row(title, timing.alone(own, THINNING_REPEATS))
            else:
                peer = functools.partial(thinned_by_stardist, shapes, probability)
                row = timing.interleaved(own, peer, THINNING_REPEATS, warmup=0).row(title)
                row["left_peer"] = len(peer())
            rows.append(row | {"left": len(own())})
    return rows


def _drawing_row(radius: float, against: str | None) -> dict[str, Any]:
    places, labels = cells(radius)
    row = timing.alone_row(
        f"drawn, radius {radius:g}", timing.alone(lambda: ours(labels, DRAWN_RAYS[-1], 2 * radius + 2), 1)
    )
    for rays in DRAWN_RAYS:
        row[f"iou_{rays}"] = drawing_score(labels, places, ours(labels, rays, 2 * radius + 2))
        if against is not None:
            row[f"iou_{rays}_peer"] = drawing_score(labels, places, theirs(labels, rays))
    return row


@functools.cache
def _their_rays(rays: int):
    from stardist.rays3d import Rays_GoldenSpiral

    return Rays_GoldenSpiral(rays)


@functools.cache
def _compiled(rays: int):
    import jax

    from celltrack_jax.ops.star import lengths_at

    return jax.jit(functools.partial(lengths_at, rays=rays))


@functools.cache
def _compiled_whole(rays: int):
    import jax

    from celltrack_jax.ops.star import label_lengths

    return jax.jit(functools.partial(label_lengths, rays=rays, grid=(1, 1, 1)))
