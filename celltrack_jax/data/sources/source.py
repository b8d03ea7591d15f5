"""Sequences of annotated frames, whatever the format that they were read from. numpy only.

Shapes: C channels, Z Y X space.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from celltrack_jax.data import normalise
from celltrack_jax.data.annotation import Points
from celltrack_jax.errors import InputError
from celltrack_jax.io.ctc_rules import Problem
from celltrack_jax.lineage import Lineage

COMPLETE = "copy what is missing, or prepare what there is by --allow_gaps: tracks are not linked over gaps"


class Frame(NamedTuple):
    """One frame as annotated."""

    image: np.ndarray
    """(C, Z, Y, X) in its own dtype; zeros where the sequence has no images."""
    masks: dict[str, np.ndarray]
    """By kind (`annotation.KINDS`), (Z, Y, X) non-negative integers; kinds that the frame lacks are absent."""
    planes: tuple[int, ...] | None
    """z of the planes that are segmented, None for all."""
    points: Points | None = None
    """All cells as the data set gives them, None where it gives none."""
    percentiles: np.ndarray | None = None
    """(C, 3) as of `normalise.percentiles`, of the whole frame where the image is a part of it; None: of the image."""
    odd: Mapping[str, int] = MappingProxyType({})
    """What is odd about its masks, as the end of a sentence, to how often it occurs."""


class Source(NamedTuple):
    """One sequence of a data set."""

    name: str
    files: Mapping[int, tuple[Path, ...]]
    """Files of each frame by its number, in order; the first is the image, if there are images."""
    tracks_file: Path | None
    lineage: Lineage | None
    kinds: tuple[str, ...]
    """Kinds of masks that any frame has."""
    complete: bool
    """Whether segmentations leave out no cell, by the data set's promise."""
    read: Callable[[int], Frame]
    """Reads the frame of this number."""
    has_images: bool = True
    """Annotation alone teaches to link."""
    notes: tuple[str, ...] = ()
    """What the user should know, and can do nothing about here."""
    tables: tuple[Path, ...] = ()
    """More files that the frames' masks are from."""
    category: str | None = None
    """Of all its cells, where the data set tells their types."""
    frame_names: tuple[str, ...] | None = None
    """Of the frames, in order, where they are images with names of their own."""


def cropped(source: Source, window: Sequence[tuple[int, int]]) -> Source:
    """Cuts every frame of a sequence.

    Args:
      source: of the sequence.
      window: first voxel and the one behind the last along z, y, x.

    Returns:
      The sequence, whose `read` raises InputError where the window does not lie in the frame. Its tracks are those of
      the whole frames, and so is its scale of grey values: what is predicted later is whole.
    """
    inside = tuple(slice(first, end) for first, end in window)
    low = np.array([first for first, _ in window])
    size = np.array([end - first for first, end in window])

    def read(number: int) -> Frame:
        frame = source.read(number)
        if any(end > limit for (_, end), limit in zip(window, frame.image.shape[1:], strict=True)):
            raise InputError(
                f"{source.files[number][0]} (frame {number}) has shape {frame.image.shape[1:]} (z, y, x), and the crop "
                f"ends at {tuple(end for _, end in window)}: give a --crop that lies in it"
            )
        points, planes = frame.points, frame.planes
        if points is not None:
            position = points.position - low
            there = ((position >= -0.5) & (position < size - 0.5)).all(1)
            points = Points(points.label[there], position[there], points.size[there])
        if planes is not None:
            planes = tuple(z - window[0][0] for z in planes if window[0][0] <= z < window[0][1])
        masks = {kind: mask[inside] for kind, mask in frame.masks.items()}
        try:
            percentiles = normalise.percentiles(frame.image)
        except ValueError as error:
            where = f"{source.files[number][0]} (frame {number})"
            raise InputError(f"{where}: {error}, beside the crop or in it: replace them") from error
        image = frame.image[(slice(None), *inside)]
        return Frame(image, masks, planes, points, percentiles, frame.odd)

    return source._replace(read=read)


def unbranched(label: np.ndarray, frame: np.ndarray) -> Lineage:
    """Returns a track per label, from its first to its last frame; nothing is known of divisions."""
    names, place = np.unique(label, return_inverse=True)
    begin, end = np.full(len(names), np.iinfo(np.int64).max), np.full(len(names), -1)
    np.minimum.at(begin, place, frame)
    np.maximum.at(end, place, frame)
    return Lineage(names, begin, end, np.zeros_like(names))


def refuse(problems: Sequence[Problem], cure: str) -> None:
    """Raises the first of the problems, if there is one."""
    if problems:
        others = len({str(problem) for problem in problems}) - 1
        more = f" (and {others} more)" if others else ""
        raise InputError(f"{problems[0]}{more}; {cure}")
