"""All rules of Cell Tracking Challenge folders at once: what tests hold written folders against."""

from collections.abc import Iterable
from pathlib import Path

from celltrack_jax.errors import InputError
from celltrack_jax.io.ctc import scan, scan_segmentation
from celltrack_jax.io.ctc_masks import present_labels, read_mask
from celltrack_jax.io.ctc_rules import (
    Mask,
    Problem,
    check_duplicates,
    check_frames,
    check_labels,
    check_result,
    check_segmentation,
    check_span,
    check_track_file,
    check_uniform,
    common_shape,
)


def validate_truth(folder: Path) -> list[Problem]:
    """Lists every problem of an annotation folder (_GT) with a TRA or SEG folder inside, or both.

    Raises:
      InputError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the folder that holds TRA or SEG")
    segmentation, twice = scan_segmentation(folder / "SEG")
    if not (folder / "TRA").is_dir() and not segmentation:
        return [
            Problem(str(folder), None, None, "there is no folder TRA, and no SEG/man_seg*.tif: give a _GT")
        ]
    problems, shape = [], None
    if (folder / "TRA").is_dir():
        files, duplicates = scan(folder / "TRA", "man_track")
        masks, problems = read_masks((frame, None, path) for frame, path in files.items())
        shape = common_shape(masks)
        tracks, found = check_track_file(folder / "TRA" / "man_track.txt")
        problems += check_duplicates(files, duplicates) + check_frames(folder / "TRA", "man_track", files)
        problems += check_uniform(masks) + found + check_span(tracks, files) + check_labels(masks, tracks)
    firsts = {frame: entries[0][1] for frame, entries in segmentation.items()}
    masks, found = read_masks((t, z, path) for t, entries in segmentation.items() for z, path in entries)
    return problems + check_duplicates(firsts, twice) + found + check_segmentation(masks, shape)


def validate_result(
    folder: Path, frames: Iterable[int] | None = None, shape: tuple[int, ...] | None = None
) -> list[Problem]:
    """Lists every problem of a result folder (_RES); one without a track file is a segmentation only.

    Args:
      folder: holds mask*.tif and res_track.txt.
      frames: the truth's frames, which the result must have exactly; None asks for no gaps only.
      shape: the truth's shape; None asks for equal shapes only.

    Raises:
      InputError: there is no such folder.
    """
    folder = Path(folder)
    files, duplicates = scan(folder, "mask")
    masks, problems = read_masks((frame, None, path) for frame, path in files.items())
    required = None if frames is None else set(frames)
    problems += check_duplicates(files, duplicates)
    return problems + check_result(folder, files, masks, required, shape)


def read_masks(files: Iterable[tuple[int, int | None, Path]]) -> tuple[list[Mask], list[Problem]]:
    """Reads masks and keeps what the rules need.

    Args:
      files: (frame, plane or None for a whole frame, file).

    Returns:
      The masks that can be used, and the problems of the others.
    """
    masks, problems = [], []
    for frame, plane, path in files:
        image, found = read_mask(path, frame)
        problems += found
        if image is not None:
            masks.append(Mask(path, frame, plane, image.shape, image.dtype, present_labels(image)))
    return masks, problems
