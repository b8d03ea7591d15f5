"""Movies whose cells are points: a bright pixel each, that moves by the same step from frame to frame."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from celltrack_jax.data import annotation, prepare, sources, store
from celltrack_jax.lineage import Lineage
from tests.data import datasets

BRIGHT = 4000
Cells = Mapping[int, tuple[tuple[int, int], tuple[int, int], int, int]]
"""By label: place (y, x) in frame 1, step per frame, first and last frame."""


def places(cells: Cells, frame: int) -> dict[int, np.ndarray]:
    """Returns where each cell of a frame is."""
    return {
        label: np.add(place, np.multiply(step, frame - 1))
        for label, (place, step, first, last) in cells.items()
        if first <= frame <= last
    }


def image(cells: Cells, frame: int, shape: tuple[int, int], depth: int) -> np.ndarray:
    """Returns (1, depth, *shape) noise with a bright pixel per cell; in a stack, cell k lies in plane k."""
    pixels = np.repeat(datasets.image(shape, frame)[None, None], depth, 1)
    for label, (y, x) in places(cells, frame).items():
        pixels[0, label if depth > 1 else 0, y, x] = BRIGHT + label
    return pixels


def write(
    folder: Path,
    cells: Cells,
    frames: Sequence[int],
    shape: tuple[int, int],
    *,
    unpointed: Sequence[int] = (),
    depth: int = 1,
    spacing: tuple[float, float, float] | None = (1.0, 1.0, 1.0),
) -> store.StoredSequence:
    """Writes <folder>/store with one movie, some of whose frames are not pointed."""
    images = {frame: image(cells, frame, shape, depth) for frame in frames}
    datasets.write_ctc(folder / "set", images={frame: pixels[0, 0] for frame, pixels in images.items()})

    def read(frame: int) -> sources.Frame:
        here = places(cells, frame)
        rows = [(label, label if depth > 1 else 0, *place) for label, place in here.items()]
        label, *position = np.array(rows, np.float64).reshape(-1, 4).T
        points = annotation.Points(
            label.astype(np.int64), np.stack(position, axis=1), np.ones((len(rows), 3))
        )
        return sources.Frame(images[frame], {}, None, None if frame in unpointed else points)

    source = sources.Source(
        name="01",
        files={frame: (folder / "set" / "01" / f"t{frame:03d}.tif",) for frame in frames},
        tracks_file=None,
        lineage=Lineage.from_rows([(label, first, last, 0) for label, (_, _, first, last) in cells.items()]),
        kinds=(),
        complete=False,
        read=read,
    )
    prepare.prepare(
        folder / "store",
        [source],
        layout="ctc",
        origin="set",
        spacing_um=spacing,
        advance=lambda name, frames: None,
    )
    (found,) = store.open_store(folder / "store")
    return found
