"""How a size model is fitted: to views of the images that are trained on, at random scales.

Shapes: Y, X an image, y, x a view of it, C channels, F features of a style.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from celltrack_jax.data import store
from celltrack_jax.data.annotation import KINDS
from celltrack_jax.errors import InputError
from celltrack_jax.io import threads
from celltrack_jax.ops import resize
from celltrack_jax.ops.diameters import SizeModel, fit
from celltrack_jax.tasks.one_diameter import shown_size

_AT_ONCE = 2
"""Views: while the network sees one, the next is read."""
_SIZES = 0x73697A65
"""Sets random numbers of the size model apart from others."""


@dataclass(frozen=True)
class Sizing:
    """How a size model is fitted."""

    samples: int
    """Views of training images, at random scales."""
    tile: tuple[int, int]
    """Y, X that a view has at most."""
    scales: tuple[float, float]
    """Least and largest scale, of the image as it is."""
    penalty: float
    """Of `diameters.fit`."""

    def __post_init__(self):
        low, high = self.scales
        if not (0 < low <= high and self.samples > 0 and min(self.tile) > 0 and self.penalty >= 0):
            raise InputError(
                f"config.size_model: samples {self.samples} and tile {self.tile} are at least 1, scales {self.scales} "
                f"positive and ascending, penalty {self.penalty} not negative"
            )


class View(NamedTuple):
    """Where a view is."""

    sequence: int
    """Its place among those that are trained on."""
    t: int
    scale: float
    place: tuple[float, float]
    """In what it leaves out of the image at that scale, in 0..1 along y and x."""


def views(
    sizing: Sizing,
    sequences: Sequence[store.StoredSequence],
    taught: Sequence[Sequence[int]],
    *,
    silver: bool,
    seed: int,
) -> list[View]:
    """Chooses `sizing.samples` views at random, as many of each image that has outlined cells.

    Args:
      sizing: settings.
      sequences: that are trained on.
      taught: their frames that are.
      silver: whether computed outlines count.
      seed: of the run.

    Returns:
      The views; none where no cell is outlined.
    """
    frames = [
        (s, t)
        for s, (sequence, own) in enumerate(zip(sequences, taught, strict=True))
        for t in own
        if _has_outlines(sequence, t, silver=silver)
    ]
    random = np.random.default_rng((seed, _SIZES))
    chosen = []
    while frames and len(chosen) < sizing.samples:
        for index in random.permutation(len(frames)):
            (s, t), (y, x) = frames[index], random.uniform(size=2).tolist()
            chosen.append(View(s, t, float(random.uniform(*sizing.scales)), (y, x)))
    return chosen[: sizing.samples]


def cut(image: np.ndarray, view: View, tile: tuple[int, int]) -> np.ndarray:
    """Returns a view of an image (C, Y, X), at its scale and at most as large as a tile: (C, y, x)."""
    shown = shown_size((image.shape[1], image.shape[2]), view.scale)
    inside = []
    for size, most, share in zip(shown, tile, view.place, strict=True):
        start = round(share * max(0, size - most))
        inside.append(slice(start, start + most))
    return resize.resize_on_host(image, shown)[:, *inside]


def fit_to(
    chosen: Sequence[View],
    seen: Callable[[View], tuple[np.ndarray, float]],
    stop: Callable[[], bool],
    *,
    penalty: float,
) -> SizeModel | None:
    """Fits a size model to views; None when `stop()` became true.

    Args:
      chosen: as of `views`.
      seen: style (F,) of a view, and diameter of its cells in pixels.
      stop: asked before each.
      penalty: of `diameters.fit`.
    """

    def until() -> Iterator[View]:
        for view in chosen:
            if stop():
                return
            yield view

    found = list(threads.mapped(seen, until(), _AT_ONCE))
    if len(found) < len(chosen):
        return None
    styles, diameters = zip(*found, strict=True)
    return fit(np.stack(styles), np.array(diameters), penalty=penalty)


def _has_outlines(sequence: store.StoredSequence, t: int, *, silver: bool) -> bool:
    """Tells whether a frame has an outlined cell, of which a diameter is known."""
    left_out = [KINDS.index("markers")] + ([] if silver else [KINDS.index("silver")])
    rows = sequence.foreground
    return bool(((rows[:, 0] == t) & ~np.isin(rows[:, 6], left_out)).any())
