"""Synthetic movies of dividing nuclei, 2D and 3D, with complete truth.

Nuclei do a persistent random walk, push each other away, turn, deform, grow and divide, and wander in and
out of the field (`nuclei`). They are drawn with texture and mitotic condensation, blurred, lit unevenly,
bleached, seen through Poisson and camera noise (`microscope`). A (spec, seed) always gives the same bytes. Cells in
bright field (`bright_field`) and crowded bursts (`bursts`) live the same life under other light.

Shapes: T frames, S the field (Y, X) or (Z, Y, X), N nuclei.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.data.synthetic.microscope import draw, expose, illumination
from celltrack_jax.data.synthetic.nuclei import Nuclei, life
from celltrack_jax.data.synthetic.spec import SyntheticSpec
from celltrack_jax.io.ctc import write_tracks
from celltrack_jax.io.tif import write_tif
from celltrack_jax.lineage import Lineage, lineage_from_links

__all__ = ["Movie", "SyntheticSpec", "make_movie", "write_ctc"]


class Movie(NamedTuple):
    """A movie and its truth."""

    images: np.ndarray
    """(T, *S) uint16, or uint8 in bright field."""
    labels: np.ndarray
    """(T, *S) uint16, or uint32 where track labels exceed 65535; 0 is background."""
    lineage: Lineage
    spacing_um: tuple[float, ...]


def make_movie(spec: SyntheticSpec, seed: int) -> Movie:
    """Simulates a movie.

    The truth depends on the knobs of cells and motion alone: the same seed under other light gives the same
    labels. A nucleus that leaves the field and comes back is a new track, as the CTC rules want it.

    Args:
      spec: the knobs.
      seed: of all randomness.

    Raises:
      InputError: the nuclei do not fit into the space.
    """
    alive, light = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    lit = illumination(spec, light)
    images, drawn, cells = [], [], []
    for frame, nuclei in enumerate(life(spec, alive)):
        indices, signal = draw(nuclei, spec)
        images.append(expose(signal * (1 - spec.bleaching) ** frame, lit, spec, light))
        drawn.append(indices)
        cells.append(nuclei)
    labels, lineage = truth(drawn, cells)
    return Movie(np.stack(images), labels, lineage, tuple(spec.spacing_um))


def write_ctc(
    folder: Path | str,
    name: str,
    movie: Movie,
    *,
    outlined: Collection[int] | None = None,
    silver: Iterable[np.ndarray] | None = None,
) -> None:
    """Writes a movie and its truth as a CTC data set: <name>/, <name>_GT/TRA and SEG, and <name>_ST/SEG if any.

    Args:
      folder: the data set; made when absent.
      name: of the sequence, e.g. "01".
      movie: as from `make_movie`.
      outlined: frames in <name>_GT/SEG; None all.
      silver: (*S) silver outlines of each frame.
    """
    folder = Path(folder)
    tra, seg = folder / f"{name}_GT" / "TRA", folder / f"{name}_GT" / "SEG"
    computed = folder / f"{name}_ST" / "SEG"
    for path in (folder / name, tra, seg, *(() if silver is None else (computed,))):
        path.mkdir(parents=True, exist_ok=True)
    digits = max(3, len(str(len(movie.images) - 1)))
    for frame, (image, labels) in enumerate(zip(movie.images, movie.labels, strict=True)):
        number = f"{frame:0{digits}d}.tif"
        write_tif(folder / name / f"t{number}", image)
        write_tif(tra / f"man_track{number}", labels)
        if outlined is None or frame in outlined:
            write_tif(seg / f"man_seg{number}", labels)
    write_tracks(tra / "man_track.txt", movie.lineage)
    for frame, mask in enumerate(() if silver is None else silver):
        write_tif(computed / f"man_seg{frame:0{digits}d}.tif", mask)


def truth(drawn: list[np.ndarray], cells: list[Nuclei]) -> tuple[np.ndarray, Lineage]:
    """Makes tracks of what is visible.

    Args:
      drawn: per frame (*S) integers, index of a nucleus plus 1.
      cells: per frame the nuclei.

    Returns:
      (T, *S) labels and their lineage, as in `Movie`.
    """
    seen = [nuclei.identity for nuclei in cells]
    mothers = {
        identity: mother
        for nuclei in cells
        for identity, mother in zip(nuclei.identity.tolist(), nuclei.mother.tolist(), strict=True)
    }
    frame, identity, index = [], [], []
    node_of: dict[tuple[int, int], int] = {}
    for t, (indices, names) in enumerate(zip(drawn, seen, strict=True)):
        for i in np.flatnonzero(np.bincount(indices.ravel(), minlength=len(names) + 1)[1:]):
            node_of[t, int(names[i])] = len(frame)
            frame.append(t)
            identity.append(int(names[i]))
            index.append(int(i))
    parent = np.full(len(frame), -1, np.int64)
    for node, (t, name) in enumerate(zip(frame, identity, strict=True)):
        before = node_of.get((t - 1, name))
        parent[node] = node_of.get((t - 1, mothers[name]), -1) if before is None else before
    lineage, track = lineage_from_links(np.asarray(frame, np.int64), parent)

    dtype = np.uint16 if len(lineage.label) <= np.iinfo(np.uint16).max else np.uint32
    labels = np.zeros((len(drawn), *drawn[0].shape), dtype)
    frames = np.asarray(frame, np.int64)
    for t, indices in enumerate(drawn):
        table = np.zeros(len(seen[t]) + 1, dtype)
        here = np.flatnonzero(frames == t)
        table[np.asarray(index, np.int64)[here] + 1] = track[here]
        labels[t] = table[indices]
    return labels, lineage
