"""Data sets on disk as sequences of annotated frames: what `prepare` writes into a store. numpy only.

A new format is one function here that returns `Source`s. Shapes: C channels, Z Y X space.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.data import normalise
from celltrack_jax.data.annotation import KINDS, MAX_LABEL, Points
from celltrack_jax.errors import InputError
from celltrack_jax.io import bursts, ctc, ctc_rules, kinetochores, volumes
from celltrack_jax.io.ctc_masks import present_labels
from celltrack_jax.io.ctc_rules import Problem, Tracks
from celltrack_jax.io.tif import read_tif
from celltrack_jax.lineage import Lineage

_COMPLETE = "copy what is missing, or prepare what there is by --allow_gaps: tracks are not linked over gaps"


class Frame(NamedTuple):
    """One frame as annotated."""

    image: np.ndarray
    """(C, Z, Y, X) in its own dtype; zeros where the sequence has no images."""
    masks: dict[str, np.ndarray]
    """By kind (`annotation.KINDS`), (Z, Y, X) non-negative integers; kinds that the frame lacks are absent."""
    planes: tuple[int, ...] | None
    """z of the planes that are segmented, None for all."""
    points: Points | None = None
    """All cells as the data set gives them, None where it gives none."""
    percentiles: np.ndarray | None = None
    """(C, 3) as of `normalise.percentiles`, of the whole frame where the image is a part of it; None: of the image."""


class Source(NamedTuple):
    """One sequence of a data set."""

    name: str
    files: Mapping[int, tuple[Path, ...]]
    """Files of each frame by its number, in order; the first is the image, if there are images."""
    tracks_file: Path | None
    lineage: Lineage | None
    kinds: tuple[str, ...]
    """Kinds of masks that any frame has."""
    complete: bool
    """Whether segmentations leave out no cell, by the data set's promise."""
    read: Callable[[int], Frame]
    """Reads the frame of this number."""
    has_images: bool = True
    """Annotation alone teaches to link."""
    notes: tuple[str, ...] = ()
    """What the user should know, and can do nothing about here."""


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
        cure = f"give --format={fitting[0]}" if fitting else "check --source and --format"
        raise InputError(f"{dataset} holds no images in the layout {layout!r}: {cure}")
    for name in names or ():
        if name not in known:
            shown = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
            raise InputError(f"{dataset} has no sequence {name!r}: it has {shown}")
    return [open_one(name) for name in known if names is None or name in names]


def _ctc(dataset: Path, allow_gaps: bool) -> tuple[list[str], Callable[[str], Source]]:
    """Cell Tracking Challenge: 01/t000.tif, 01_GT/TRA, 01_GT/SEG (whole frames or planes), 01_ST/SEG.

    Where the data set has no image at all, its sequences are those with annotation.
    """
    names = ctc.find_sequences(dataset) or ctc.find_sequences(dataset, need_images=False)
    return names, lambda name: _ctc_source(dataset, name, allow_gaps)


def _ctc_source(dataset: Path, name: str, allow_gaps: bool) -> Source:
    sequence = ctc.open_sequence(dataset, name)
    tracks = _check_ctc(dataset, sequence, allow_gaps)
    tables: dict[str, ctc.Segmentation] = {
        "segmentation": sequence.segmentation,
        "markers": {frame: [(None, path)] for frame, path in sequence.markers.items()},
        "silver": sequence.silver,
    }

    def read(frame: int) -> Frame:
        image = _image(sequence.images[frame], frame) if sequence.images else _no_image(tables, frame)
        masks = {
            kind: _masks(table[frame], frame, image.shape[1:])
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
    return Source(
        name=name,
        files=files,
        tracks_file=tracks.path if tracks is not None else None,
        lineage=sequence.tracks,
        kinds=tuple(kind for kind in KINDS if tables[kind].keys() & files.keys()),
        complete=False,
        read=read,
        has_images=bool(sequence.images),
    )


def _check_ctc(dataset: Path, sequence: ctc.Sequence, allow_gaps: bool) -> Tracks | None:
    """Returns the track file of a sequence, None where it has none.

    Raises:
      InputError: the file contradicts itself, or, unless gaps are allowed, there are some.
    """
    images, tra = dataset / sequence.name, dataset / f"{sequence.name}_GT" / "TRA"
    tracks = None
    if sequence.tracks is not None:
        tracks, problems = ctc_rules.check_track_file(tra / "man_track.txt")
        _refuse(problems, "correct the file")
    if allow_gaps:
        return tracks
    annotated = sequence.markers.keys() | sequence.segmentation.keys() | sequence.silver.keys()
    if sequence.images:
        problems = ctc_rules.check_frames(images, "t", sequence.images)
        problems += ctc_rules.check_frames(images, "t", sequence.images, annotated, more_frames=True)
        _refuse(problems, _COMPLETE)
    if sequence.markers or tracks is not None:
        frames = set(sequence.images) or None
        _refuse(ctc_rules.check_frames(tra, "man_track", sequence.markers, frames), _COMPLETE)
    if tracks is not None:
        _refuse(ctc_rules.check_span(tracks, sequence.markers), _COMPLETE)
    return tracks


def _check_labels(path: Path, frame: int, markers: np.ndarray, tracks: Tracks) -> None:
    """Raises unless a frame's markers are those that the track file announces."""
    mask = ctc_rules.Mask(path, frame, None, markers.shape, markers.dtype, present_labels(markers))
    _refuse(ctc_rules.check_labels([mask], tracks), f"correct the mask or {tracks.path}")


def _refuse(problems: Sequence[Problem], cure: str) -> None:
    if problems:
        others = len({str(problem) for problem in problems}) - 1
        more = f" (and {others} more)" if others else ""
        raise InputError(f"{problems[0]}{more}; {cure}")


def _dsb(dataset: Path, allow_gaps: bool) -> tuple[list[str], Callable[[str], Source]]:
    """Data Science Bowl 2018: images/<id>.tif, masks/<id>.tif, index.csv with a column id; all cells outlined."""
    del allow_gaps  # every image is a sequence of its own
    index = dataset / "index.csv"
    try:
        with index.open(newline="") as file:
            names = [row["id"] for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise InputError(f"{index} does not exist: it lists the images in a column id") from None
    except (KeyError, ValueError) as error:
        raise InputError(f"{index} has no column id: it lists the images, <id>.tif, there") from error
    return sorted(set(names)), lambda name: _dsb_source(dataset, name)


def _dsb_source(dataset: Path, name: str) -> Source:
    image, mask = (dataset / folder / f"{name}.tif" for folder in ("images", "masks"))

    def read(frame: int) -> Frame:
        pixels = _image(image, frame)
        return Frame(pixels, {"segmentation": _masks([(None, mask)], frame, pixels.shape[1:])}, None)

    return Source(name, {0: (image, mask)}, None, None, ("segmentation",), True, read)


def _bursts(dataset: Path, allow_gaps: bool) -> tuple[list[str], Callable[[str], Source]]:
    """Bursts (`io.bursts`): <burst>/img1/1.tiff, <burst>/gt/gt.txt; a frame without boxes is one without cells."""
    return bursts.find_bursts(dataset), lambda name: _burst_source(dataset, name, allow_gaps)


def _burst_source(dataset: Path, name: str, allow_gaps: bool) -> Source:
    burst = bursts.open_burst(dataset, name)
    if not allow_gaps:
        folder, annotated = dataset / name / bursts.IMAGES, set(burst.cells.frame.tolist())
        problems = ctc_rules.check_frames(folder, "", burst.images)
        problems += ctc_rules.check_frames(folder, "", burst.images, annotated, more_frames=True)
        _refuse(problems, _COMPLETE)

    def read(frame: int) -> Frame:
        image = _image(burst.images[frame], frame, bursts.COLOUR_TOLERANCE)
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


def _kinetochores(dataset: Path, allow_gaps: bool) -> tuple[list[str], Callable[[str], Source]]:
    """Movies of kinetochores (`io.kinetochores`): <movie>/<channel>/t000.h5, <movie>/centres.csv."""
    names = kinetochores.find_movies(dataset)
    channels = {name: list(kinetochores.find_channels(dataset / name)) for name in names}
    other = next((name for name in names if channels[name] != channels[names[0]]), None)
    if other is not None:
        raise InputError(
            f"{dataset / other} has the channels {', '.join(channels[other])}, {names[0]} has "
            f"{', '.join(channels[names[0]])}: name the folders alike, for their order is that of the network's inputs"
        )
    return names, lambda name: _kinetochore_source(dataset / name, allow_gaps)


def _kinetochore_source(folder: Path, allow_gaps: bool) -> Source:
    movie = kinetochores.open_movie(folder)
    first, files = next(iter(movie.channels.items()))
    if not allow_gaps:
        _refuse(ctc_rules.check_frames(folder / first, "t", files), _COMPLETE)

    def read(frame: int) -> Frame:
        channels = {name: volumes.read_volume(paths[frame], frame) for name, paths in movie.channels.items()}
        for name, volume in channels.items():
            if volume.shape != channels[first].shape or volume.dtype != channels[first].dtype:
                raise InputError(
                    f"{movie.channels[name][frame]} (frame {frame}) is {volume.shape} {volume.dtype}, {first} is "
                    f"{channels[first].shape} {channels[first].dtype}: channels have to be alike; export them again"
                )
        here = movie.cells.frame == frame
        image = np.stack(list(channels.values()))
        points = Points(*(column[here] for column in movie.cells[1:])) if here.any() else None
        return Frame(image, {}, None, points)

    without = sorted(files.keys() - set(movie.cells.frame.tolist()))
    unknown = [
        f"{movie.table} has no row of time points {', '.join(map(str, without))}: they are taken for not annotated"
    ]
    return Source(
        name=folder.name,
        files={frame: tuple(paths[frame] for paths in movie.channels.values()) for frame in files},
        tracks_file=movie.table,
        lineage=unbranched(movie.cells.label, movie.cells.frame),
        kinds=(),
        complete=False,
        read=read,
        notes=(*movie.notes, *(unknown if without else ())),
    )


def cropped(source: Source, window: Sequence[tuple[int, int]]) -> Source:
    """Cuts every frame of a sequence.

    Args:
      source: of the sequence.
      window: first voxel and the one behind the last along z, y, x.

    Returns:
      The sequence, whose `read` raises InputError where the window does not lie in the frame. Its tracks are those of
      the whole frames, and so is its scale of grey values: what is predicted later is whole.
    """
    inside = tuple(slice(first, end) for first, end in window)
    low = np.array([first for first, _ in window])
    size = np.array([end - first for first, end in window])

    def read(number: int) -> Frame:
        frame = source.read(number)
        if any(end > limit for (_, end), limit in zip(window, frame.image.shape[1:], strict=True)):
            raise InputError(
                f"{source.files[number][0]} (frame {number}) has shape {frame.image.shape[1:]} (z, y, x), and the crop "
                f"ends at {tuple(end for _, end in window)}: give a --crop that lies in it"
            )
        points, planes = frame.points, frame.planes
        if points is not None:
            position = points.position - low
            there = ((position >= -0.5) & (position < size - 0.5)).all(1)
            points = Points(points.label[there], position[there], points.size[there])
        if planes is not None:
            planes = tuple(z - window[0][0] for z in planes if window[0][0] <= z < window[0][1])
        masks = {kind: mask[inside] for kind, mask in frame.masks.items()}
        try:
            percentiles = normalise.percentiles(frame.image)
        except ValueError as error:
            where = f"{source.files[number][0]} (frame {number})"
            raise InputError(f"{where}: {error}, beside the crop or in it: replace them") from error
        return Frame(frame.image[(slice(None), *inside)], masks, planes, points, percentiles)

    return source._replace(read=read)


def unbranched(label: np.ndarray, frame: np.ndarray) -> Lineage:
    """Returns a track per label, from its first to its last frame; nothing is known of divisions."""
    names, place = np.unique(label, return_inverse=True)
    begin, end = np.full(len(names), np.iinfo(np.int64).max), np.full(len(names), -1)
    np.minimum.at(begin, place, frame)
    np.maximum.at(end, place, frame)
    return Lineage(names, begin, end, np.zeros_like(names))


def _holds(dataset: Path, layout: str) -> bool:
    try:
        return bool(LAYOUTS[layout](dataset, True)[0])
    except InputError:
        return False


LAYOUTS = {"ctc": _ctc, "dsb": _dsb, "bursts": _bursts, "kinetochores": _kinetochores}
"""Layout to function of the data set's folder and of whether gaps are allowed, which returns sequence names and what
opens one of them."""


def _image(path: Path, frame: int, colour_tolerance: int = 0) -> np.ndarray:
    image = read_tif(path, frame, colour_tolerance=colour_tolerance)
    if image.dtype.kind not in "biuf":
        raise InputError(
            f"{path} (frame {frame}) holds {image.dtype}: write grey values as integers or floats"
        )
    image = image.astype(np.uint8) if image.dtype == bool else image
    # What the file's byte order was does not matter any more.
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    return image.reshape(1, *(1,) * (3 - image.ndim), *image.shape)


def _no_image(tables: Mapping[str, ctc.Segmentation], frame: int) -> np.ndarray:
    """Zeros of the shape of the frame's first whole mask, (1, Z, Y, X)."""
    whole = [path for table in tables.values() for z, path in table.get(frame, ()) if z is None]
    if not whole:
        path = next(path for table in tables.values() for _, path in table.get(frame, ()))
        raise InputError(f"{path} (frame {frame}) is one plane, and there is no image: give whole masks")
    shape = read_tif(whole[0], frame).shape
    return np.zeros((1, *(1,) * (3 - len(shape)), *shape), np.uint8)


def _masks(entries: list[tuple[int | None, Path]], frame: int, shape: tuple[int, ...]) -> np.ndarray:
    """Reads the mask of a frame, or lays its annotated planes into an empty one: (Z, Y, X)."""
    if entries[0][0] is None:
        return _mask(entries[0][1], frame, shape)
    planes = {z: _mask(path, frame, (1, *shape[1:])) for z, path in entries if z is not None}
    if max(planes) >= shape[0]:
        path = dict(entries)[max(planes)]
        raise InputError(
            f"{path} (frame {frame}) is plane {max(planes)}, but the image has {shape[0]} planes"
        )
    whole = np.zeros(shape, np.result_type(*planes.values()))
    for z, plane in planes.items():
        whole[z] = plane[0]
    return whole


def _mask(path: Path, frame: int, shape: tuple[int, ...]) -> np.ndarray:
    where = f"{path} (frame {frame})"
    mask = read_tif(path, frame)
    if mask.dtype.kind not in "biu":
        raise InputError(f"{where} holds {mask.dtype}: write labels as integers")
    mask = mask.reshape((1,) * (3 - mask.ndim) + mask.shape)
    if mask.shape != shape:
        raise InputError(
            f"{where} has shape {mask.shape}, its image {shape} (z, y, x): they have to be equal"
        )
    for label in (int(mask.min(initial=0)), int(mask.max(initial=0))):
        if not 0 <= label <= MAX_LABEL:
            raise InputError(
                f"{where} has the label {label}: labels lie in 0 to {MAX_LABEL}; number them anew"
            )
    return mask.astype(np.uint8) if mask.dtype == bool else mask
