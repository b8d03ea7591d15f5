"""Run lengths of the Sartorius competition: a mask as text, pairs of start and length.

    1 3 10 5      pixels 1, 2, 3 and 10 to 14 of an image whose pixels are counted along the rows, from 1

Shapes: Y X space, N masks of an image, R runs.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.ops import runs
from celltrack_jax.ops.runs import Runs

_MOST_DIGITS = 15


class Painted(NamedTuple):
    """The masks of an image as one label image."""

    labels: np.ndarray
    """(Y, X) int32: k for the k-th mask, from 1; 0 background."""
    overwritten: int
    """Pixels that an earlier mask has too; they belong to the last one."""


def decode(text: str, shape: tuple[int, int], where: str = "run lengths") -> np.ndarray:
    """Reads one mask; arguments and errors as of `paint`.

    Returns:
      (Y, X) bool.
    """
    return paint([text], shape, [where]).labels > 0


def encode(mask: np.ndarray) -> str:
    """Writes a mask (Y, X); "" where it has no pixel."""
    return encode_labels(np.asarray(mask) != 0).get(1, "")


def paint(texts: Sequence[str], shape: tuple[int, int], where: Sequence[str]) -> Painted:
    """Paints masks into one label image, later ones over earlier ones.

    Args:
      texts: N masks. Runs ascend, and may touch.
      shape: Y, X.
      where: N names of the masks for messages: file, row and image.

    Raises:
      InputError: what is written is not pairs of whole numbers, or a run is empty, overruns the image or does not come
        behind the one before it.
    """
    pairs = [_pairs(text, shape, place) for text, place in zip(texts, where, strict=True)]
    label = np.repeat(np.arange(1, len(pairs) + 1), [len(one) for one in pairs])
    every = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    return Painted(*runs.draw(Runs(label, every[:, 0] - 1, every[:, 1]), shape))


def encode_window(window: np.ndarray, corner: Sequence[int], shape: tuple[int, int]) -> str:
    """Writes a mask of which a part is given, as quickly as that part is small.

    Args:
      window: (y, x), the pixels that may be set.
      corner: row and column of its first pixel.
      shape: Y, X.
    """
    padded = np.pad(np.asarray(window) != 0, ((0, 0), (0, 1)))
    found = runs.find(padded)
    row, column = np.divmod(found.start, padded.shape[1])
    start = (row + corner[0]) * shape[1] + column + corner[1] + 1
    return _text(start, found.length)


def encode_labels(labels: np.ndarray) -> dict[int, str]:
    """Writes all cells of a label image (Y, X), by label, ascending; they cannot overlap."""
    found = runs.find(labels)
    names, first = np.unique(found.label, return_index=True)
    ends = [*first.tolist(), len(found.start)]
    return {
        name: _text(found.start[begin:end] + 1, found.length[begin:end])
        for name, (begin, end) in zip(names.tolist(), pairwise(ends), strict=True)
    }


def _text(start: np.ndarray, length: np.ndarray) -> str:
    return " ".join(map(str, np.stack([start, length], 1).ravel().tolist()))


def _pairs(text: str, shape: tuple[int, int], where: str) -> np.ndarray:
    """Returns (R, 2) int64 of starts, from 1, and lengths."""
    words = text.split()
    if not words:
        raise InputError(f"{where}: the annotation is empty: leave the row out, or export it again")
    if not "".join(words).isdecimal() or not text.isascii() or max(map(len, words)) > _MOST_DIGITS:
        wrong = next(word for word in words if not _is_number(word))
        raise InputError(f"{where}: {wrong[:60]!r} is not a whole number: write pairs of start and length")
    if len(words) % 2:
        raise InputError(
            f"{where}: {len(words)} numbers are no pairs of start and length: one is missing; export the row again"
        )
    pairs = np.array(list(map(int, words)), np.int64).reshape(-1, 2)
    start, end = pairs[:, 0], pairs.sum(1) - 1
    pixels = shape[0] * shape[1]
    for wrong, what in (
        (pairs[:, 1] == 0, "has no pixel: leave it out"),
        (start == 0, "begins at 0, but pixels are counted from 1: add 1 to the starts"),
        (
            end > pixels,
            f"overruns the image, which has {pixels} pixels ({shape[0]} x {shape[1]}): correct the run, or the columns "
            "width and height",
        ),
        (
            np.append(False, start[1:] <= end[:-1]),
            "does not come behind the run before it: sort the runs, and merge those that overlap",
        ),
    ):
        if wrong.any():
            raise InputError(f"{where}: the run {' '.join(map(str, pairs[wrong.argmax()].tolist()))} {what}")
    return pairs


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) <= _MOST_DIGITS
