"""Movies of kinetochores: volumes per channel and time point, and their centres of mass in a table.

    zygote1/EGFP/t000.h5 ...       volumes of the first channel, see `volumes`
    zygote1/mCherry/t000.h5 ...    of the second; channels are folders, in the order of their names
    zygote1/centres.csv            one row per kinetochore and time point

The table has a column Tags, whose third word between dots is Pair<number>_<1 or 2>, a column of the time point, and
three of the intensity-weighted centre of mass in pixels, one each for X, Y and Z. Shapes: N cells of a movie.
"""

import csv
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io import files, volumes
from celltrack_jax.io.points import MAX_ID, PointTable

CHANNELS = ("EGFP", "mCherry")
"""Folders of a simulated movie."""
TABLE = "centres.csv"
_HEADER = ("Tags", "Time Point", *(f"Center of Mass (Intensities), {axis} (px)" for axis in "XYZ"))
_TAG = re.compile(r"Pair(\d+)_([12])")
_SHOWN = 5
"""Kinetochores that a note lists by name."""


class VolumeMovie(NamedTuple):
    """The files of one movie, and its kinetochores."""

    channels: dict[str, dict[int, Path]]
    """By name and frame number."""
    table: Path
    cells: PointTable
    notes: list[str]
    """What the user should know of the kinetochores; see `read_centres`."""


def find_movies(folder: Path) -> list[str]:
    """Lists the movies of a folder: its folders with folders of volumes.

    Raises:
      InputError: it is the folder above, which holds the splits.
    """
    found = _movies(folder)
    splits = [] if found else [path.name for path in _folders(folder) if _movies(path)]
    if splits:
        raise InputError(f"{folder} holds no movies but its folders {', '.join(splits)} do: give one of them")
    return found


def find_channels(folder: Path) -> dict[str, dict[int, Path]]:
    """Lists the volumes of a movie by channel and frame number; errors of `volumes.frame_files`.

    Raises:
      InputError: channels differ in their frames, or one has none.
    """
    channels = {path.name: volumes.frame_files(path) for path in _folders(folder)}
    empty = next((name for name, found in channels.items() if not found), None)
    if empty is not None and any(channels.values()):
        raise InputError(
            f"{folder / empty} holds no volumes (t000.h5, ...), and every folder of a movie is a channel: copy them, or "
            "move the folder away"
        )
    channels = {name: found for name, found in channels.items() if found}
    every = set().union(*channels.values())
    for name, found in channels.items():
        missing = sorted(every - found.keys())
        if missing:
            raise InputError(
                f"{folder / name} lacks frame {missing[0]}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
                + f", which other channels ({', '.join(other for other in channels if other != name)}) have: copy the "
                "volumes, or move the frames of the others away"
            )
    return channels


def open_movie(folder: Path) -> VolumeMovie:
    """Lists a movie's volumes and reads its table, and, for the size of a frame, the first volume.

    Raises:
      InputError: volumes or the table are missing or damaged.
    """
    channels = find_channels(folder)
    tables = sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        given = f"{len(tables)} tables ({', '.join(path.name for path in tables)})" if tables else "no table"
        raise InputError(f"{folder} holds {given}: keep one .csv of the centres of mass there")
    frame, first = next(iter(next(iter(channels.values())).items()))
    cells, notes = read_centres(tables[0], volumes.read_volume(first, frame).shape)
    unknown = sorted(set(cells.frame.tolist()) - next(iter(channels.values())).keys())
    if unknown:
        raise InputError(
            f"{tables[0]} has time point {unknown[0]}, of which there is no volume: copy it, or delete its rows"
        )
    return VolumeMovie(channels, tables[0], cells, notes)


def read_centres(path: Path, shape: tuple[int, ...]) -> tuple[PointTable, list[str]]:
    """Reads a table of centres of mass.

    Rows come in any order: each names its time point. Kinetochore 1 of pair n has the label 2n - 1, its sister 2n.

    Args:
      path: of the file; columns beside those that are needed do not matter.
      shape: (Z, Y, X) of the volumes. Kinetochores outside are left out.

    Returns:
      The table, whose boxes are single voxels, and notes for the user: what was left out, which sisters miss.

    Raises:
      InputError: the file cannot be read, a column misses, a value is not the number it has to be, or a time point has
        a kinetochore twice, or two at the same place; there is no kinetochore, or none inside.
    """
    lines, rows = _rows(path)
    frame, label = rows[:, :2].astype(np.int64).T
    position = rows[:, [4, 3, 2]]
    _refuse_twins(path, lines, frame, label, position)
    order = np.lexsort((label, frame))
    frame, label, position = frame[order], label[order], position[order]
    inside = ((position >= -0.5) & (position < np.asarray(shape) - 0.5)).all(1)
    if not len(frame):
        raise InputError(f"{path} has no row of a kinetochore: export it again")
    if not inside.any():
        raise InputError(
            f"{path}: all {len(frame)} points lie outside of the volume of {' x '.join(map(str, shape))} (z, y, x): "
            "give the whole volumes, whose part launch.prepare --crop takes"
        )
    notes = [] if inside.all() else [_left_out(path, shape, frame[~inside], label[~inside])]
    notes += _single(path, frame[inside], label[inside])
    cells = PointTable(frame, label, position, np.ones_like(position))
    return PointTable(*(column[inside] for column in cells)), notes


def write_movie(folder: Path, images: np.ndarray, cells: PointTable) -> None:
    """Writes a movie.

    Args:
      folder: of the movie; made when absent.
      images: (T, C, Z, Y, X) of frames 0 to T - 1; C is at most that of `CHANNELS`.
      cells: of these frames.

    Raises:
      InputError: the disk is full, or refuses.
    """
    with files.explained(folder, "or choose another folder"):
        for c, name in zip(range(images.shape[1]), CHANNELS, strict=False):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for frame, volume in enumerate(images[:, c]):
                volumes.write_volume(folder / name / f"t{frame:03d}.h5", volume)
    lines = [",".join(f'"{name}"' if "," in name else name for name in _HEADER)]
    for frame, label, (z, y, x) in zip(
        cells.frame.tolist(), cells.label.tolist(), cells.position.tolist(), strict=True
    ):
        lines.append(f"{folder.name}.Kinetochore.{tag(label)},{frame},{x:.4f},{y:.4f},{z:.4f}")
    files.replace_text(folder / TABLE, "\n".join(lines) + "\n", "or choose another folder")


def tag(label: int) -> str:
    """Returns the name of a kinetochore: Pair<number>_<1 or 2>."""
    return f"Pair{(label + 1) // 2}_{2 - label % 2}"


def _movies(folder: Path) -> list[str]:
    return [path.name for path in _folders(folder) if any(map(_holds_volumes, _folders(path)))]


def _folders(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.name.lower())


def _holds_volumes(folder: Path) -> bool:
    return any(path.suffix.lower() in volumes.SUFFIXES for path in folder.iterdir())


def _rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N,) numbers of the lines and (N, 5) float64 frame, label, x, y, z."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            columns = _columns(path, header)
            rows = [
                (reader.line_num, [row[k].strip() if k < len(row) else "" for k in columns])
                for row in reader
                if any(map(str.strip, row))
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not a table"
        raise InputError(f"cannot read {path}: {reason}; export it again as csv") from error
    values = [_values(f"{path}, line {line}", words) for line, words in rows]
    return np.array([line for line, _ in rows], np.int64), np.array(values, np.float64).reshape(-1, 5)


def _columns(path: Path, header: list[str]) -> list[int]:
    """Places of the columns Tags, time point, X, Y, Z."""
    names = [name.strip().lower() for name in header]
    wanted = {
        "Tags": [k for k, name in enumerate(names) if name == "tags"],
        "Time Point": [k for k, name in enumerate(names) if re.match(r"(time|frame)\b|time ?point", name)],
    }
    for axis in "xyz":
        fitting = [k for k, name in enumerate(names) if re.search(rf"mass.*\b{axis}\b", name)]
        pixels = [k for k in fitting if "px" in names[k] or "pixel" in names[k]]
        wanted[_HEADER["xyz".index(axis) + 2]] = [k for k in pixels if "intens" in names[k]]
    for name, found in wanted.items():
        if len(found) != 1:
            what = "no column" if not found else f"{len(found)} columns"
            raise InputError(f"{path} has {what} {name!r} among {header}: export it with one of that name")
    return [found[0] for found in wanted.values()]


def _values(where: str, words: list[str]) -> list[float]:
    """Frame, label, x, y, z of a row."""
    parts = words[0].split(".")
    found = _TAG.fullmatch(parts[2]) if len(parts) > 2 else None
    if not found or not 0 < int(found[1]) <= MAX_ID // 2:
        raise InputError(
            f"{where}: the tag {words[0]!r} has no third word Pair<number>_<1 or 2> between dots: correct it"
        )
    numbers = []
    for name, word in zip(_HEADER[1:], words[1:], strict=True):
        try:
            numbers.append(float(word))
        except ValueError:
            numbers.append(np.nan)
        if not np.isfinite(numbers[-1]):
            raise InputError(f"{where}: {name} {word!r} is not a number: correct it")
    if numbers[0] < 0 or not numbers[0].is_integer():
        raise InputError(
            f"{where}: {_HEADER[1]} {words[1]!r} is not a whole number: number time points as the files"
        )
    return [numbers[0], 2 * int(found[1]) - 2 + int(found[2]), *numbers[1:]]


def _refuse_twins(
    path: Path, lines: np.ndarray, frame: np.ndarray, label: np.ndarray, position: np.ndarray
) -> None:
    first: dict[tuple, int] = {}
    for line, t, name, place in zip(
        lines.tolist(), frame.tolist(), label.tolist(), map(tuple, position.tolist()), strict=True
    ):
        for what, key in ((tag(name), (t, name)), ("a kinetochore at this place", (t, place))):
            before = first.setdefault(key, line)
            if before != line:
                raise InputError(
                    f"{path}, line {line}: time point {t} has {what} already, in line {before}: keep one of the two"
                )


def _left_out(path: Path, shape: tuple[int, ...], frame: np.ndarray, label: np.ndarray) -> str:
    names = [f"{tag(name)} (time point {t})" for t, name in zip(frame.tolist(), label.tolist(), strict=True)]
    return (
        f"{path}: points outside of the volume of {' x '.join(map(str, shape))} (z, y, x) are left out, {len(names)} in "
        f"all: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}; positions are voxels: correct them"
    )


def _single(path: Path, frame: np.ndarray, label: np.ndarray) -> list[str]:
    """Says which kinetochores have no sister in some time points."""
    there = set(zip(frame.tolist(), label.tolist(), strict=True))
    alone: dict[int, int] = {}
    for t, name in there:
        sister = name + 1 if name % 2 else name - 1
        if (t, sister) not in there:
            alone[sister] = alone.get(sister, 0) + 1
    if not alone:
        return []
    names = [
        f"{tag(name)} ({count} time point{'s' if count > 1 else ''})" for name, count in sorted(alone.items())
    ]
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return [f"{path}: rows are missing of kinetochores whose sister is there: {shown}"]
