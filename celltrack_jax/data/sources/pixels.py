"""Images and masks from files, as `Frame` has them. Shapes: C channels, Z Y X space."""

from pathlib import Path

import numpy as np

from celltrack_jax.data.annotation import MAX_LABEL
from celltrack_jax.errors import InputError
from celltrack_jax.io.png import read_png
from celltrack_jax.io.tif import read_tif


def read_image(path: Path, frame: int | None, colour_tolerance: int = 0) -> np.ndarray:
    """Reads a frame of grey values, tif or PNG, or an image that is no frame (None): (C=1, Z, Y, X)."""
    read = read_png if path.suffix.lower() == ".png" else read_tif
    image = read(path, frame, colour_tolerance=colour_tolerance)
    if image.dtype.kind not in "biuf":
        where = str(path) if frame is None else f"{path} (frame {frame})"
        raise InputError(f"{where} holds {image.dtype}: write grey values as integers or floats")
    image = image.astype(np.uint8) if image.dtype == bool else image
    # What the file's byte order was does not matter any more.
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    return image.reshape(1, *(1,) * (3 - image.ndim), *image.shape)


def read_masks(entries: list[tuple[int | None, Path]], frame: int, shape: tuple[int, ...]) -> np.ndarray:
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
