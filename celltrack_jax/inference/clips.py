"""A movie as a network takes it: frame by frame, or in blocks of frames for networks that see several at a time.

A block is read, cut into tiles and predicted as if it were one frame with time as its first axis; tiles reach over all of
it. Its frames are normalised one by one, as in training, and its context is predicted but not kept.

Shapes: C channels, *S a frame's spatial axes, T frames of a block with its context, *P a piece's axes: *S, or T and *S.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from celltrack_jax.data import normalise
from celltrack_jax.data.blocks import Block, blocks
from celltrack_jax.inference.movies import Movie
from celltrack_jax.inference.segment import Settings, load
from celltrack_jax.tasks import Clips


class Pieces(NamedTuple):
    """A movie in pieces that are predicted one after the other; a piece has the number of its first frame."""

    frames: dict[int, list[int]]
    """Piece -> the frames whose cells it gives, ascending."""
    read: Callable[[int], np.ndarray]
    """Piece -> (C, *P); InputError where it cannot; called in threads."""
    measure: Callable[[np.ndarray], np.ndarray]
    """(C, *P) -> (C, 3), as of `segment.segment_movie`."""
    split: Callable[[int, np.ndarray], Iterator[tuple[int, np.ndarray]]]
    """Piece and its prediction (*P, channels) -> each frame and its own prediction (*S, channels)."""
    changed_ns: Callable[[int], int]
    """Piece -> when the last of the images that it depends on was written."""


def single(movie: Movie) -> Pieces:
    """Makes each frame a piece."""
    return Pieces(
        frames={frame: [frame] for frame in movie.frames},
        read=movie.read,
        measure=normalise.percentiles,
        split=lambda frame, prediction: iter([(frame, prediction)]),
        changed_ns=movie.changed_ns,
    )


def in_blocks(movie: Movie, clips: Clips) -> Pieces:
    """Makes each block of a movie a piece; frames whose numbers do not follow each other are neighbours nevertheless.

    Args:
      movie: with frames (C, *S).
      clips: the blocks that the network wants.
    """
    cut = blocks(len(movie.frames), *clips)
    numbered: dict[int, Block] = {}
    frames: dict[int, list[int]] = {}
    for block in cut:
        kept = [movie.frames[index] for index in block.frames[block.kept]]
        numbered[kept[0]], frames[kept[0]] = block, kept

    def read(piece: int) -> np.ndarray:
        order = numbered[piece].frames
        images = {index: _normalised(movie, movie.frames[index]) for index in dict.fromkeys(order)}
        return np.stack([images[index] for index in order], 1)

    def split(piece: int, prediction: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        return zip(frames[piece], prediction[numbered[piece].kept], strict=True)

    return Pieces(
        frames=frames,
        read=read,
        measure=_unchanged,
        split=split,
        changed_ns=lambda piece: max(movie.changed_ns(movie.frames[i]) for i in set(numbered[piece].frames)),
    )


def over_time(settings: Settings, clips: Clips) -> Settings:
    """Lets the tiles of single frames reach over all frames of a block.

    The halo stays that of one frame. What states of earlier frames carry across it fades with each of them, so results
    depend on the tile a little.
    """
    return settings._replace(
        tile=(clips.block + clips.before + clips.after, *settings.tile),
        halo=(0, *settings.halo),
        stride=(1, *settings.stride),
    )


def _normalised(movie: Movie, frame: int) -> np.ndarray:
    loaded = load(movie.read, frame)
    return normalise.normalise(loaded.image, loaded.percentiles)


def _unchanged(image: np.ndarray) -> np.ndarray:
    """Percentiles (C, 3) by which normalising changes nothing."""
    return np.tile(np.array([0, 0.5, 1], np.float32), (len(image), 1))
