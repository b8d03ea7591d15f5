"""Tif files of one frame: (Y, X) images and (Z, Y, X) stacks of grey values, in any compression.

Grey values that were stored as colours (R, G and B alike) are grey values.
"""

import logging
import struct
from pathlib import Path

import numpy as np
import tifffile

from celltrack_jax.errors import InputError

# What tifffile would log about a broken file (and then return a part of it), read_tif raises.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
_COLOURS = 3
_NARROWEST = 16
"""Colours written as if they were planes, (Y, X, 3), look like Y planes of three columns, which no microscope makes."""

_UNFORESEEN = (struct.error, ArithmeticError, LookupError, TypeError, AttributeError)
"""Errors of the library that stumbles over a damaged file; their messages tell nothing of it."""


def read_tif(path: Path, frame: int | None = None, *, colour_tolerance: int = 0) -> np.ndarray:
    """Reads all of a tif or fails: tifffile alone returns the readable part of some truncated files.

    Args:
      path: file with pages of one shape and dtype; ImageJ stacks included.
      frame: frame number that error messages name.
      colour_tolerance: counts by which R, G and B may differ to be grey values still: R then.

    Returns:
      (Y, X) or (Z, Y, X) in the file's own dtype; a stack of a single plane comes as (Y, X).

    Raises:
      InputError: the file is missing, truncated, in an unknown compression, or has colours, several channels
        or pages of different shapes.
    """
    where = f"{path} (frame {frame})" if frame is not None else str(path)
    try:
        # is_ome=False: OME metadata may name pages of other files; here one file is one frame.
        with tifffile.TiffFile(path, is_ome=False) as tif:
            image, colours = _read_pages(tif, path.stat().st_size)
    except FileNotFoundError:
        raise InputError(f"{where} does not exist: copy the file there or correct the path") from None
    except Exception as error:  # a damaged file makes tifffile and its codecs raise anything
        raise InputError(
            f"cannot read {where}: {_reason(error, path)}; write or copy the file again"
        ) from error
    image = grey(image, colours, colour_tolerance, where)
    if image.ndim > 2:
        image = image.reshape(*(n for n in image.shape[:-2] if n > 1), *image.shape[-2:])
    if image.ndim not in (2, 3):
        raise InputError(
            f"{where} has shape {image.shape}: write one channel as (Y, X) or (Z, Y, X), one file per frame"
        )
    return image


def write_tif(path: Path, image: np.ndarray) -> None:
    """Writes a (Y, X) or (Z, Y, X) image as pages in deflate compression, without metadata."""
    tifffile.imwrite(path, image, compression="zlib", photometric="minisblack", metadata=None)


def grey(image: np.ndarray, colours: int | None, tolerance: int, where: str) -> np.ndarray:
    """Takes one of the colours, where they are alike.

    Args:
      image: pixels.
      colours: axis along which the colours lie, None for none.
      tolerance: counts by which they may differ.
      where: file, for messages.

    Raises:
      InputError: they differ.
    """
    if image.ndim == 3 and image.shape[-1] == _COLOURS and min(image.shape[:2]) >= _NARROWEST:
        colours = 2
    if colours is None:
        return image
    spread = float((image.max(colours).astype(np.float64) - image.min(colours)).max(initial=0))
    if spread > tolerance:
        raise InputError(
            f"{where} has colours: red, green and blue differ by up to {spread:g} counts; convert it to grey values"
        )
    return np.ascontiguousarray(image.take(0, colours))


def _reason(error: Exception, path: Path) -> str:
    """What is wrong with a file; of errors that nobody foresaw, what they mean."""
    if path.stat().st_size == 0:
        return "it is empty"
    if isinstance(error, _UNFORESEEN):
        return "it is damaged, probably truncated"
    return " ".join(str(error).split())


def _read_pages(tif: tifffile.TiffFile, size: int) -> tuple[np.ndarray, int | None]:
    """Returns the pixels, and their axis of colours where they have one."""
    pages = list(tif.pages)
    if _next_page_offset(tif) != 0:
        raise ValueError(f"truncated after {len(pages)} pages")
    first = pages[0].aspage()
    if first.samplesperpixel not in (1, _COLOURS):
        raise ValueError(f"{first.samplesperpixel} samples per pixel (colours): convert it to one")
    for index, page in enumerate(pages):
        if page.shape != first.shape or page.dtype != first.dtype:
            raise ValueError(
                f"page {index} is {page.dtype} {page.shape}, page 0 is {first.dtype} {first.shape}"
            )
        if len(page.dataoffsets) != len(page.databytecounts):
            raise ValueError(f"truncated: page {index} does not say where all of its data are")
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if offset == 0 or count == 0 or offset + count > size:
                raise ValueError(f"truncated: page {index} has no data at byte {offset + count} of {size}")
    # One worker: callers read several frames at a time, which measured faster than strips in parallel.
    if len(pages) == 1 and not (tif.is_imagej or tif.is_shaped):
        whole = first
    elif len(tif.series) != 1:
        raise ValueError(f"{len(tif.series)} images where one is expected")
    else:
        whole = tif.series[0]
    return whole.asarray(maxworkers=1), whole.axes.index("S") if "S" in whole.axes else None


def _next_page_offset(tif: tifffile.TiffFile) -> int:
    """Offset of the page after the last that tifffile found; 0 where the chain of pages is whole."""
    form, handle = tif.tiff, tif.filehandle
    handle.seek(tif.pages[-1].offset)
    tags = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))[0]
    handle.seek(tags * form.tagsize, 1)
    return struct.unpack(form.offsetformat, handle.read(form.offsetsize))[0]
