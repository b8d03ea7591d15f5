"""What a trained linker thought, small enough for a page: candidate links over the movie, doubtful ones in the tree.

Shapes: M candidates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from celltrack_jax.io.link_scores import LinkScores

SURE = 0.9
"""Chosen links of less probability are marked in the lineage tree."""
MOST_CHOSEN = MOST_REJECTED = 30_000
"""Links in a page, at about 25 bytes each; the surest chosen ones and the least probable others are left out."""


class Doubt(NamedTuple):
    """A chosen link that the network was not sure of."""

    source_frame: int
    frame: int
    probability: float
    from_mother: bool
    """Whether it comes from another track."""


def frame_links(scores: LinkScores, frames: Sequence[int], scale: float, steps: int) -> list[list[list[int]]]:
    """Returns for each frame the candidates that lead to its cells, the least probable first.

    Args:
      scores: of the movie.
      frames: numbers of those to show.
      scale: pixels of the picture per pixel of the frame.
      steps: of coordinates per pixel.

    Returns:
      Per frame [x of the earlier cell, y, x of the later, y, percent, 1 if chosen else 0]; chosen ones come last.
    """
    doubt = np.where(scores.chosen, scores.probability, -scores.probability)
    shown = np.isin(scores.frame, np.asarray(frames, np.int64))
    kept = []
    for chosen, most in ((False, MOST_REJECTED), (True, MOST_CHOSEN)):
        some = np.flatnonzero(shown & (scores.chosen == chosen))
        kept.append(some[np.argsort(doubt[some], kind="stable")[:most]])
    order = np.concatenate(kept)
    order = order[np.lexsort((scores.probability[order], scores.chosen[order]))]
    places = np.concatenate([scores.source_position[order, :0:-1], scores.position[order, :0:-1]], 1)
    table = np.column_stack(
        [
            np.rint((places + 0.5) * scale * steps),
            np.rint(100 * scores.probability[order]),
            scores.chosen[order],
        ]
    ).astype(int)
    return [table[scores.frame[order] == frame].tolist() for frame in frames]


def doubts(scores: LinkScores) -> dict[int, list[Doubt]]:
    """Returns for each track the links inside it, and the one to its first cell, that are less than `SURE`."""
    found: dict[int, list[Doubt]] = {}
    for i in np.flatnonzero(scores.chosen & (scores.probability < SURE)).tolist():
        track, source = int(scores.track[i]), int(scores.source_track[i])
        one = Doubt(
            int(scores.source_frame[i]), int(scores.frame[i]), float(scores.probability[i]), track != source
        )
        found.setdefault(track, []).append(one)
    return found
