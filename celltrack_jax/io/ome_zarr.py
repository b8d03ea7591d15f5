"""OME-Zarr 0.5 (NGFF) images and labels through tensorstore: zarr v3, `sharding_indexed`.

A movie is a group with the array "0" of axes (t, c, z, y, x) and, below `labels/`, one such group per kind of
label. A 2D movie has z = 1. Readers of other people's files (`open_image`) also take zarr v2 (NGFF 0.4), missing
axes and other units. Shapes: T frames, C channels, Z Y X space.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts

from celltrack_jax.errors import InputError

AXES = "tczyx"
SHARD_VOXELS = 2**25
"""Voxels of a shard: 64 MiB of a 16-bit image and 128 MiB of labels before compression. It is also what a writer
has to hold in memory, as a shard is written at once."""
ZSTD_LEVEL = 3

_MICROMETERS = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
}


class Image(NamedTuple):
    """An OME-Zarr image at full resolution."""

    array: ts.TensorStore
    """(T, C, Z, Y, X), lazily read."""
    spacing_um: np.ndarray
    """(3,) float64: z, y, x; 1 on axes whose spacing is unknown."""
    spacing_known: bool
    """Whether the file gives a physical unit for y and x."""


def chunk_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the inner chunk for an array of shape (T, C, Z, Y, X).

    CPU time of a random crop that no cache holds: 320x320 of image and labels, 2.4, 1.7, 1.9 and 1.8 ms at chunks
    of 64, 128, 256 and 384; 32x128x128 of an image, 4.3, 7.2, 10.0 and 18.1 ms at 16x64x64, 16x128x128, 32x128x128
    and 32x256x256.
    """
    return (1, 1, 1, 256, 256) if shape[2] == 1 else (1, 1, min(16, shape[2]), 64, 64)


def shard_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shard, whole inner chunks of at most about `SHARD_VOXELS`: x grows first, then y, z, frames."""
    shard = list(chunk_shape(shape))
    for axis in (4, 3, 2, 0):
        chunks = -(-shape[axis] // shard[axis])
        most = max(1, SHARD_VOXELS // math.prod(shard))
        shard[axis] *= min(chunks, most)
    return tuple(shard)


def create_array(path: Path, shape: Sequence[int], dtype: Any, context: ts.Context) -> ts.TensorStore:
    """Creates the array "0" of an image or label group.

    Args:
      path: of the array, which must not exist.
      shape: (T, C, Z, Y, X).
      dtype: what numpy takes.
      context: limits of memory and threads.
    """
    codecs = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": ZSTD_LEVEL}},
    ]
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {
        "chunk_shape": chunk_shape(shape),
        "codecs": codecs,
        "index_codecs": index,
        "index_location": "end",
    }
    metadata = {
        "shape": list(shape),
        "data_type": np.dtype(dtype).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard_shape(shape)}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "fill_value": 0,
        "dimension_names": list(AXES),
    }
    return ts.open({**_spec(path), "metadata": metadata}, context=context, create=True).result()


def write_table(path: Path, table: np.ndarray, context: ts.Context) -> None:
    """Writes a small (N, columns) array as one chunk; N may be 0."""
    metadata = {
        "shape": list(table.shape),
        "data_type": table.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [max(1, size) for size in table.shape]},
        },
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL}},
        ],
        "fill_value": 0,
    }
    array = ts.open({**_spec(path), "metadata": metadata}, context=context, create=True).result()
    array.write(table).result()


def open_array(path: Path, context: ts.Context) -> ts.Future:
    """Starts to open a zarr v3 array for reading; the future's result is a `ts.TensorStore`."""
    return ts.open(_spec(path), context=context, read=True)


def write_group(path: Path, attributes: Mapping[str, Any]) -> None:
    """Writes a group's zarr.json. Keys are sorted, so that equal attributes give equal bytes."""
    path.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1, sort_keys=True
    )
    (path / "zarr.json").write_text(text + "\n")


def read_attributes(path: Path) -> dict[str, Any]:
    """Reads the attributes of a group, zarr v3 or v2.

    Raises:
      InputError: there is no group, or its metadata is no JSON.
    """
    for name, key in (("zarr.json", "attributes"), (".zattrs", None)):
        try:
            found = json.loads((path / name).read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path / name}: {error}; write the OME-Zarr again") from error
        return found if key is None else found.get(key, {})
    raise InputError(f"{path} is not a zarr group: it has neither zarr.json nor .zattrs; check the path")


def image_attributes(name: str, spacing_um: Sequence[float] | None) -> dict[str, Any]:
    """Returns the "ome" attributes of an image group.

    Args:
      name: of the image.
      spacing_um: z, y, x in micrometers; None where unknown: then the axes have no unit and scale 1.
    """
    unit = {} if spacing_um is None else {"unit": "micrometer"}
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", **unit} for axis in "zyx"]
    scale = [1.0, 1.0, *(float(size) for size in spacing_um or (1, 1, 1))]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    return {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": [dataset]}]}


def label_attributes(name: str, spacing_um: Sequence[float] | None) -> dict[str, Any]:
    """Returns the "ome" attributes of a label group that lies in `<image group>/labels/<name>`."""
    return {**image_attributes(name, spacing_um), "image-label": {"source": {"image": "../../"}}}


def open_image(path: Path, context: ts.Context | None = None) -> Image:
    """Opens an OME-Zarr image of version 0.4 or 0.5 at full resolution, with any subset of the axes t c z y x.

    Args:
      path: the image group.
      context: limits of memory and threads.

    Raises:
      InputError: the folder is not such an image, or its array cannot be opened.
    """
    path = Path(path)
    attributes = read_attributes(path)
    try:
        multiscale = attributes.get("ome", attributes)["multiscales"][0]
        axes, dataset = multiscale["axes"], multiscale["datasets"][0]
        names = "".join(axis["name"] for axis in axes)
        steps = [
            transform["scale"]
            for place in (dataset, multiscale)
            for transform in place.get("coordinateTransformations", ())
            if transform["type"] == "scale"
        ]
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{path} has no OME-Zarr image metadata (multiscales): give the image group"
        ) from error
    if not set("yx") <= set(names) <= set(AXES) or len(set(names)) != len(names):
        raise InputError(f"{path} has axes {names!r}: known are t, c, z, y, x, and y and x are needed")
    scale = dict(zip(names, np.prod([np.ones(len(names)), *steps], axis=0), strict=True))
    units = {axis["name"]: _MICROMETERS.get(axis.get("unit", "")) for axis in axes}
    spacing = np.array([scale.get(axis, 1.0) * (units.get(axis) or 1.0) for axis in "zyx"])
    return Image(
        _five_axes(path / dataset["path"], names, context), spacing, None not in map(units.get, "yx")
    )


def _five_axes(path: Path, names: str, context: ts.Context | None) -> ts.TensorStore:
    driver = "zarr3" if (path / "zarr.json").is_file() else "zarr"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(path.resolve())}}
    try:
        array = ts.open(spec, context=context or ts.Context(), read=True).result()
    except (ValueError, NotImplementedError, OSError) as error:
        raise InputError(f"cannot open the array {path}: {' '.join(str(error).split())}") from error
    if array.ndim != len(names):
        raise InputError(f"{path} has {array.ndim} dimensions, its metadata {len(names)} axes ({names})")
    array = array[ts.d[:].label[tuple(names)]]
    for axis in AXES:
        if axis not in names:
            array = array[ts.newaxis][ts.d[0].label[axis]]
    return array[ts.d[tuple(AXES)].transpose[:]][ts.d[:].label[("",) * 5]]


def _spec(path: Path) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(Path(path).resolve())}}
