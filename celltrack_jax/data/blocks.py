"""A movie as blocks of frames for networks that see several at a time; a block depends on its frames alone.

So results do not depend on where a run was stopped, nor on how many processes share the movie. At the movie's ends what
lies before and behind is played backwards. Shapes: N frames of the movie, T of a block with its context.
"""

from typing import NamedTuple


class Block(NamedTuple):
    """Some frames and their context."""

    frames: tuple[int, ...]
    """(T,) indices to read, in the order in which the network sees them; some may repeat."""
    kept: slice
    """Of these, those that the block is there for."""


def blocks(count: int, length: int, before: int, after: int) -> list[Block]:
    """Cuts a movie into blocks that all have the same T = length + before + after.

    Args:
      count: N.
      length: frames of a block; of a shorter movie the rest is context.
      before: frames of context before them.
      after: and behind them.
    """
    cut = []
    for start in range(0, count, length):
        # The last block ends with the movie: all have one size.
        first = max(0, min(start, count - length))
        kept = slice(before + start - first, before + min(start + length, count) - first)
        frames = tuple(_mirrored(t, count) for t in range(first - before, first + length + after))
        cut.append(Block(frames, kept))
    return cut


def _mirrored(index: int, count: int) -> int:
    """Folds an index into 0..count - 1; the frames at the ends are not repeated."""
    if count == 1:
        return 0
    folded = index % (2 * count - 2)
    return min(folded, 2 * count - 2 - folded)
