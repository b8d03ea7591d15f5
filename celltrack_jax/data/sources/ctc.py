"""Cell Tracking Challenge: 01/t000.tif, 01_GT/TRA, 01_GT/SEG (whole frames or planes), 01_ST/SEG."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from celltrack_jax.data.annotation import KINDS
from celltrack_jax.data.sources.pixels import read_image, read_masks
from celltrack_jax.data.sources.source import COMPLETE, Frame, Source, refuse
from celltrack_jax.errors import InputError
from celltrack_jax.io import ctc, ctc_rules
from celltrack_jax.io.ctc_masks import present_labels
from celltrack_jax.io.ctc_rules import Tracks
from celltrack_jax.io.tif import read_tif


def find(dataset: Path, allow_gaps: bool) -> tuple[list[str], Callable[[str], Source]]:
    """Lists the movies.

    Where the data set has no image at all, its sequences are those with annotation.
    """
    names = ctc.find_sequences(dataset) or ctc.find_sequences(dataset, need_images=False)
    return names, lambda name: _open(dataset, name, allow_gaps)


def cure(dataset: Path) -> str:
    """Returns what to do about a folder without sequences in which frames lie elsewhere; "" where none are seen."""
    if frame := _first_frame(dataset):
        if re.fullmatch(r"\d\d+", dataset.name):
            return (
                f"{frame.name} lies in it directly: give the folder above it, --source={dataset.parent} "
                f"--sequences={dataset.name}"
            )
        return (
            f"{frame.name} lies in it directly: move the frames to a folder {dataset / '01'}, of two digits, and what is "
            f"annotated to {dataset / '01_GT'}"
        )
    for folder in sorted(path for path in dataset.iterdir() if path.is_dir()):
        if frame := _first_frame(folder):
            return (
                f"{folder.name}/{frame.name} is a frame, but folders of frames are named by two digits: rename {folder} "
                "to 01, and its annotation to 01_GT"
            )
    return ""


def _first_frame(folder: Path) -> Path | None:
    return next(iter(ctc.scan(folder, "t")[0].values()), None)


def _open(dataset: Path, name: str, allow_gaps: bool) -> Source:
    sequence = ctc.open_sequence(dataset, name)
    tracks = _check(dataset, sequence, allow_gaps)
    tables: dict[str, ctc.Segmentation] = {
        "segmentation": sequence.segmentation,
        "markers": {frame: [(None, path)] for frame, path in sequence.markers.items()},
        "silver": sequence.silver,
    }

    def read(frame: int) -> Frame:
        image = read_image(sequence.images[frame], frame) if sequence.images else _no_image(tables, frame)
        masks = {
            kind: read_masks(table[frame], frame, image.shape[1:])
            for kind, table in tables.items()
            if frame in table
        }
        if tracks is not None and "markers" in masks:
            _check_labels(sequence.markers[frame], frame, masks["markers"], tracks)
        planes = tuple(z for z, _ in sequence.segmentation.get(frame, ()) if z is not None)
        return Frame(image, masks, planes or None)

    masks_of = {
        frame: tuple(mask for table in tables.values() for _, mask in table.get(frame, ()))
        for frame in sorted(sequence.images or set().union(*tables.values()))
    }
    files = {
        frame: (sequence.images[frame], *masks) if sequence.images else masks
        for frame, masks in masks_of.items()
    }
    kinds = tuple(kind for kind in KINDS if tables[kind].keys() & files.keys())
    notes = ()
    if not kinds:
        notes = (
            f"sequence {name} has no annotation, no mask in {name}_GT/SEG, {name}_GT/TRA or {name}_ST/SEG of {dataset}: "
            "only what learns from images alone can be trained on it",
        )
    return Source(
        name=name,
        files=files,
        tracks_file=tracks.path if tracks is not None else None,
        lineage=sequence.tracks,
        kinds=kinds,
        complete=False,
        read=read,
        has_images=bool(sequence.images),
        notes=notes,
    )


def _check(dataset: Path, sequence: ctc.Sequence, allow_gaps: bool) -> Tracks | None:
    """Returns the track file of a sequence, None where it has none.

    Raises:
      InputError: the file contradicts itself, or, unless gaps are allowed, there are some.
    """
    images, tra = dataset / sequence.name, dataset / f"{sequence.name}_GT" / "TRA"
    tracks = None
    if sequence.tracks is not None:
        tracks, problems = ctc_rules.check_track_file(tra / "man_track.txt")
        refuse(problems, "correct the file")
    if allow_gaps:
        return tracks
    annotated = sequence.markers.keys() | sequence.segmentation.keys() | sequence.silver.keys()
    if sequence.images:
        problems = ctc_rules.check_frames(images, "t", sequence.images)
        problems += ctc_rules.check_frames(images, "t", sequence.images, annotated, more_frames=True)
        refuse(problems, COMPLETE)
    if sequence.markers or tracks is not None:
        frames = set(sequence.images) or None
        refuse(ctc_rules.check_frames(tra, "man_track", sequence.markers, frames), COMPLETE)
    if tracks is not None:
        refuse(ctc_rules.check_span(tracks, sequence.markers), COMPLETE)
    return tracks


def _check_labels(path: Path, frame: int, markers: np.ndarray, tracks: Tracks) -> None:
    """Raises unless a frame's markers are those that the track file announces."""
    mask = ctc_rules.Mask(path, frame, None, markers.shape, markers.dtype, present_labels(markers))
    refuse(ctc_rules.check_labels([mask], tracks), f"correct the mask or {tracks.path}")


def _no_image(tables: Mapping[str, ctc.Segmentation], frame: int) -> np.ndarray:
    """Zeros of the shape of the frame's first whole mask, (1, Z, Y, X)."""
    whole = [path for table in tables.values() for z, path in table.get(frame, ()) if z is None]
    if not whole:
        path = next(path for table in tables.values() for _, path in table.get(frame, ()))
        raise InputError(f"{path} (frame {frame}) is one plane, and there is no image: give whole masks")
    shape = read_tif(whole[0], frame).shape
    return np.zeros((1, *(1,) * (3 - len(shape)), *shape), np.uint8)
