"""Which channels of which frames a network sees.

Shapes: C channels of a movie.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from celltrack_jax.errors import InputError


class Input(NamedTuple):
    """One channel that a network sees."""

    channel: int
    """Of the movie."""
    frame: int
    """0 is the frame itself, -1 the one before. Where the movie has none there, the frame itself stands for it."""


def read_inputs(given: Sequence[Sequence[int]], channels: int) -> tuple[Input, ...]:
    """Reads a config's `data.inputs`.

    Args:
      given: (channel, frame) of each input; empty for all channels of the frame.
      channels: C.

    Raises:
      InputError: an input is no pair of integers, or its channel none of the movie.
    """
    for pair in given:
        if not isinstance(pair, Sequence) or [type(number) for number in pair] != [int, int]:
            raise InputError(
                f"data.inputs has {pair!r}: give pairs of a channel and a frame, ((0, -1), (0, 0))"
            )
    inputs = tuple(Input(*pair) for pair in given) or tuple(Input(c, 0) for c in range(channels))
    for one in inputs:
        if not 0 <= one.channel < channels:
            raise InputError(
                f"data.inputs has channel {one.channel}, but data.channels is {channels}: they count from 0"
            )
    return inputs


def present(frames: Sequence[int] | np.ndarray, t: int, offset: int) -> int:
    """Returns the index of the frame that lies `offset` behind frame t, or t where the movie has none.

    Args:
      frames: numbers of the movie's frames, ascending.
      t: index of a frame.
      offset: frames.
    """
    wanted = int(frames[t]) + offset
    place = int(np.searchsorted(frames, wanted))
    return place if place < len(frames) and int(frames[place]) == wanted else t
