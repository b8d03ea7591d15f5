"""Writes a store from a data set: each sequence whole or not at all, frame by frame, the same bytes every time.

Shapes: C channels, Z Y X space.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts

from celltrack_jax.data import agreement, annotation, normalise, store
from celltrack_jax.data.sources import Frame, Source
from celltrack_jax.errors import InputError
from celltrack_jax.io import files, geff, ome_zarr
from celltrack_jax.io.threads import mapped

PARTIAL = ".partial"
_KEPT = "then run launch.prepare again, which continues with the sequence that it could not finish"
_WRITING = {"file_io_sync": False}
"""An fsync took 17 to 78 ms on a busy machine, and a sequence has a dozen files. What a power failure leaves of a file
is of another size, by which the sequence is known not to be whole."""


class Record(NamedTuple):
    """What stays in memory of a frame that was written."""

    number: int
    kinds: tuple[str, ...]
    """Kinds of its masks."""
    planes: tuple[int, ...] | None
    percentiles: np.ndarray
    """(C, 3) float32."""
    survey: annotation.Survey
    digests: tuple[tuple[str, str], ...]
    """Name and SHA-256 of each of its files."""
    fits: dict[str, tuple[float, float]]
    """By kind of masks, see `agreement.measure`."""
    odd: Mapping[str, int]
    """As of `Frame`."""


def prepare(
    folder: Path,
    sources: Sequence[Source],
    *,
    layout: str,
    origin: str,
    spacing_um: Sequence[float] | None,
    crop: Sequence[tuple[int, int]] | None = None,
    advance: Callable[[str, int], None],
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """Brings a store up to these sequences; what is whole already is compared, not written again.

    Args:
      folder: of the store.
      sources: sequences of the data set.
      layout: format of the data set.
      origin: name of the data set.
      spacing_um: z, y, x in micrometers, None for unknown.
      crop: that the sources are cut to (`sources.cropped`), None for whole frames.
      advance: called with the sequence and the number of frames done since the last call.
      note: called with what is odd about a sequence that was written.

    Returns:
      Number of sequences that were written.

    Raises:
      InputError: the data are bad, the store was made from others, or the disk is full.
    """
    spacing = None if spacing_um is None else [float(size) for size in spacing_um]
    written = 0
    _refuse_other_files(folder)
    with files.explained(folder, _KEPT), files.locked(folder, "launch.prepare"):
        index = {"version": store.VERSION, "format": layout, "source": origin, "spacing_um": spacing}
        if crop is not None:
            index["crop"] = [list(ends) for ends in crop]
        _claim(folder, index, [source.name for source in sources])
        for source in sources:
            attributes = store.read_sequence_attributes(folder / f"{source.name}.ome.zarr")
            if attributes is not None:
                _compare(folder, source, attributes)
                advance(source.name, len(source.files))
            else:
                records = _write_sequence(folder, source, spacing, lambda name=source.name: advance(name, 1))
                _doubt(source, records, note)
                written += 1
    return written


def _refuse_other_files(folder: Path) -> None:
    if not folder.is_dir():
        return
    foreign = {path.name for path in folder.iterdir()} - {files.LOCK}
    if foreign and store.INDEX not in foreign:
        raise InputError(f"{folder} holds other files: give an empty or a new folder as --store")


def _claim(folder: Path, index: dict[str, Any], names: list[str]) -> None:
    """Writes store.json, so that from here on the store counts as half-written until all sequences are there."""
    if (folder / store.INDEX).exists():
        found = store.read_index(folder)
        flags = {"source": "--source", "format": "--format", "spacing_um": "--spacing", "crop": "--crop"}
        for key, flag in flags.items():
            if found.get(key) != index.get(key):
                raise InputError(
                    f"{folder} was prepared from other data ({key} {found.get(key)}, now {index.get(key)}): "
                    f"correct {flag}, give another --store, or delete {folder}"
                )
        whole = [name for name in found["sequences"] if (folder / f"{name}.ome.zarr").exists()]
        names = sorted({*names, *whole})
    text = json.dumps({**index, "sequences": names}, indent=1, sort_keys=True) + "\n"
    files.replace_text(folder / store.INDEX, text, _KEPT)


def _compare(folder: Path, source: Source, attributes: dict[str, Any]) -> None:
    """Raises unless the source's files are, byte for byte, those that the sequence was made from."""
    digests = [digest for found in mapped(_digests, source.files.values()) for digest in found]
    if _fingerprint(source, digests) != attributes["source_sha256"]:
        raise InputError(
            f"{folder / source.name}.ome.zarr was prepared from other files than {source.name} holds now: "
            f"delete it to prepare it anew, or give another --store"
        )


def _digests(paths: Sequence[Path]) -> tuple[tuple[str, str], ...]:
    return tuple(("/".join(path.parts[-3:]), _sha256(path)) for path in paths)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; copy the file again") from error


def _fingerprint(source: Source, digests: list[tuple[str, str]]) -> str:
    tracks = [_sha256(source.tracks_file)] if source.tracks_file else []
    tracks += [_sha256(path) for path in source.tables]
    return hashlib.sha256(json.dumps([sorted(digests), tracks]).encode()).hexdigest()


def _write_sequence(
    folder: Path, source: Source, spacing: list[float] | None, advance: Callable[[], None]
) -> list[Record]:
    """Writes under a temporary name and renames: the image group comes last and makes the sequence whole."""
    partial = folder / (source.name + PARTIAL)
    finals = [folder / f"{source.name}.geff", folder / f"{source.name}.ome.zarr"]
    for path in (partial, *finals):
        if path.exists():
            shutil.rmtree(path)
    group = partial / finals[1].name
    group.mkdir(parents=True)
    records = _write_arrays(group, source, spacing, advance)
    if any(record.survey.tracked for record in records):
        _write_tracks(partial / finals[0].name, source, records, spacing)
    _write_attributes(group, source, records, spacing)
    for final in finals:
        if (partial / final.name).exists():
            (partial / final.name).rename(final)
    partial.rmdir()
    return records


def _doubt(source: Source, records: Sequence[Record], note: Callable[[str], None]) -> None:
    for kind in source.kinds if source.has_images else ():
        problem = agreement.doubt([record.fits[kind] for record in records if kind in record.fits])
        if problem:
            note(f"sequence {source.name}, {kind}: {problem}")
    odd = sum((Counter(record.odd) for record in records), Counter())
    for what, count in odd.items():
        frames = [t for t, record in enumerate(records) if what in record.odd]
        first = f"frame {records[frames[0]].number}"
        if source.frame_names is not None:
            first = source.frame_names[frames[0]]
        note(f"sequence {source.name}: {count} {what}, in {len(frames)} frames, first in {first}")


def _write_arrays(
    group: Path, source: Source, spacing: list[float] | None, advance: Callable[[], None]
) -> list[Record]:
    """Writes images and labels, a shard's frames at a time, and returns the records without their pixels."""
    numbers = list(source.files)
    image = source.read(numbers[0]).image
    shape, dtype = (len(numbers), *image.shape), image.dtype
    del image
    context = ts.Context(_WRITING)
    arrays = {"image": ome_zarr.create_array(group / "0", shape, dtype, context)}
    for kind in source.kinds:
        path = group / "labels" / kind / "0"
        arrays[kind] = ome_zarr.create_array(path, (shape[0], 1, *shape[2:]), np.uint32, context)

    def read(number: int) -> tuple[Frame, Record]:
        return _measure(source, number, shape[1:], dtype, spacing or [1.0, 1.0, 1.0])

    records, block = [], ome_zarr.shard_shape(shape)[0]
    buffers: dict[str, np.ndarray] = {}
    for t, (frame, record) in enumerate(mapped(read, numbers)):
        begin = t - t % block
        size = min(block, len(numbers) - begin)
        for kind, pixels in {"image": frame.image, **frame.masks}.items():
            if kind not in buffers:
                buffers[kind] = np.zeros((size, *arrays[kind].shape[1:]), arrays[kind].dtype.numpy_dtype)
            buffers[kind][t - begin] = pixels
        if t == begin + size - 1:
            for kind in list(buffers):
                arrays[kind][begin : begin + size].write(buffers.pop(kind)).result()
        records.append(record)
        advance()
    return records


def _measure(
    source: Source, number: int, shape: tuple[int, ...], dtype: np.dtype, spacing: list[float]
) -> tuple[Frame, Record]:
    """Reads one frame, checks it against the first one's shape and dtype, and measures what the store keeps of it."""
    path = source.files[number][0]
    frame = source.read(number)
    for what, here, there in (
        ("shape", frame.image.shape[1:], shape[1:]),
        ("dtype", frame.image.dtype, dtype),
    ):
        if here != there:
            raise InputError(
                f"{path} (frame {number}) has {what} {here}, the first frame {there}: "
                "all frames of a sequence have to be alike; convert it or move it away"
            )
    if frame.image.dtype.kind == "f" and not np.isfinite(frame.image).all():
        raise InputError(f"{path} (frame {number}) has values that are not finite: replace them")
    percentiles = normalise.percentiles(frame.image) if frame.percentiles is None else frame.percentiles
    survey = annotation.survey(
        frame.masks, frame.planes, complete=source.complete, spacing=spacing, points=frame.points
    )
    digests = _digests(source.files[number])
    fits = {kind: agreement.measure(frame.image, mask) for kind, mask in frame.masks.items()}
    known = {kind: fit for kind, fit in fits.items() if fit is not None}
    return frame, Record(
        number, tuple(frame.masks), frame.planes, percentiles, survey, digests, known, frame.odd
    )


def _write_tracks(path: Path, source: Source, records: list[Record], spacing: list[float] | None) -> None:
    columns = [
        (t, record.number, label, position)
        for t, record in enumerate(records)
        if record.survey.points is not None and record.survey.tracked
        for label, position in zip(record.survey.points.label, record.survey.points.position, strict=True)
    ]
    t, number, label = (np.array([row[i] for row in columns], np.int64) for i in range(3))
    position = np.array([row[3] for row in columns], np.float64).reshape(-1, 3) * np.array(spacing or 1.0)
    tracks = geff.graph(t, number, label, position, source.lineage)
    image = f"../{source.name}.ome.zarr"
    labels = f"{image}/labels/markers" if "markers" in source.kinds else None
    geff.write(path, tracks, spacing_known=spacing is not None, image=image, labels=labels)


def _write_attributes(
    group: Path, source: Source, records: list[Record], spacing: list[float] | None
) -> None:
    """Writes tables and metadata, the image group's last: with it the sequence is complete."""
    context = ts.Context(_WRITING)
    tables = {
        "foreground": _stack([record.survey.foreground for record in records]).astype(np.int32),
        "coverage": _stack([record.survey.coverage for record in records]).astype(np.int32),
        "points": _stack([_point_rows(record.survey.points) for record in records]),
    }
    if source.lineage is not None:
        tables["tracks"] = source.lineage.rows()
    ome_zarr.write_group(group / "celltrack", {})
    for name, table in tables.items():
        ome_zarr.write_table(group / "celltrack" / name, table, context)
    if source.kinds:
        ome_zarr.write_group(group / "labels", {"ome": {"version": "0.5", "labels": sorted(source.kinds)}})
        for kind in source.kinds:
            attributes = ome_zarr.label_attributes(kind, spacing)
            ome_zarr.write_group(group / "labels" / kind, {"ome": attributes})
    digests = [digest for record in records for digest in record.digests]
    attributes = {
        "version": store.VERSION,
        "source_sha256": _fingerprint(source, digests),
        "frames": [record.number for record in records],
        "spacing_um": spacing,
        "annotation": [record.survey.annotation for record in records],
        "annotation_silver": [record.survey.annotation_silver for record in records],
        "labelled": {
            kind: [t for t, record in enumerate(records) if kind in record.kinds] for kind in source.kinds
        },
        "pointed": [t for t, record in enumerate(records) if record.survey.points is not None],
        "planes": {str(t): list(record.planes) for t, record in enumerate(records) if record.planes},
        "percentiles": [record.percentiles.tolist() for record in records],
        "tables": sorted(tables),
        "has_images": source.has_images,
        "files": {
            path.relative_to(group).as_posix(): path.stat().st_size for path in store.files_below(group)
        },
        "complete": True,
    }
    if source.category is not None:
        attributes["category"] = source.category
    if source.frame_names is not None:
        attributes["frame_names"] = list(source.frame_names)
    ome = ome_zarr.image_attributes(source.name, spacing)
    ome_zarr.write_group(group, {"ome": ome, "celltrack": attributes})


def _stack(tables: list[np.ndarray]) -> np.ndarray:
    """Puts the tables of the frames below one another, with the frame's index as the first column."""
    rows = [np.column_stack([np.full(len(table), t), table]) for t, table in enumerate(tables)]
    return np.concatenate(rows)


def _point_rows(points: annotation.Points | None) -> np.ndarray:
    """Returns (N, 7) float64 rows of z, y, x, label, size z, y, x; N is 0 where points are not known."""
    if points is None:
        return np.zeros((0, 7))
    return np.column_stack([points.position, points.label, points.size])
