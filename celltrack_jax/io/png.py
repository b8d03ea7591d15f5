"""PNG files of one frame: (Y, X) grey values of 8 or 16 bits.

Grey values that were stored as colours (R, G and B alike) are grey values.
"""

import struct
from pathlib import Path

import imagecodecs
import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io.tif import grey

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ALPHA = (2, 4)
"""Samples per pixel of which the last one is how opaque it is."""


def read_png(path: Path, frame: int | None = None, *, colour_tolerance: int = 0) -> np.ndarray:
    """Reads a PNG.

    Args:
      path: of the file.
      frame: frame number that error messages name.
      colour_tolerance: counts by which R, G and B may differ to be grey values still: R then.

    Returns:
      (Y, X) uint8 or uint16; images of 1, 2 or 4 bits are stretched to 8.

    Raises:
      InputError: the file is missing, damaged or no PNG, has colours, or is transparent in part.
    """
    where = f"{path} (frame {frame})" if frame is not None else str(path)
    data = _read(path, where)
    try:
        image = imagecodecs.png_decode(data)
    except Exception as error:  # the codec raises what it likes
        raise InputError(f"cannot read {where}: {error}; write or copy the file again") from error
    if image.ndim == 2:
        return image
    if image.shape[-1] in _ALPHA:
        opaque = image[..., -1]
        if (opaque != opaque.flat[0]).any():
            raise InputError(f"{where} is transparent in part: write grey values without an alpha channel")
        image = image[..., :-1]
    return image[..., 0] if image.shape[-1] == 1 else grey(image, 2, colour_tolerance, where)


def png_shape(path: Path) -> tuple[int, int]:
    """Returns Y, X as the file's header gives them; errors as of `read_png`."""
    data = _read(path, str(path), 24)
    if len(data) < 24 or not data.startswith(_SIGNATURE):
        raise InputError(f"cannot read {path}: it is no PNG; write or copy the file again")
    width, height = struct.unpack(">II", data[16:24])
    return height, width


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes (Y, X) uint8 or uint16."""
    path.write_bytes(imagecodecs.png_encode(image))


def _read(path: Path, where: str, size: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except FileNotFoundError:
        raise InputError(f"{where} does not exist: copy the file there or correct the path") from None
    except OSError as error:
        raise InputError(f"cannot read {where}: {error.strerror}; copy the file again") from error
