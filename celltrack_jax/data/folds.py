"""Folds of a store for cross validation, with as many images of each category in each. numpy only."""

from collections.abc import Sequence

import numpy as np

from celltrack_jax.data.store import StoredSequence
from celltrack_jax.errors import InputError

_SHUFFLE = 0x666F6C64
"""Of a constant seed, so that folds are a property of the store: every run that names one means the same."""


def deal(sequences: Sequence[StoredSequence], count: int, fold: int) -> dict[str, list[int]]:
    """Deals the annotated frames, of each category after a shuffle, to folds in turn.

    Where one category's deal ends the next one's begins, so that sizes of folds differ by one at most in each category
    and over all. Frames without any annotation belong to no fold.

    Args:
      sequences: of the store; those without a category count as one.
      count: of folds.
      fold: the one to return, from 0.

    Returns:
      By name of the sequence, the indices t of its frames in this fold, ascending.

    Raises:
      InputError: there is no such fold, or it would have no frame.
    """
    if count < 2 or not 0 <= fold < count:
        raise InputError(
            f"evaluation.fold is {fold} of {count}: set evaluation.folds to 2 or more, and fold to 0 or more below it"
        )
    frames: dict[str, list[tuple[str, int]]] = {}
    for sequence in sequences:
        known = [t for t, kind in enumerate(sequence.annotation) if kind != "none" or _silver(sequence, t)]
        frames.setdefault(sequence.category or "", []).extend((sequence.name, t) for t in known)
    dealt: list[tuple[str, int]] = []
    for category, own in sorted(frames.items()):
        order = np.random.default_rng([_SHUFFLE, *category.encode()]).permutation(len(own))
        dealt += [own[place] for place in order.tolist()]
    if len(dealt) < count:
        raise InputError(f"{len(dealt)} annotated frames make no {count} folds: set evaluation.folds lower")
    chosen = dealt[fold::count]
    return {sequence.name: sorted(t for name, t in chosen if name == sequence.name) for sequence in sequences}


def _silver(sequence: StoredSequence, t: int) -> bool:
    return sequence.annotation_silver[t] != "none"
