"""Data sets on disk as sequences of annotated frames: what `prepare` writes into a store. numpy only.

A new format is one file here with a function `find`, which returns the names of the sequences and what opens one.
"""

from pathlib import Path

from celltrack_jax.data.sources import bursts, ctc, dsb, kinetochores, livecell, sartorius
from celltrack_jax.data.sources.source import Frame, Source, cropped, unbranched
from celltrack_jax.errors import InputError

__all__ = ["LAYOUTS", "Frame", "Source", "cropped", "open_sources", "unbranched"]

LAYOUTS = {
    "ctc": ctc.find,
    "dsb": dsb.find,
    "bursts": bursts.find,
    "kinetochores": kinetochores.find,
    "sartorius": sartorius.find,
    "livecell": livecell.find,
}
"""Layout to function of the data set's folder and of whether gaps are allowed, which returns sequence names and what
opens one of them."""


def open_sources(
    dataset: Path, layout: str, names: list[str] | None, *, allow_gaps: bool = False
) -> list[Source]:
    """Lists the sequences of a data set; reads no image, or of bursts the first one.

    Args:
      dataset: its folder.
      layout: a key of `LAYOUTS`.
      names: sequences to take, None for all.
      allow_gaps: whether frames of a movie may lack their image or, where others have them, their markers.

    Raises:
      InputError: no such folder or sequence, nothing in it, a track file that contradicts itself, or gaps.
    """
    dataset = Path(dataset)
    if not dataset.is_dir():
        raise InputError(f"{dataset} is not a folder: give the data set's folder as --source")
    known, open_one = LAYOUTS[layout](dataset, allow_gaps)
    if not known:
        fitting = [other for other in LAYOUTS if other != layout and _holds(dataset, other)]
        cure = f"give --format={fitting[0]}" if fitting else ""
        if not cure and layout == "ctc":
            cure = ctc.cure(dataset)
        cure = cure or "check --source and --format"
        raise InputError(f"{dataset} holds no images in the layout {layout!r}: {cure}")
    for name in names or ():
        if name not in known:
            shown = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
            raise InputError(f"{dataset} has no sequence {name!r}: it has {shown}")
    return [open_one(name) for name in known if names is None or name in names]


def _holds(dataset: Path, layout: str) -> bool:
    try:
        return bool(LAYOUTS[layout](dataset, True)[0])
    except InputError:
        return False
