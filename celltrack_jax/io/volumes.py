"""Volumes in HDF5 files, one channel of one time point each, as ilastik and the training tools of its circle write them.

Shapes: Z Y X space.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from celltrack_jax.errors import InputError

DATASET = "exported_data"
"""Name of the volume inside the file."""
SUFFIXES = (".h5", ".hdf5")


def frame_files(folder: Path) -> dict[int, Path]:
    """Lists the volumes of a folder by frame number, the last digits of their names, ascending.

    Raises:
      InputError: a name has no number, or two have the same one.
    """
    found: dict[int, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
        digits = re.findall(r"\d+", path.stem)
        if not digits:
            raise InputError(f"{path} has no frame number: name volumes t000.h5, t001.h5, ...")
        other = found.setdefault(int(digits[-1]), path)
        if other != path:
            raise InputError(
                f"{path} and {other.name} are both of frame {int(digits[-1])}, the last number of "
                "their names: move one away, or rename them to t000.h5, t001.h5, ..."
            )
    return dict(sorted(found.items()))


def read_volume(path: Path, frame: int) -> np.ndarray:
    """Reads a volume.

    Args:
      path: of the file. Its data set may have axes of length 1 before z and behind x.
      frame: of error messages.

    Returns:
      (Z, Y, X) in the file's dtype; bool as uint8.

    Raises:
      InputError: the file is missing or damaged, or what it holds is not one channel of grey values.
    """
    where = f"{path} (frame {frame})"
    try:
        with h5py.File(path, "r") as file:
            if DATASET not in file:
                raise InputError(
                    f"{where} has no data set {DATASET!r}, but {sorted(file)}: export the volume under that name"
                )
            data = file[DATASET]
            shape = data.shape if isinstance(data, h5py.Dataset) else ()
            volume = np.asarray(data) if len(shape) > 2 else None
    except InputError:
        raise
    except (OSError, KeyError, ValueError) as error:
        reason = "it does not exist" if not path.exists() else " ".join(str(error).split())
        raise InputError(f"cannot read {where}: {reason}; copy the file again") from error
    if volume is None or _without_ones(shape) is None:
        raise InputError(
            f"{where}: {DATASET} has shape {shape}; write (Z, Y, X) or (Z, Y, X, 1), a file per channel"
        )
    if volume.dtype.kind not in "biuf":
        raise InputError(f"{where} holds {volume.dtype}: write grey values as integers or floats")
    volume = volume.astype(np.uint8) if volume.dtype == bool else volume
    return volume.reshape(_without_ones(shape))


def write_volume(path: Path, volume: np.ndarray) -> None:
    """Writes a (Z, Y, X) volume as (Z, Y, X, 1), compressed."""
    with h5py.File(path, "w") as file:
        file.create_dataset(DATASET, data=volume[..., None], compression="gzip", compression_opts=1)


def _without_ones(shape: Sequence[int]) -> tuple[int, ...] | None:
    """The shape as (Z, Y, X); None where it has more."""
    sizes = list(shape)
    while len(sizes) > 3 and 1 in (sizes[0], sizes[-1]):
        sizes.pop(-1 if sizes[-1] == 1 else 0)
    return tuple(sizes) if len(sizes) == 3 else None
