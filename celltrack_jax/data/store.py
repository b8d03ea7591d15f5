"""The store: movies and their annotation as OME-Zarr and GEFF, the way training reads them.

    store.json                       format, source, spacing and the sequences that belong to it
    01.ome.zarr/0                    image (t, c, z, y, x), sharded
    01.ome.zarr/labels/<kind>/0      labels (t, c=1, z, y, x) uint32: "segmentation", "markers", "silver"
    01.ome.zarr/celltrack/<table>    small tables: foreground, coverage, points, tracks
    01.ome.zarr/zarr.json            "ome" metadata and, as "celltrack", what the tables do not hold; written last
    01.geff                          tracks, where there are markers or points

`launch.prepare` writes it. Shapes: T frames, C channels, Z Y X space.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts

from celltrack_jax.errors import InputError
from celltrack_jax.io import ome_zarr
from celltrack_jax.lineage import Lineage
from celltrack_jax.ops.balls import draw_balls

POINT_RADIUS = 4.0
"""Of the balls that stand for points, in pixels of x: as large as detected points are drawn by default."""
VERSION = 2
INDEX = "store.json"
CACHE_BYTES = 512 * 2**20
"""Decoded chunks that stay in memory, over all sequences of a store."""


class StoredSequence(NamedTuple):
    """One movie of a store; pixels are read on demand, everything else is in memory."""

    name: str
    shape: tuple[int, ...]
    """T, C, Z, Y, X; Z is 1 in 2D."""
    spacing_um: tuple[float, ...]
    """z, y, x; 1 where unknown."""
    spacing_known: bool
    frames: np.ndarray
    """(T,) int64, frame numbers as in the file names, ascending; they may have gaps."""
    image: ts.TensorStore
    """(T, C, Z, Y, X) in the movie's own dtype."""
    labels: dict[str, ts.TensorStore]
    """By kind, (T, 1, Z, Y, X) uint32; 0 in frames without this kind."""
    labelled: dict[str, np.ndarray]
    """By kind, (T,) bool: whether the frame has this kind of labels."""
    planes: dict[int, tuple[int, ...]]
    """By index t, z of the segmented planes; frames that are absent are segmented in all planes, or in none."""
    annotation: list[str]
    """Of each frame, "none", "full", "sparse", "markers" or "points"; see `annotation.Survey`."""
    annotation_silver: list[str]
    """The same where silver outlines count."""
    percentiles: np.ndarray
    """(T, C, 3) float32, see `normalise.percentiles`."""
    foreground: np.ndarray
    """(M, 7) int32 rows of t, z, y, x, label, voxels, kind (index into `annotation.KINDS`), sorted by t: see
    `annotation.survey`. The voxel z, y, x lies in the object."""
    coverage: np.ndarray
    """(N, 4) int32 rows of t, marker, object that covers it or 0, silver object that does or 0; sorted, one per
    marker."""
    points: np.ndarray
    """(P, 8) float64 rows of t, z, y, x, label, size z, y, x (voxels), sorted by t and label: see
    `annotation.Survey.points`."""
    pointed: np.ndarray
    """(T,) bool: whether `points` has every cell of the frame, of which there may be none."""
    lineage: Lineage | None
    has_images: bool
    """Whether the image is one; where there was only annotation, it is zeros."""
    category: str | None
    """Of all its cells, None where the data set tells no types."""
    frame_names: tuple[str, ...] | None
    """(T,) where the frames are images with names of their own, else None."""


def open_store(path: str | Path, *, cache_bytes: int = CACHE_BYTES) -> list[StoredSequence]:
    """Opens all sequences of a store, in the order of their names.

    Args:
      path: the folder that `launch.prepare` wrote.
      cache_bytes: memory for decoded chunks.

    Raises:
      InputError: the folder is no store, or a store that is not whole.
    """
    path = Path(path)
    names = read_index(path)["sequences"]
    context = ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
    opened = [_start_opening(path / f"{name}.ome.zarr", context) for name in names]
    return [
        _sequence(name, attributes, {key: array.result() for key, array in arrays.items()})
        for name, (attributes, arrays) in zip(names, opened, strict=True)
    ]


def read_frame(sequence: StoredSequence, kind: str, t: int) -> tuple[int, np.ndarray, np.ndarray | None]:
    """Reads what `tracking.cells.measure_cells` takes of a frame.

    Args:
      sequence: of the store.
      kind: of labels, or "points", which are drawn as balls of `POINT_RADIUS`.
      t: index of the frame.

    Returns:
      The frame's number, its labels (Y, X) or (Z, Y, X), and the image's first channel likewise, None where the movie
      has no images.
    """
    # Both reads run at once.
    read = [sequence.image[t, 0].read()] if sequence.has_images else []
    own = None if kind == "points" else sequence.labels[kind][t, 0].read()
    labels = _drawn(sequence, t) if own is None else np.asarray(own.result())
    image = [np.asarray(one.result()) for one in read]
    if sequence.shape[2] == 1:
        labels, image = labels[0], [one[0] for one in image]
    return int(sequence.frames[t]), labels, image[0] if image else None


def _drawn(sequence: StoredSequence, t: int) -> np.ndarray:
    """(Z, Y, X) int64 labels."""
    rows = sequence.points[sequence.points[:, 0] == t]
    spacing = np.array(sequence.spacing_um) / sequence.spacing_um[2]
    drawn = draw_balls(rows[:, 1:4], sequence.shape[2:], spacing, POINT_RADIUS)
    return np.append(0, rows[:, 4]).astype(np.int64)[drawn]


def read_index(path: Path) -> dict[str, Any]:
    """Reads store.json.

    Raises:
      InputError: it is missing, damaged, or of another version.
    """
    if not path.is_dir():
        raise InputError(f"{path} does not exist: run launch.prepare --source=<data set> --store={path}")
    try:
        index = json.loads((path / INDEX).read_text())
        version = index["version"]
    except FileNotFoundError:
        raise InputError(f"{path} is no store (it has no {INDEX}): run launch.prepare with --store") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {path / INDEX}: delete {path} and run launch.prepare again") from error
    if version != VERSION:
        raise InputError(
            f"{path} has version {version} of the store, this program {VERSION}: prepare it anew"
        )
    return index


def read_sequence_attributes(group: Path) -> dict[str, Any] | None:
    """Reads the "celltrack" attributes of a sequence; None where it is not whole.

    Whole means that its metadata, which is written last, is there, and every file that it names has the size it had:
    a copy that lacks a shard would otherwise read as zeros.
    """
    try:
        attributes = ome_zarr.read_attributes(group).get("celltrack", {})
    except InputError:
        return None
    if attributes.get("complete") is not True:
        return None
    sizes = {path.relative_to(group).as_posix(): path.stat().st_size for path in files_below(group)}
    return attributes if attributes["files"].items() <= sizes.items() else None


def files_below(group: Path) -> list[Path]:
    """Returns all files below a folder, sorted."""
    return sorted(path for path in group.rglob("*") if path.is_file())


def _start_opening(group: Path, context: ts.Context) -> tuple[dict[str, Any], dict[str, ts.Future]]:
    attributes = read_sequence_attributes(group)
    if attributes is None:
        raise InputError(f"{group} is half-written: run launch.prepare again with the same flags")
    arrays = {"0": group / "0"}
    arrays |= {f"labels/{kind}": group / "labels" / kind / "0" for kind in attributes["labelled"]}
    arrays |= {table: group / "celltrack" / table for table in attributes["tables"]}
    return attributes, {key: ome_zarr.open_array(path, context) for key, path in arrays.items()}


def _sequence(name: str, attributes: dict[str, Any], arrays: dict[str, ts.TensorStore]) -> StoredSequence:
    image = arrays["0"]
    tables = {table: np.asarray(arrays[table].read().result()) for table in attributes["tables"]}
    labelled = {kind: _flags(frames, image.shape[0]) for kind, frames in attributes["labelled"].items()}
    return StoredSequence(
        name=name,
        shape=image.shape,
        spacing_um=tuple(attributes["spacing_um"] or (1.0, 1.0, 1.0)),
        spacing_known=attributes["spacing_um"] is not None,
        frames=np.array(attributes["frames"], np.int64),
        image=image,
        labels={kind: arrays[f"labels/{kind}"] for kind in labelled},
        labelled=labelled,
        planes={int(t): tuple(planes) for t, planes in attributes["planes"].items()},
        annotation=attributes["annotation"],
        annotation_silver=attributes["annotation_silver"],
        percentiles=np.array(attributes["percentiles"], np.float32),
        foreground=tables["foreground"],
        coverage=tables["coverage"],
        points=tables["points"],
        pointed=_flags(attributes["pointed"], image.shape[0]),
        lineage=Lineage.from_rows(tables["tracks"]) if "tracks" in tables else None,
        has_images=attributes.get("has_images", True),
        category=attributes.get("category"),
        frame_names=tuple(names) if (names := attributes.get("frame_names")) is not None else None,
    )


def _flags(indices: list[int], size: int) -> np.ndarray:
    """Returns (size,) bool, True at the indices."""
    flags = np.zeros(size, bool)
    flags[indices] = True
    return flags
