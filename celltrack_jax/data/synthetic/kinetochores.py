"""Synthetic kinetochores of a zygote: pairs of sisters in two channels, as movies of EGFP and mCherry show them.

As in docs/originals.md, 2.1: 40 pairs, one sister of which is missing, in an ellipsoid of 10 x 12 x 12 µm,
sisters 0.9 ± 0.15 µm apart, medium intensities, a way of 0.2 µm per frame. Nearest neighbours are 0.51, 0.86 and 1.14 µm
apart at the percentiles 5, 50, 95 (6 movies); those of the original's one list 0.44, 0.96 and 1.72.

Shapes: T frames, C channels, Z Y X space, N pairs.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from celltrack_jax.errors import InputError
from celltrack_jax.io.kinetochores import write_movie
from celltrack_jax.io.points import PointTable

MISSING = 6
"""Label of the sister that is missing: Pair3_2."""
_REACH = 4.0
"""Standard deviations of the point spread function that are drawn."""


@dataclass(frozen=True)
class KinetochoreSpec:
    """Every knob of a movie. Lengths in µm, z y x; light in photons."""

    frames: int = 18
    shape: tuple[int, int, int] = (48, 128, 128)
    spacing_um: tuple[float, float, float] = (0.3, 0.13, 0.13)
    pairs: int = 40
    cloud_um: tuple[float, float, float] = (10.0, 12.0, 12.0)
    """Diameters of the ellipsoid that holds the pairs' middles."""
    pair_um: float = 0.9
    pair_spread_um: float = 0.15
    """Mean and standard deviation of the distance of sisters; it breathes by a third of that."""
    least_um: float = 0.3
    """Kinetochores of different pairs push each other away when nearer than this."""
    step_um: float = 0.2
    """Standard deviation of the way between two frames; half of its variance is the whole cloud's."""
    persistence: float = 0.6
    """Share of the velocity kept from frame to frame."""
    turn_rad: float = 0.08
    """Standard deviation of the rotation of a pair's axis per frame."""
    psf_um: tuple[float, float, float] = (0.35, 0.13, 0.13)
    """Standard deviations of the Gaussian point spread function."""
    photons: float = 250.0
    """Of a mean kinetochore at its brightest voxel."""
    intensity_spread: float = 0.35
    """Standard deviation of the logarithm of brightness."""
    medium_share: float = 0.3
    medium_factor: float = 0.4
    """Share of kinetochores of medium intensity, and how bright they are."""
    background_photons: float = 60.0
    diffuse: float = 0.6
    """Light of the cytoplasm around the cloud, relative to the background; of the second channel three times that."""
    read_noise: float = 4.0
    bleaching: float = 0.01
    """Share of the light lost per frame."""
    jitter_um: float = 0.0
    """Standard deviation of labels about the truth, per axis."""
    drop: float = 0.0
    shift: float = 0.0
    """Shares of the labels that are left out, and that lie up to a µm aside."""


class KinetochoreMovie(NamedTuple):
    """A movie and its truth."""

    images: np.ndarray
    """(T, C, Z, Y, X) uint16: EGFP, mCherry."""
    cells: PointTable
    """The labels; sisters of pair n are 2n - 1 and 2n."""
    truth: PointTable
    """Where the kinetochores are."""


def make_movie(spec: KinetochoreSpec, seed: int) -> KinetochoreMovie:
    """Simulates a movie; the same seed gives the same truth under other light and labels.

    Args:
      spec: the knobs.
      seed: of all randomness.

    Raises:
      InputError: the pairs do not fit into the cloud.
    """
    alive, light, labels = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    position = _life(spec, alive)
    brightness = np.exp(spec.intensity_spread * light.standard_normal((spec.pairs, 2)))
    brightness *= np.where(light.random((spec.pairs, 2)) < spec.medium_share, spec.medium_factor, 1.0)
    there = np.ones((spec.pairs, 2), bool)
    there.flat[MISSING - 1 : MISSING] = False
    images = [
        _expose(voxel[there], brightness[there], spec, light, (1 - spec.bleaching) ** t)
        for t, voxel in enumerate(position / spec.spacing_um)
    ]
    truth = _table(position / spec.spacing_um, there)
    return KinetochoreMovie(np.stack(images), _annotated(truth, spec, labels), truth)


def write_movies(root: Path, *, train: int, test: int, spec: KinetochoreSpec, seed: int) -> None:
    """Writes <root>/train and <root>/test with movies of their own, see `io.kinetochores`; test labels are the truth.

    Args:
      root: folder; made when absent.
      train: movies to train on.
      test: movies that are not trained on.
      spec: the knobs.
      seed: of all randomness; movie number n is the same for any number of movies.
    """
    states = np.random.SeedSequence(seed).generate_state(train + test)
    for number, state in enumerate(states.tolist()):
        taught = number < train
        exact = spec if taught else replace(spec, jitter_um=0.0, drop=0.0, shift=0.0)
        movie = make_movie(exact, state)
        write_movie(
            Path(root) / ("train" if taught else "test") / f"zygote{number + 1}", movie.images, movie.cells
        )


def _life(spec: KinetochoreSpec, rng: np.random.Generator) -> np.ndarray:
    """(T, N, 2, 3) µm from the corner of the field."""
    half = np.multiply(spec.shape, spec.spacing_um) / 2 - np.divide(spec.spacing_um, 2)
    middle, axis, distance = _placed(spec, rng)
    common, own = np.zeros(3), np.zeros((spec.pairs, 3))
    kick = spec.step_um * np.sqrt(0.5 / 3 * (1 - spec.persistence**2))
    common_velocity = kick / np.sqrt(1 - spec.persistence**2) * rng.standard_normal(3)
    own_velocity = kick / np.sqrt(1 - spec.persistence**2) * rng.standard_normal((spec.pairs, 3))
    breath = np.zeros(spec.pairs)
    frames = []
    for _ in range(spec.frames):
        apart = axis * (distance * np.exp(breath))[:, None] / 2
        frames.append(half + common + (middle + own)[:, None] + np.stack([-apart, apart], 1))
        # Pulled back, so that the cloud stays what and where it is.
        common_velocity = spec.persistence * common_velocity + kick * rng.standard_normal(3) - 0.05 * common
        own_velocity = spec.persistence * own_velocity + kick * rng.standard_normal(own.shape) - 0.05 * own
        common, own = common + common_velocity, own + own_velocity
        own += _push(middle + own, axis * (distance * np.exp(breath))[:, None] / 2, spec.least_um)
        axis = axis + spec.turn_rad * rng.standard_normal(axis.shape)
        axis /= np.linalg.norm(axis, axis=1, keepdims=True)
        spread = spec.pair_spread_um / spec.pair_um / 3
        breath = spec.persistence * breath + spread * np.sqrt(1 - spec.persistence**2) * rng.standard_normal(
            spec.pairs
        )
    return np.stack(frames)


def _push(middle: np.ndarray, apart: np.ndarray, least: float) -> np.ndarray:
    """(N, 3) ways that take pairs (N, 3) ± (N, 3) whose kinetochores are too near to each other's apart."""
    ends = np.concatenate([middle - apart, middle + apart])
    way = ends[:, None] - ends
    distance = np.linalg.norm(way, axis=-1) + 1e-9
    pair = np.arange(len(ends)) % len(middle)
    lack = np.where(pair[:, None] == pair, 0.0, np.maximum(least - distance, 0))
    pushed = (way * (lack / distance / 2)[..., None]).sum(1)
    return pushed.reshape(2, -1, 3).sum(0)


def _placed(spec: KinetochoreSpec, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middles (N, 3) about 0, axes (N, 3) and distances (N,) of the pairs, none too near to another."""
    kept: list[tuple[np.ndarray, np.ndarray, float]] = []
    ends = np.zeros((0, 3))
    for _ in range(200 * spec.pairs):
        if len(kept) == spec.pairs:
            break
        direction, axis = rng.standard_normal((2, 3))
        radius = rng.random() ** (1 / 3) / 2
        middle = direction / np.linalg.norm(direction) * radius * spec.cloud_um
        axis /= np.linalg.norm(axis)
        distance = max(rng.normal(spec.pair_um, spec.pair_spread_um), spec.least_um)
        both = middle + np.outer([-0.5, 0.5], axis * distance)
        if not len(ends) or np.linalg.norm(ends[:, None] - both, axis=-1).min() >= spec.least_um:
            kept.append((middle, axis, distance))
            ends = np.concatenate([ends, both])
    if len(kept) < spec.pairs:
        raise InputError(
            f"{spec.pairs} pairs do not fit into a cloud of {spec.cloud_um} µm, {spec.least_um} µm apart: make it larger"
        )
    middle, axis, distance = zip(*kept, strict=True)
    return np.stack(middle), np.stack(axis), np.array(distance)


def _expose(
    voxel: np.ndarray, brightness: np.ndarray, spec: KinetochoreSpec, rng: np.random.Generator, left: float
) -> np.ndarray:
    """(C, Z, Y, X) uint16 of one frame from the kinetochores' index (n, 3) and brightness (n,)."""
    sigma = np.divide(spec.psf_um, spec.spacing_um)
    spots = np.zeros(spec.shape, np.float32)
    for centre, light in zip(voxel, brightness, strict=True):
        low = np.maximum(np.ceil(centre - _REACH * sigma).astype(int), 0)
        high = np.minimum(np.floor(centre + _REACH * sigma).astype(int) + 1, spec.shape)
        if (high <= low).any():
            continue
        z, y, x = (
            np.exp(-0.5 * ((np.arange(a, b) - c) / s) ** 2)
            for a, b, c, s in zip(low, high, centre, sigma, strict=True)
        )
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        spots[window] += light * np.einsum("z,y,x->zyx", z, y, x).astype(np.float32)
    cloud = _cloud(voxel, spec)
    # Chromatin: what hangs together with the kinetochores, seen as their blurred surroundings.
    arms = ndimage.gaussian_filter(spots, 0.5 / np.asarray(spec.spacing_um), truncate=2.5)
    arms *= 1 / max(float(arms.max()), 1e-6)
    photons = [
        spec.background_photons * (1 + spec.diffuse * cloud) + spec.photons * spots,
        spec.background_photons * (1 + 3 * spec.diffuse * cloud) + spec.photons * (0.4 * spots + 0.5 * arms),
    ]
    noisy = rng.poisson(np.stack(photons) * left) + spec.read_noise * rng.standard_normal(
        (2, *spec.shape), np.float32
    )
    return np.clip(np.rint(100 + noisy), 0, np.iinfo(np.uint16).max).astype(np.uint16)


def _cloud(voxel: np.ndarray, spec: KinetochoreSpec) -> np.ndarray:
    """(Z, Y, X) float32, 1 in the middle of the kinetochores, falling off with the distance."""
    middle = voxel.mean(0) if len(voxel) else np.divide(spec.shape, 2)
    z, y, x = (
        np.exp(-0.5 * ((np.arange(n) - c) * step / (0.35 * width)) ** 2)
        for n, c, step, width in zip(spec.shape, middle, spec.spacing_um, spec.cloud_um, strict=True)
    )
    return np.einsum("z,y,x->zyx", z, y, x).astype(np.float32)


def _table(voxel: np.ndarray, there: np.ndarray) -> PointTable:
    """Labels of what lies in the field, from (T, N, 2, 3) index."""
    frame, pair, sister = np.nonzero(np.broadcast_to(there, voxel.shape[:3]))
    position = voxel[frame, pair, sister]
    return PointTable(frame, 2 * pair + sister + 1, position, np.ones_like(position))


def _annotated(truth: PointTable, spec: KinetochoreSpec, rng: np.random.Generator) -> PointTable:
    """The truth as an annotator leaves it."""
    count = len(truth.frame)
    fate = rng.random(count)
    moved = truth.position + spec.jitter_um * rng.standard_normal((count, 3)) / spec.spacing_um
    aside = rng.uniform(-1, 1, (count, 3)) / spec.spacing_um
    moved += np.where((fate >= spec.drop) & (fate < spec.drop + spec.shift), 1.0, 0.0)[:, None] * aside
    inside = ((moved >= 0) & (moved <= np.array(spec.shape) - 1)).all(1)
    kept = (fate >= spec.drop) & inside
    return PointTable(*(column[kept] for column in truth._replace(position=moved)))
