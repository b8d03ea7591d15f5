"""Bursts (`io.bursts`): <burst>/img1/1.tiff, <burst>/gt/gt.txt; a frame without boxes is one without cells."""

from collections.abc import Callable
from pathlib import Path

from celltrack_jax.data.annotation import Points
from celltrack_jax.data.sources.pixels import read_image
from celltrack_jax.data.sources.source import COMPLETE, Frame, Source, refuse, unbranched
from celltrack_jax.io import bursts, ctc_rules


def find(dataset: Path, allow_gaps: bool) -> tuple[list[str], Callable[[str], Source]]:
    """Lists the bursts."""
    return bursts.find_bursts(dataset), lambda name: _open(dataset, name, allow_gaps)


def _open(dataset: Path, name: str, allow_gaps: bool) -> Source:
    burst = bursts.open_burst(dataset, name)
    if not allow_gaps:
        folder, annotated = dataset / name / bursts.IMAGES, set(burst.cells.frame.tolist())
        problems = ctc_rules.check_frames(folder, "", burst.images)
        problems += ctc_rules.check_frames(folder, "", burst.images, annotated, more_frames=True)
        refuse(problems, COMPLETE)

    def read(frame: int) -> Frame:
        image = read_image(burst.images[frame], frame, bursts.COLOUR_TOLERANCE)
        here = burst.cells.frame == frame
        return Frame(image, {}, None, Points(*(column[here] for column in burst.cells[1:])))

    return Source(
        name=name,
        files={frame: (path,) for frame, path in burst.images.items()},
        tracks_file=burst.boxes,
        lineage=unbranched(burst.cells.label, burst.cells.frame),
        kinds=(),
        complete=False,
        read=read,
        notes=tuple(burst.notes),
    )
