"""A part of a CTC sequence in time as a CTC data set of its own, without copying a pixel."""

from pathlib import Path

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io import ctc
from celltrack_jax.lineage import Lineage


def link_frames(dataset: Path, name: str, first: int, last: int, target: Path) -> None:
    """Makes `<target>/<name>` and `<target>/<name>_GT` of the frames first..last (inclusive), as symbolic links.

    Frame numbers stay as they are, so the new sequence may start anywhere. Tracks are cut to the frames; a
    daughter whose parent ended before `first` becomes a founder.

    Args:
      dataset: a CTC data set folder.
      name: one of its sequences, "01".
      first: first frame number.
      last: last frame number.
      target: folder of the new data set; links that are there already are replaced.

    Raises:
      InputError: the sequence has no frames in this range.
    """
    sequence = ctc.open_sequence(dataset, name)
    images = {frame: path for frame, path in sequence.images.items() if first <= frame <= last}
    if not images:
        raise InputError(f"{dataset / name} has no frames between {first} and {last}")
    files = [(path, target / name) for path in images.values()]
    files += [
        (path, target / f"{name}_GT" / "TRA")
        for frame, path in sequence.markers.items()
        if first <= frame <= last
    ]
    files += [
        (path, target / f"{name}_GT" / "SEG")
        for frame, slices in sequence.segmentation.items()
        if first <= frame <= last
        for _, path in slices
    ]
    for path, folder in files:
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    if sequence.tracks is not None:
        ctc.write_tracks(target / f"{name}_GT" / "TRA" / "man_track.txt", cut(sequence.tracks, first, last))


def cut(lineage: Lineage, first: int, last: int) -> Lineage:
    """Returns the part of a lineage that lies in the frames first..last (inclusive)."""
    begin, end = np.maximum(lineage.begin, first), np.minimum(lineage.end, last)
    alive = begin <= end
    parent = np.where(np.isin(lineage.parent, lineage.label[alive]), lineage.parent, 0)
    # A daughter that begins before the range has lost its division.
    parent = np.where(lineage.begin < first, 0, parent)
    return Lineage.from_rows(np.stack([lineage.label, begin, end, parent], axis=1)[alive])
