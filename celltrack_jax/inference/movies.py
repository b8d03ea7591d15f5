"""Movies as inference reads them: a CTC image folder, folders of volumes, or an OME-Zarr image, one frame at a time.

Shapes: C channels, Z Y X space, *S the model's spatial axes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.data import store
from celltrack_jax.data.inputs import Input, present
from celltrack_jax.errors import InputError
from celltrack_jax.io import bursts, ctc, kinetochores, ome_zarr, volumes
from celltrack_jax.io.tif import read_tif


class Movie(NamedTuple):
    """A movie that is read on demand."""

    path: Path
    frames: list[int]
    """Frame numbers, ascending."""
    read: Callable[[int], np.ndarray]
    """Frame number -> (C, Z, Y, X) in the movie's dtype; InputError where it cannot be read, has another shape than the
    first frame, or holds NaN or infinite values."""
    shape: tuple[int, ...]
    """(C, Z, Y, X)."""
    spacing_um: np.ndarray
    """(3,) float64, z, y, x; 1 where unknown."""
    spacing_known: bool
    changed_ns: Callable[[int], int]
    """Frame number -> when it was last written."""
    digits: int
    """Of frame numbers in file names."""
    every: Sequence[int] = ()
    """Numbers of all frames that there are, where `frames` are some of them: a network may look at neighbours."""


def open_movie(path: Path) -> Movie:
    """Opens a folder of t*.tif, or an OME-Zarr image such as a sequence of a store.

    Raises:
      InputError: it is neither, has no frames, or its first frame cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: give a folder with t000.tif, ... or an OME-Zarr image")
    if (path / store.INDEX).is_file():
        groups = ", ".join(sorted(group.name for group in path.glob("*.ome.zarr")))
        raise InputError(f"{path} is a store of several sequences: give one of them ({groups})")
    if (path / "zarr.json").is_file() or (path / ".zattrs").is_file():
        return _open_zarr(path)
    return _open_folder(path)


def in_model_axes(movie: Movie, ndim: int, channels: int) -> Movie:
    """Returns the movie with frames (C, *S) as a model takes them.

    Args:
      movie: to be predicted.
      ndim: of the model, 2 or 3.
      channels: of the model.

    Raises:
      InputError: the movie is 3D and the model 2D or the reverse, or they differ in channels.
    """
    flat = movie.shape[1] == 1
    if flat != (ndim == 2):
        kind = "2D" if flat else f"3D ({movie.shape[1]} planes)"
        raise InputError(f"{movie.path} is {kind} and the model {ndim}D: use a model trained on such images")
    if movie.shape[0] != channels:
        raise InputError(
            f"{movie.path} has {movie.shape[0]} channels and the model takes {channels}: "
            "use a model trained on such images"
        )
    return movie._replace(read=lambda frame: movie.read(frame)[:, 0]) if flat else movie


def with_inputs(movie: Movie, inputs: Sequence[Input]) -> Movie:
    """Returns the movie as a network sees it, whose frames have one channel per input.

    Args:
      movie: in the model's axes.
      inputs: of the network; frames that the movie lacks are those themselves.
    """
    every = movie.every or movie.frames
    if list(inputs) == [Input(c, 0) for c in range(movie.shape[0])]:
        return movie

    def frames_of(frame: int) -> list[int]:
        t = every.index(frame)
        return [every[present(every, t, one.frame)] for one in inputs]

    def read(frame: int) -> np.ndarray:
        numbers = frames_of(frame)
        images = {number: movie.read(number) for number in set(numbers)}
        return np.stack([images[number][one.channel] for number, one in zip(numbers, inputs, strict=True)])

    return movie._replace(
        read=read,
        shape=(len(inputs), *movie.shape[1:]),
        changed_ns=lambda frame: max(map(movie.changed_ns, frames_of(frame))),
    )


def images_of_masks(
    movie: Movie, frames: Sequence[int], shape: tuple[int, ...]
) -> Callable[[int], np.ndarray]:
    """Returns what reads the first channel of a frame in the shape of its mask.

    Args:
      movie: the images.
      frames: numbers of the masks' frames.
      shape: of a mask, (Y, X) or (Z, Y, X).

    Raises:
      InputError: images and masks do not belong together.
    """
    planes = (1,) * (3 - len(shape)) + shape
    if planes != tuple(movie.shape[1:]):
        raise InputError(
            f"{movie.path} has frames of shape {tuple(movie.shape[1:])}, the masks {planes} (z, y, x): give the images "
            "that were segmented"
        )
    missing = sorted(set(frames) - set(movie.frames))
    if missing:
        raise InputError(
            f"{movie.path} lacks the frames {_ranges(missing)}, of which there are masks: complete it, or choose others "
            "by --frames=first:end"
        )
    return lambda frame: movie.read(frame)[0].reshape(shape)


def chosen_frames(frames: list[int], wanted: str, allow_gaps: bool, where: Path) -> list[int]:
    """Chooses frames by "first:end" as in Python slices of frame numbers.

    Args:
      frames: all numbers, ascending.
      wanted: such as "10:20" (without 20), ":50" or ""; empty is all.
      allow_gaps: whether numbers may be missing in between.
      where: folder that error messages name.

    Raises:
      InputError: no frame is left, or numbers are missing.
    """
    first, _, end = wanted.partition(":")
    if wanted and (":" not in wanted or any(part and not part.isdigit() for part in (first, end))):
        raise InputError(f"--frames={wanted} is no range: write first:end, as in --frames=10:20")
    chosen = [frame for frame in frames if frame >= int(first or 0) and (not end or frame < int(end))]
    if not chosen:
        raise InputError(f"{where} has no frames in {wanted!r}: it has {_ranges(frames)}")
    missing = sorted(set(range(chosen[0], chosen[-1])) - set(chosen))
    if missing and not allow_gaps:
        raise InputError(
            f"{where} lacks the frames {_ranges(missing)}, so tracks would break there: complete it, choose a "
            "range without gaps by --frames=first:end, or accept that by --allow_gaps"
        )
    return chosen


def _ranges(numbers: list[int]) -> str:
    """Writes ascending numbers as "0-4, 7, 9-12", at most five of them."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(low) if low == high else f"{low}-{high}" for low, high in runs[:5]]
    return ", ".join(shown) + (", ..." if len(runs) > 5 else "") if shown else "none"


def _finite(image: np.ndarray, where: str) -> np.ndarray:
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise InputError(f"{where}: the image holds NaN or infinite values; write it again without them")
    return image


def _open_folder(path: Path) -> Movie:
    if kinetochores.find_channels(path):
        return _open_volumes(path)
    # As the CTC names them, or numbers alone, as bursts have them.
    files, tolerance = ctc.frame_files(path, "t"), 0
    if not files:
        files, tolerance = bursts.frame_files(path), bursts.COLOUR_TOLERANCE
    if not files:
        raise InputError(
            f"{path} has no frames: name the images t000.tif, t001.tif, ... as the CTC does, or 1.tiff, 2.tiff, ..."
        )
    first = next(iter(files))
    sample = read_tif(files[first], first, colour_tolerance=tolerance)

    def read(frame: int) -> np.ndarray:
        image = read_tif(files[frame], frame, colour_tolerance=tolerance)
        if image.shape != sample.shape or image.dtype != sample.dtype:
            raise InputError(
                f"{files[frame]} (frame {frame}) is {image.dtype} {image.shape}, {files[first].name} is "
                f"{sample.dtype} {sample.shape}: all frames of a movie need the same shape and type"
            )
        return _finite(image.reshape(1, -1, *image.shape[-2:]), f"{files[frame]} (frame {frame})")

    return Movie(
        path=path,
        frames=list(files),
        read=read,
        shape=sample.reshape(1, -1, *sample.shape[-2:]).shape,
        spacing_um=np.ones(3),
        spacing_known=False,
        changed_ns=lambda frame: files[frame].stat().st_mtime_ns,
        digits=max(len(file.stem.lstrip("tT")) for file in files.values()),
    )


def _open_volumes(path: Path) -> Movie:
    """Folders of volumes, one per channel."""
    channels = kinetochores.find_channels(path)
    frames = list(next(iter(channels.values())))

    def stack(frame: int) -> np.ndarray:
        read = [volumes.read_volume(files[frame], frame) for files in channels.values()]
        if len({(volume.shape, volume.dtype) for volume in read}) > 1:
            given = ", ".join(f"{volume.dtype} {volume.shape}" for volume in read)
            raise InputError(
                f"{path} (frame {frame}): its channels are {given}: they need the same shape and type; export them again"
            )
        return np.stack(read)

    sample = stack(frames[0])

    def read(frame: int) -> np.ndarray:
        image = stack(frame)
        if image.shape != sample.shape or image.dtype != sample.dtype:
            raise InputError(
                f"{path} (frame {frame}) is {image.dtype} {image.shape}, frame {frames[0]} {sample.dtype} "
                f"{sample.shape}: all frames of a movie need the same shape and type"
            )
        return _finite(image, f"{path} (frame {frame})")

    return Movie(
        path=path,
        frames=frames,
        read=read,
        shape=sample.shape,
        spacing_um=np.ones(3),
        spacing_known=False,
        changed_ns=lambda frame: max(files[frame].stat().st_mtime_ns for files in channels.values()),
        digits=max(3, len(str(frames[-1]))),
    )


def _open_zarr(path: Path) -> Movie:
    attributes = ome_zarr.read_attributes(path)
    if "celltrack" in attributes and store.read_sequence_attributes(path) is None:
        raise InputError(f"{path} is half-written: run launch.prepare again with the same flags")
    image = ome_zarr.open_image(path)
    count = image.array.shape[0]
    if count == 0:
        raise InputError(f"{path} has no frames: its time axis is empty")
    frames = [int(number) for number in attributes.get("celltrack", {}).get("frames", range(count))]
    index = {frame: t for t, frame in enumerate(frames)}

    def read(frame: int) -> np.ndarray:
        try:
            pixels = np.asarray(image.array[index[frame]].read().result())
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"cannot read frame {frame} of {path}: {reason}; write it again") from error
        return _finite(pixels, f"{path} (frame {frame})")

    changed = max(file.stat().st_mtime_ns for file in path.iterdir())
    return Movie(
        path=path,
        frames=frames,
        read=read,
        shape=tuple(image.array.shape[1:]),
        spacing_um=image.spacing_um,
        spacing_known=image.spacing_known,
        changed_ns=lambda frame: changed,
        digits=max(3, len(str(frames[-1]))),
    )
