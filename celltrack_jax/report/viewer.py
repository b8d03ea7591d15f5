"""The data of the frame viewer: pictures and outlines small enough to travel inside a page.

Shapes: Y X of a frame, Z of a volume.
"""

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from celltrack_jax.io.link_scores import LinkScores
from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.overlap import matches, overlap
from celltrack_jax.report.link_layer import frame_links
from celltrack_jax.report.overlay import grey, outlines, picture_scale, picture_size, shadows
from celltrack_jax.report.palette import TRACK_COLOURS, colour_index

MOST_FRAMES, FEWEST_FRAMES = 60, 12
"""Longer movies show some of their frames at even distances."""
MOST_OUTLINES = 30_000
"""Crowded movies show fewer frames, so that a page stays at a few MB: an outline takes about 110 bytes."""
LONGEST_SIDE = 512
"""Pixels of a picture."""
JPEG_QUALITY = 82
"""A noisy 512 x 512 frame takes 60 kB so, and 200 kB as PNG."""
STEPS_PER_SIDE = 2048
"""Outlines are stored in whole steps, of which the longest side of a picture has this many at least."""
TOLERANCE = 0.2
"""Pixels that a stored outline may leave the cell's smoothed one."""

Read = Callable[[int], np.ndarray | None]
"""Frame number -> (Y, X) or (Z, Y, X), None where the frame has none."""


class Annotation(NamedTuple):
    """Masks and tracks of a movie, of a result or of the truth."""

    masks: Read
    """Integers whose values are the labels of `lineage`."""
    lineage: Lineage


def shown_frames(frames: Sequence[int], cells: int) -> list[int]:
    """Chooses frames at even distances, the first and the last among them.

    Args:
      frames: of the movie.
      cells: number of outlines that all of them together would need.
    """
    affordable = MOST_OUTLINES * len(frames) // max(cells, 1)
    count = min(len(frames), MOST_FRAMES, max(affordable, FEWEST_FRAMES))
    return [frames[i] for i in np.rint(np.linspace(0, len(frames) - 1, count)).astype(int)]


def viewer_data(
    frames: Sequence[int],
    image: Read,
    result: Annotation,
    truth: Annotation | None,
    links: LinkScores | None = None,
) -> dict[str, Any]:
    """Makes what the viewer's script reads, ready for JSON.

    Args:
      frames: frame numbers to show.
      image: the movie.
      result: whose outlines are drawn in the colours of its tracks.
      truth: whose outlines are drawn in white.
      links: candidates that are drawn from each cell to where it came from.

    Returns:
      size [width, height]; frames; pictures, data URLs; result and truth, per frame a list of
      [label, x, y, rings], rings as differences of x and y in 1/steps pixels; missed, labels of the truth, and
      extra, labels of the result, per frame; links as of `link_layer.frame_links`; tracks, label -> [colour,
      parent]; colours; steps.
    """
    pictures, cells, true_cells, missed, extra = [], [], [], [], []
    size, scale, steps = (1, 1), 1.0, 1
    for frame in frames:
        pixels = image(frame)
        if pixels is None:
            raise ValueError(f"frame {frame} is to be shown and has no image")
        size = picture_size(pixels.shape, LONGEST_SIDE)
        scale = picture_scale(pixels.shape, LONGEST_SIDE)
        steps = -(-STEPS_PER_SIDE // max(size))
        pictures.append(data_url(grey(pixels, LONGEST_SIDE), "jpeg"))
        labels, true_labels = result.masks(frame), truth.masks(frame) if truth else None
        cells.append(_cells(labels, scale, steps))
        true_cells.append(_cells(true_labels, scale, steps))
        for errors, found in zip((missed, extra), _errors(labels, true_labels, frame), strict=True):
            errors.append(found)
    colour = colour_index(result.lineage).tolist()
    return {
        "size": [size[1], size[0]],
        "steps": steps,
        "frames": list(map(int, frames)),
        "pictures": pictures,
        "result": cells,
        "truth": true_cells if truth else None,
        "missed": missed,
        "extra": extra,
        "links": frame_links(links, frames, scale, steps) if links else None,
        "tracks": {
            str(label): [colour[i], int(result.lineage.parent[i])]
            for i, label in enumerate(result.lineage.label.tolist())
        },
        "colours": list(TRACK_COLOURS),
    }


def data_url(picture: np.ndarray, kind: str) -> str:
    """A picture (Y, X) or (Y, X, 3) uint8 as a data URL; kind is "png" or "jpeg"."""
    stream = io.BytesIO()
    options = {"quality": JPEG_QUALITY, "optimize": True} if kind == "jpeg" else {"optimize": True}
    Image.fromarray(picture).save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _errors(
    labels: np.ndarray | None, true_labels: np.ndarray | None, frame: int
) -> tuple[list[int], list[int]]:
    """True cells that no cell covers by more than half, and cells that cover no true one so."""
    if labels is None or true_labels is None:
        return [], []
    pairs = overlap(true_labels, labels, frame)
    match = matches(pairs)
    return pairs.ref_label[match < 0].tolist(), np.delete(pairs.comp_label, match[match >= 0]).tolist()


def _cells(labels: np.ndarray | None, scale: float, steps: int) -> list[list[Any]]:
    if labels is None:
        return []
    found = list(shadows(labels))
    cells = []
    for shadow, rings in zip(found, outlines(found, scale, TOLERANCE, smooth=True), strict=True):
        y, x = (np.mean(np.nonzero(shadow.mask), axis=1) + shadow.corner + 0.5) * scale
        ways = [np.diff(np.rint(ring * steps).astype(int), axis=0, prepend=0) for ring in rings]
        cells.append(
            [shadow.label, round(float(x), 1), round(float(y), 1), [way.ravel().tolist() for way in ways]]
        )
    return cells
