"""Synthetic cultures in phase contrast: single images of cells of one type, with complete truth.

A cell is darker than the dish where it is thick, and light is gathered in a halo around it (I ~ blur of the thickness
minus the thickness); round cells on end are bright. Neurites, debris and the texture of the dish look like cells and
are none, so that no threshold tells cells apart.

Shapes: Y X the image, N cells, K angles.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage import measure

SHAPE = (520, 704)
"""Y, X of the images of Sartorius and LIVECell: numbers of cells are given for it."""
_ANGLES = 128
_FULLEST = 0.62
"""Share of an image that cells fill at most: where more would not fit, all are smaller."""
_CLOSEST = 0.86
"""Distance of two cells in sums of their radii: they touch, and some overlap a little."""
_TRIES = 24
_LEAST_SEEN = 0.5
"""Cells of which less than this share is seen, and not hidden or outside of the image, are left out."""


@dataclass(frozen=True)
class Look:
    """What cells of a type look like; lengths in pixels."""

    cells: tuple[float, float, int]
    """Mean, standard deviation and maximum of their number in an image of `SHAPE`."""
    area: tuple[float, float, float, float]
    """Mean, standard deviation, minimum and maximum of their area."""
    elongation: float
    """Standard deviation of the logarithm of length by width."""
    waves: float
    """Amplitude of the outline's waves, relative to the radius."""
    arms: tuple[float, float, float]
    """Mean number of arms, their length relative to the radius, and how narrow they are."""
    neurites: tuple[float, float]
    """Thin lines that are no cells: mean number per cell, and mean length."""
    clustered: float
    """Share of the cells that lie beside another one."""
    dark: float
    """How dark thick parts are, in grey values."""
    halo: float
    """How bright the halo is."""
    bright: tuple[float, float]
    """Share of cells with a bright middle, and how bright that is."""
    flat: float
    """Thickness is (1 - d^2)^flat of the distance d to the outline: flat cells have a low exponent."""
    grains: float
    """Standard deviation of the texture inside."""


class Culture(NamedTuple):
    """An image and its truth."""

    image: np.ndarray
    """(Y, X) uint8."""
    labels: np.ndarray
    """(Y, X) int32, 1..N; 0 background."""
    outlines: list[tuple[tuple[int, int], np.ndarray]]
    """(N,) corner and (y, x) bool, as a person would draw them: beside other cells they may overlap by some pixels."""


class _Body(NamedTuple):
    """Where a cell may be."""

    window: tuple[slice, slice]
    distance: np.ndarray  # (y, x) float32, 1 at the outline


def make_culture(look: Look, shape: tuple[int, int], seed: int) -> Culture:
    """Draws an image of cells; a (look, shape, seed) always gives the same bytes."""
    alive, light = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    areas = _areas(look, shape, alive)
    outline = _outlines(look, len(areas), alive)
    radius = np.sqrt(areas / np.pi)
    centre = _place(radius, look.clustered, shape, alive)
    bodies = [_body(*cell, shape) for cell in zip(centre, radius, outline, strict=True)]
    labels, kept = _own(bodies, shape)
    outlines = [_drawn(body, labels, k, alive) for k, body in enumerate(kept, 1)]
    return Culture(_expose(look, labels, kept, shape, light), labels, outlines)


def _areas(look: Look, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(N,) px, largest first, of as many cells as the image has."""
    mean, spread, most = look.cells
    share = shape[0] * shape[1] / (SHAPE[0] * SHAPE[1])
    count = max(2, round(min(_lognormal(mean, spread, 1, rng)[0], most) * share))
    mean, spread, least, largest = look.area
    areas = np.clip(_lognormal(mean, spread, count, rng), least, largest)
    areas *= min(1.0, _FULLEST * shape[0] * shape[1] / areas.sum())
    return np.sort(areas)[::-1]


def _lognormal(mean: float, spread: float, count: int, rng: np.random.Generator) -> np.ndarray:
    variance = np.log1p((spread / mean) ** 2)
    return rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance), count)


def _outlines(look: Look, count: int, rng: np.random.Generator) -> np.ndarray:
    """(N, K) distance of the outline from the centre by angle, for cells of the area of a disc of radius 1."""
    angle = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
    turned = angle - rng.uniform(0, 2 * np.pi, (count, 1))
    longer = np.exp(np.abs(rng.normal(0, look.elongation, (count, 1))) / 2)
    outline = 1 / np.sqrt((np.cos(turned) / longer) ** 2 + (np.sin(turned) * longer) ** 2)
    wave = np.arange(2, 6)[:, None]
    size = rng.normal(0, look.waves, (count, 4)) / np.sqrt(np.arange(1, 5))
    phase = rng.uniform(0, 2 * np.pi, (count, 4))
    outline *= 1 + np.einsum("nk,nka->na", size, np.cos(wave * angle + phase[:, :, None]))
    number, length, narrow = look.arms
    for n, arms in enumerate(rng.poisson(number, count)):
        at, long = rng.uniform(0, 2 * np.pi, (arms, 1)), rng.exponential(length, (arms, 1))
        outline[n] += (np.minimum(long, 3 * length) * np.exp(narrow * (np.cos(angle - at) - 1))).sum(0)
    outline = np.maximum(outline, 0.3)
    return outline / np.sqrt(np.mean(outline**2, 1, keepdims=True))


def _place(
    radius: np.ndarray, clustered: float, shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """(N, 2) centres, one after the other: the first of some tries that is far enough from all before it."""
    centre = np.zeros((len(radius), 2))
    for n, own in enumerate(radius):
        tries = rng.uniform(0, shape, (_TRIES, 2))
        if n:
            beside = rng.integers(n, size=_TRIES)
            turn, away = rng.uniform(0, 2 * np.pi, _TRIES), rng.uniform(_CLOSEST, 1.25, _TRIES)
            reach = away * (radius[beside] + own)
            near = centre[beside] + reach[:, None] * np.stack([np.sin(turn), np.cos(turn)], 1)
            tries = np.where(rng.random() < clustered, near, tries)
        gap = np.full(_TRIES, 9.0)
        if n:
            apart = np.linalg.norm(tries[:, None] - centre[:n], axis=-1) / (radius[:n] + own)
            gap = np.minimum(gap, apart.min(1))
        gap[((tries < 0) | (tries > shape)).any(1)] = -1
        enough = gap >= _CLOSEST
        centre[n] = tries[enough.argmax() if enough.any() else gap.argmax()]
    return np.clip(centre, 0, shape)


def _body(centre: np.ndarray, radius: float, outline: np.ndarray, shape: tuple[int, int]) -> _Body:
    reach = radius * outline.max() + 1
    low = np.maximum(np.floor(centre - reach).astype(int), 0)
    high = np.minimum(np.ceil(centre + reach).astype(int) + 1, shape)
    window = (slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1])))
    y, x = (
        np.arange(part.start, part.stop, dtype=np.float32) - at
        for part, at in zip(window, centre, strict=True)
    )
    angle = np.arctan2(y[:, None], x) * np.float32(_ANGLES / (2 * np.pi))
    before = np.floor(angle).astype(int)
    part, limit = angle - before, (radius * outline).astype(np.float32)
    limit = (1 - part) * limit[before % _ANGLES] + part * limit[(before + 1) % _ANGLES]
    return _Body(window, np.hypot(y[:, None], x) / limit)


def _own(bodies: list[_Body], shape: tuple[int, int]) -> tuple[np.ndarray, list[_Body]]:
    """Gives each pixel to the cell whose outline it lies deepest in: (Y, X) labels, and the cells that are left."""
    nearest, owner = np.ones(shape, np.float32), np.zeros(shape, np.int32)
    for n, body in enumerate(bodies, 1):
        inside = body.distance < nearest[body.window]
        nearest[body.window][inside] = body.distance[inside]
        owner[body.window][inside] = n
    labels, kept = np.zeros(shape, np.int32), []
    for n, body in enumerate(bodies, 1):
        whole = body.distance < 1
        own = _largest(owner[body.window] == n)
        if own.sum() >= max(4, _LEAST_SEEN * whole.sum()):
            kept.append(body)
            labels[body.window][own] = len(kept)
    return labels, kept


def _largest(mask: np.ndarray) -> np.ndarray:
    parts = np.asarray(measure.label(mask, connectivity=1))
    return mask if parts.max() < 2 else parts == 1 + np.bincount(parts.ravel())[1:].argmax()


def _drawn(
    body: _Body, labels: np.ndarray, label: int, rng: np.random.Generator
) -> tuple[tuple[int, int], np.ndarray]:
    """Returns what a person draws: the cell, and for some of them the part that lies below or above a neighbour."""
    here = labels[body.window]
    mask = here == label
    if rng.random() < 0.35:
        mask = mask | _largest((body.distance < 1) & (here > 0) | mask)
    return (body.window[0].start, body.window[1].start), mask


def _expose(
    look: Look, labels: np.ndarray, bodies: list[_Body], shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """(Y, X) uint8."""
    thick, bright, grain = (np.zeros(shape, np.float32) for _ in range(3))
    share, strength = look.bright
    for label, body in enumerate(bodies, 1):
        own = labels[body.window] == label
        depth = np.maximum(1 - body.distance[own] ** 2, 0)
        thick[body.window][own] = rng.lognormal(0, 0.25) * depth**look.flat
        # Some cells shine as a whole, others in a spot of their middle.
        lit = (rng.random() < share) * strength * rng.uniform(0.5, 1.3)
        bright[body.window][own] = lit * depth ** rng.uniform(1, 3)
        grain[body.window][own] = rng.uniform(0.5, 1.5)
    sharp, near, wide = (_blur(thick, width) for width in (0.8, 2.2, 6.0))
    grey = -look.dark * sharp + look.halo * np.maximum(near + wide - 1.2 * sharp, 0)
    grey += _blur(bright, 0.8) + look.grains * grain * _noise(shape, 1.1, rng)
    grey += _lines(look, bodies, shape, rng) + _debris(shape, rng)
    grey += 3.0 * _noise(shape, 1.6, rng) + 2.5 * _noise(shape, 5.0, rng) + 6.0 * _noise(shape, 60.0, rng)
    level = rng.uniform(85, 115)
    grey = (level + rng.uniform(0.8, 1.2) * grey) * _lamp(shape, rng)
    return np.clip(np.rint(grey + 1.6 * rng.standard_normal(shape, np.float32)), 0, 255).astype(np.uint8)


def _lines(look: Look, bodies: list[_Body], shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(Y, X) neurites: bright lines with dark sides, that bend, begin at cells and end anywhere."""
    number, length = look.neurites
    field = np.zeros(shape, np.float32)
    for body in bodies:
        middle = [(part.start + part.stop) / 2 for part in body.window]
        for _ in range(rng.poisson(number)):
            steps = max(4, int(rng.exponential(length) * 2))
            turn = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.06, steps))
            path = np.asarray(middle) + np.cumsum(np.stack([np.sin(turn), np.cos(turn)], 1) / 2, 0)
            y, x = np.rint(path).astype(int).T
            there = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            field[y[there], x[there]] = rng.uniform(0.4, 1.2)
    return 60 * (_blur(field, 0.9) - 1.3 * _blur(field, 2.2)) if number else field


def _debris(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(Y, X) specks: some shine, some are dark within a ring of light."""
    field = np.zeros(shape, np.float32)
    count = rng.poisson(110e-6 * shape[0] * shape[1])
    y, x = (rng.integers(size, size=count) for size in shape)
    field[y, x] = rng.lognormal(0, 0.6, count) * rng.choice([-1, 1], count)
    width = rng.uniform(1.2, 1.8)
    return 260 * (_blur(field, width) - 0.7 * _blur(field, 2.5 * width)) * width**2 / 2


def _lamp(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(Y, X) light of the lamp, 1 on average."""
    slope = rng.normal(0, 0.05, 2)
    y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    return 1 + (slope[0] * y[:, None] + slope[1] * x - 0.05 * (y[:, None] ** 2 + x**2 - 2 / 3)).astype(
        np.float32
    )


def _blur(field: np.ndarray, width: float) -> np.ndarray:
    return ndimage.gaussian_filter(field, width, mode="nearest", truncate=3)


def _noise(shape: tuple[int, int], width: float, rng: np.random.Generator) -> np.ndarray:
    """(Y, X) smooth noise of variance 1; wide noise is made on a coarse grid."""
    coarse = max(1, int(width / 2))
    small = [-(-size // coarse) + 1 for size in shape]
    field = ndimage.gaussian_filter(rng.standard_normal(small, np.float32), width / coarse, mode="wrap")
    field /= field.std() + 1e-6
    if coarse > 1:
        field = ndimage.zoom(field, coarse, order=1)
    return field[: shape[0], : shape[1]].astype(np.float32)
