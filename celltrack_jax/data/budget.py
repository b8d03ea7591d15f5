"""A budget of annotation: what a store would be of which fewer frames were annotated. numpy only."""

from collections.abc import Sequence

import numpy as np

from celltrack_jax.data.store import StoredSequence

_SHUFFLE = 0x62756467
"""Of a constant seed, so that all runs with one share have the same frames, and larger shares those of smaller ones."""


def spend(
    sequences: Sequence[StoredSequence], frames: Sequence[Sequence[int]], share: float
) -> list[list[int]]:
    """Chooses a share of the frames of each category, rounded and at least one, after a shuffle.

    Args:
      sequences: of the store; those without a category count as one.
      frames: for each sequence, the indices t to choose from.
      share: in (0, 1].

    Returns:
      For each sequence, the chosen indices, ascending.
    """
    every: dict[str, list[tuple[int, int]]] = {}
    for s, (sequence, own) in enumerate(zip(sequences, frames, strict=True)):
        every.setdefault(sequence.category or "", []).extend((s, t) for t in own)
    chosen: set[tuple[int, int]] = set()
    for category, pairs in every.items():
        order = np.random.default_rng([_SHUFFLE, *category.encode()]).permutation(len(pairs))
        chosen |= {pairs[place] for place in order[: max(1, round(share * len(pairs)))].tolist()}
    return [[t for t in own if (s, t) in chosen] for s, own in enumerate(frames)]


def annotated_in(sequence: StoredSequence, frames: Sequence[int]) -> StoredSequence:
    """Returns a sequence as if these frames alone were annotated; its tracks are left out."""
    here = np.zeros(sequence.shape[0], bool)
    here[list(frames)] = True

    def kept(table: np.ndarray) -> np.ndarray:
        return table[here[table[:, 0].astype(np.int64)]]

    return sequence._replace(
        labelled={kind: flags & here for kind, flags in sequence.labelled.items()},
        planes={t: planes for t, planes in sequence.planes.items() if here[t]},
        annotation=[kind if here[t] else "none" for t, kind in enumerate(sequence.annotation)],
        annotation_silver=[kind if here[t] else "none" for t, kind in enumerate(sequence.annotation_silver)],
        foreground=kept(sequence.foreground),
        coverage=kept(sequence.coverage),
        points=kept(sequence.points),
        pointed=sequence.pointed & here,
        lineage=None,
    )
