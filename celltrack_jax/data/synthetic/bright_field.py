"""Synthetic muscle stem cells in bright field: few, fast, of changing shape, on 8-bit frames like BF-C2DL-MuSC.

Out of focus, a transparent cell is seen by the curvature of its thickness: intensity changes by -z times the Laplacian
of the phase (transport of intensity, Teague 1983), a dark ring within a bright one or the reverse; near focus it is a
lens with a bright middle. Specks that are no cells, texture of the dish, light that drifts and noise are added.

Shapes: T frames, Y X the frame, N cells.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from celltrack_jax.data.synthetic import Movie, SyntheticSpec, truth, write_ctc
from celltrack_jax.data.synthetic.microscope import draw
from celltrack_jax.data.synthetic.nuclei import Nuclei, ball_volume, life

SPACING_UM = (0.645, 0.645)
CELLS, MOST_CELLS = 11, 20
"""Cells in the first frame, and about how many there are before divisions cease."""
OUTLINED_EVERY = 10
"""Every so many frames are outlined by hand."""

_LEVEL, _NOISE = 118.0, 2.4
"""Grey value of the empty dish; standard deviation of the camera's noise."""
_RING, _MIDDLE = 1.3, 0.13
"""Contrasts: per pixel^-2 of the Laplacian, and of the lens."""
_EDGE_PX = 1.2
"""Standard deviation of the optics' blur."""
_DISH = ((2.5, 0.016), (18.0, 0.016))
"""Texture of the dish: standard deviation of the blur in pixels, and its contrast."""
_LIGHT, _LIGHT_FRAMES = 0.07, 240.0
"""Amplitude of the uneven light, and frames after which it is as before."""
_FOCUS_FRAMES = 110.0
"""Frames after which a cell is in focus again."""
_SPECKS_PER_MEGAPIXEL = 160
_GROWTHS = {-2: 0.05, -1: 0.4, 1: 0.45, 2: 0.1}
"""Pixels by which silver outlines of cells are grown, and how often."""
_SMALL_PX, _MISSED = 220, 0.15
"""Silver outlines miss this share of the cells with fewer pixels."""


def write_bright_field(root: Path, *, sequences: int, frames: int, shape: tuple[int, int], seed: int) -> None:
    """Writes a CTC data set: markers in each frame, gold outlines in few, silver ones in all.

    Args:
      root: folder; made when absent.
      sequences: 01, 02, ...
      frames: of each sequence.
      shape: Y, X of a frame in pixels of 0.645 um.
      seed: of all randomness; a sequence is the same for any number of sequences.
    """
    states = np.random.SeedSequence(seed).generate_state(sequences)
    for number, state in enumerate(states.tolist(), 1):
        movie = make_bright_field(frames, shape, state)
        outlined = range(0, frames, OUTLINED_EVERY)
        silver = silver_outlines(movie.labels, state)
        write_ctc(root, f"{number:02d}", movie, outlined=outlined, silver=silver)


def make_bright_field(frames: int, shape: tuple[int, int], seed: int) -> Movie:
    """Simulates a movie of uint8 images."""
    spec = _lives(frames, shape)
    alive, light = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    dish, lamp, specks = _dish(shape, light), light.uniform(0, 2 * np.pi, (2, 3)), _specks(shape, light)
    images, drawn, cells = [], [], []
    for frame, nuclei in enumerate(life(spec, alive)):
        indices, thickness = draw(nuclei, spec)
        signal = dish + _uneven(shape, frame, lamp) + _refracted(thickness, indices, _focus(nuclei, frame))
        _add_specks(signal, specks, frame)
        grey = _LEVEL * (1 + signal) + _NOISE * light.standard_normal(shape, np.float32)
        images.append(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
        drawn.append(indices.astype(np.uint16))
        cells.append(nuclei)
    labels, lineage = truth(drawn, cells)
    return Movie(np.stack(images), labels, lineage, SPACING_UM)


def silver_outlines(labels: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yields outlines (Y, X) as a program might have made them: a little too wide or narrow, small cells missed.

    Args:
      labels: (T, Y, X) the truth.
      seed: of what is wrong.
    """
    for frame, mask in enumerate(labels):
        yield _silver(mask, np.random.default_rng([seed, frame]))


def _lives(frames: int, shape: tuple[int, int]) -> SyntheticSpec:
    """Returns how the cells live; in a larger field there are as many, not more."""
    spec = SyntheticSpec(
        frames=frames,
        shape=shape,
        spacing_um=SPACING_UM,
        psf_um=SPACING_UM,
        cells=CELLS,
        radius_um=7.0,
        cell_cycle_frames=70.0,
        mitosis_frames=3,
        speed_um=2.4,
        persistence=0.8,
        max_step_um=12.0,
        separation=0.85,
        elongation=0.45,
        roughness=0.1,
        turn_rad=0.2,
        brightness_spread=0.1,
        texture=0.15,
    )
    filled = MOST_CELLS * ball_volume(2) * spec.radius_um**2 / float(np.prod(spec.field_um))
    return replace(spec, confluence=filled)


def _dish(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(Y, X) float32: texture of the empty dish relative to its mean."""
    dish = np.zeros(shape, np.float32)
    for width, contrast in _DISH:
        field = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), width, mode="wrap")
        dish += contrast * field / field.std()
    return dish


def _uneven(shape: tuple[int, int], frame: int, phase: np.ndarray) -> np.ndarray:
    """(Y, X) float32: three standing waves along each axis, each at a pace of its own; phase (2, 3)."""
    waves = np.zeros(shape, np.float32)
    beat = np.cos(2 * np.pi * frame * np.arange(1, 4) / _LIGHT_FRAMES + phase)
    for axis, size in enumerate(shape):
        at = np.pi * (np.arange(size) + 0.5) / size
        along = beat[axis] @ np.cos(np.arange(1, 4)[:, None] * at) / 3
        waves += np.expand_dims(along, 1 - axis).astype(np.float32)
    return _LIGHT * waves


def _focus(nuclei: Nuclei, frame: int) -> np.ndarray:
    """(N,) angle: at 0 a cell is a dark ring, at a quarter turn a bright middle, at half a turn a bright ring."""
    own = nuclei.wave_phase[:, 0]
    return 0.7 + 1.4 * np.cos(2 * np.pi * frame / _FOCUS_FRAMES + own)


def _refracted(thickness: np.ndarray, indices: np.ndarray, focus: np.ndarray) -> np.ndarray:
    """(Y, X) float32: change of the light by cells of this thickness (Y, X), indices (Y, X) and focus (N,)."""
    curved, lens = (np.append(0, f(focus)).astype(np.float32)[indices] * thickness for f in (np.cos, np.sin))
    curved, lens = (ndimage.gaussian_filter(part, _EDGE_PX) for part in (curved, lens))
    return _RING * ndimage.laplace(curved) + _MIDDLE * lens


class _Specks(NamedTuple):
    """Dirt: half of it lies, half of it floats."""

    position: np.ndarray  # (n, 2) px in frame 0
    velocity: np.ndarray  # (n, 2) px per frame
    width: np.ndarray  # (n,) px
    contrast: np.ndarray  # (n,)


def _specks(shape: tuple[int, int], rng: np.random.Generator) -> _Specks:
    n = round(_SPECKS_PER_MEGAPIXEL * shape[0] * shape[1] / 1e6)
    return _Specks(
        rng.uniform(0, shape, (n, 2)),
        rng.normal(0, 0.8, (n, 2)) * (np.arange(n) % 2)[:, None],
        rng.uniform(0.8, 3.0, n),
        rng.uniform(0.1, 0.3, n) * rng.choice([-1, 1], n),
    )


def _add_specks(signal: np.ndarray, specks: _Specks, frame: int) -> None:
    """Adds to (Y, X) spots with a rim of the other sign."""
    place = (specks.position + frame * specks.velocity) % signal.shape
    for centre, width, contrast in zip(place, specks.width, specks.contrast, strict=True):
        reach = int(np.ceil(4 * width))
        corner = np.maximum(np.floor(centre).astype(int) - reach, 0)
        window = tuple(slice(a, a + 2 * reach + 1) for a in corner)
        y, x = (np.arange(signal[window].shape[k]) + corner[k] - centre[k] for k in (0, 1))
        squared = (y[:, None] ** 2 + x**2) / width**2
        signal[window] += (contrast * (1 - squared / 2) * np.exp(-squared / 2)).astype(np.float32)


def _silver(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    made = np.zeros_like(mask)
    for label, box in enumerate(ndimage.find_objects(mask.astype(np.int32)), 1):
        if box is None:
            continue
        window = tuple(slice(max(0, part.start - 3), part.stop + 3) for part in box)
        own = mask[window] == label
        growth, lucky = rng.choice(list(_GROWTHS), p=list(_GROWTHS.values())), rng.random() >= _MISSED
        if own.sum() < _SMALL_PX and not lucky:
            continue
        outside, inside = (
            ndimage.distance_transform_edt(where) for where in (~own, np.pad(own, 1, mode="edge"))
        )
        grown = np.asarray(outside) <= growth if growth > 0 else np.asarray(inside)[1:-1, 1:-1] > -growth
        # Where two outlines would overlap, each keeps to what is its own.
        made[window][grown & np.isin(mask[window], (0, label))] = label
    return made
