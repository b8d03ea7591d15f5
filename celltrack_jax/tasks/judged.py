"""Images that are judged one by one: their truth, what a network found in them, and what its output may be read by.

Shapes: Y, X the part of an image that is judged, K cells found in it.
"""

from typing import NamedTuple, TypeAlias

import numpy as np

from celltrack_jax.data.store import StoredSequence

Reading: TypeAlias = dict[str, float]
"""Settings by which a network's output becomes cells, by their dotted keys in the config."""


class JudgedImage(NamedTuple):
    """A held-out 2D image whose cells are all outlined."""

    sequence: StoredSequence
    t: int
    """Index into its frames."""
    window: tuple[slice, ...]
    """z, y, x."""

    @property
    def name(self) -> str:
        """Its sequence, and its own name, or the number of its frame."""
        own = self.sequence.frame_names[self.t] if self.sequence.frame_names else self.number
        return f"{self.sequence.name}/{own}"

    @property
    def number(self) -> int:
        """Of its frame."""
        return int(self.sequence.frames[self.t])

    @property
    def category(self) -> str | None:
        """Of its cells."""
        return self.sequence.category

    def truth(self) -> np.ndarray:
        """(Y, X) int64 labels."""
        labels = self.sequence.labels["segmentation"][(self.t, 0, *self.window)]
        return np.asarray(labels.read().result(), np.int64)[0]

    def picture(self) -> np.ndarray:
        """(Y, X) of the first channel, as it was stored."""
        return np.asarray(self.sequence.image[(self.t, 0, *self.window)].read().result())[0]


class ImageResult(NamedTuple):
    """What was found in an image."""

    image: JudgedImage
    labels: np.ndarray
    """(Y, X) int32, 1..K."""
    confidence: np.ndarray
    """(K,) float32, how sure each cell is."""
    lost: int = 0
    """Cells for which there was no room."""


class Axis(NamedTuple):
    """A setting by which a network's output is read, and values to try."""

    key: str
    """In the config, dotted."""
    values: tuple[float, ...]
    """Ascending; the present one is among them."""
    present: float
    """The config's own."""
    category: str | None
    """Of the images whose cells it reads; None for all images."""


def axis(key: str, tried: tuple[float, ...], present: float, category: str | None = None) -> Axis:
    """Returns an axis of values of the present one's type, which is added."""
    values = {type(present)(value) for value in tried} | {present}
    return Axis(key, tuple(sorted(values)), present, category)
