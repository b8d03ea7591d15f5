"""Batches for metric learning: a few tracks, and of each a few of its cells."""

import numpy as np


class PerTrack:
    """Which samples make up a batch; a function of (seed, batch number) alone."""

    def __init__(self, track: np.ndarray, *, classes: int, per_class: int, far_share: float, seed: int):
        """Takes all samples.

        Args:
          track: (N,) integers, the track of each sample; those of a track are in the order of time.
          classes: tracks of a batch.
          per_class: samples of each.
          far_share: share of them that is drawn from the whole track; the others are consecutive.
          seed: of all chance.

        Raises:
          ValueError: fewer tracks than `classes` have two samples.
        """
        order = np.argsort(track, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(track[order])) + 1) if len(order) else []
        self._members = [own for own in members if len(own) > 1]
        if len(self._members) < classes:
            raise ValueError(f"{len(self._members)} tracks of two cells or more, for batches of {classes}")
        self._classes, self._per_class, self._seed = classes, per_class, seed
        self._far = min(round(far_share * per_class), per_class - 1)

    def batch(self, number: int) -> np.ndarray:
        """Returns the (classes * per_class,) samples of a batch, track by track, no track twice."""
        rng = np.random.default_rng((self._seed, number))
        chosen = rng.choice(len(self._members), self._classes, replace=False)
        return np.concatenate([self._of_track(self._members[i], rng) for i in chosen])

    def _of_track(self, own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Consecutive samples from anywhere in a track, and others of the rest; of a short track some repeat."""
        near = self._per_class - self._far
        if len(own) < self._per_class:
            every = np.arange(self._per_class) % len(own)
            return own[rng.permutation(len(own))[every]]
        start = rng.integers(len(own) - near + 1)
        rest = np.delete(own, slice(start, start + near))
        return np.concatenate([own[start : start + near], rng.choice(rest, self._far, replace=False)])
