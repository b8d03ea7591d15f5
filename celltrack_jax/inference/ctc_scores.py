"""Scores of a Cell Tracking Challenge result against its truth, in one pass over the masks.

Each mask is read once: the rules (`io.ctc_rules`) and the overlaps (`metrics.ctc`) come from the same array.
Frames are read in threads, a few at a time, and only labels and overlap counts are kept of them.

Shapes: Z Y X space.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io.ctc import Segmentation, scan, scan_segmentation
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
    within,
)
from celltrack_jax.io.threads import mapped
from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.ctc import Overlap, ctc_measures, overlap


class Scores(NamedTuple):
    """What `score_result` finds."""

    measures: dict[str, Any]
    """By the names of `metrics.ctc.ctc_measures`; None where undefined, empty where there are problems."""
    problems: list[Problem]
    """Breaches of the rules, for which nothing is scored."""
    notes: list[str]
    """Why measures are left out although nothing is wrong with the result."""


class _Folders(NamedTuple):
    """The files of both sides by frame."""

    truth: Path
    result: Path
    masks: dict[int, Path]
    markers: dict[int, Path]
    segmentation: Segmentation
    seg_slices: str
    window: tuple[int, int] | None
    """First and last frame that are scored, None for all."""


_NO_END = 1 << 30
"""Behind the last frame of any movie."""


class _Frame(NamedTuple):
    """What is kept of a frame."""

    result: list[Mask]
    markers: list[Mask]
    segmentation: list[Mask]
    tra: list[Overlap]
    seg: list[Overlap]
    problems: list[Problem]


def score_result(truth: Path, result: Path, seg_slices: str = "object", wanted: str = "") -> Scores:
    """Validates and scores a result folder.

    Frames that the truth's track file tells of but its TRA folder lacks make links undefined: then only DET
    and SEG are scored, on the frames there are, and a note says so.

    Args:
      truth: a _GT folder that holds TRA or SEG or both.
      result: a _RES folder; one without a track file is scored for SEG and DET only.
      seg_slices: where planes of a 3D frame are annotated (man_seg_TTT_ZZZ.tif): "object" takes all annotated
        planes of a frame as one volume, so that an object counts once; "slice" takes each plane as an image
        of its own, so that an object counts once per plane.
      wanted: frames "first:end", without the end, that are scored; empty for all. Masks of others are not looked at, and
        tracks of both sides are cut (`ctc_subset.cut`).

    Raises:
      InputError: a folder is missing, or holds no truth, or none of the frames that are wanted.
    """
    truth, result = Path(truth), Path(result)
    if not truth.is_dir():
        raise InputError(f"{truth} is not a folder: give the _GT folder that holds TRA or SEG")
    tra = truth / "TRA"
    markers, duplicates = scan(tra, "man_track") if tra.is_dir() else ({}, [])
    segmentation, twice = scan_segmentation(truth / "SEG")
    if not markers and not segmentation:
        raise InputError(f"{truth} has neither TRA/man_track*.tif nor SEG/man_seg*.tif: give a _GT folder")
    masks, also = scan(result, "mask")
    window = _window(truth, sorted(markers.keys() | segmentation.keys()), wanted)
    markers, duplicates = _inside(window, markers, duplicates)
    segmentation, twice = _inside(window, segmentation, twice)
    masks, also = _inside(window, masks, also)
    folders = _Folders(truth, result, masks, markers, segmentation, seg_slices, window)
    frames = list(mapped(lambda frame: _read_frame(folders, frame), _all_frames(folders)))

    firsts = {frame: entries[0][1] for frame, entries in segmentation.items()}
    problems = check_duplicates(markers, duplicates) + check_duplicates(firsts, twice)
    problems += check_duplicates(masks, also) + [problem for frame in frames for problem in frame.problems]
    lineage, breaches, gaps = _check_truth(folders, frames)
    problems += breaches
    required = set(markers) | set(segmentation)
    problems += check_result(
        result,
        masks,
        [mask for frame in frames for mask in frame.result],
        required,
        _required_shape(frames),
        more_frames=bool(gaps) or not markers,
        window=window,
    )
    notes = [
        f"{gap}; links cannot be scored, DET and SEG are those of the frames there are" for gap in gaps[:1]
    ]
    if window is not None:
        notes.append(f"frames {min(required)} to {max(required)} are scored")
    if problems:
        return Scores({}, problems, notes)
    track_file = result / "res_track.txt"
    linked = lineage is not None and not gaps and track_file.is_file()
    measures = ctc_measures(
        [pair for frame in frames for pair in frame.tra] if markers else None,
        lineage,
        within(check_track_file(track_file)[0], window).lineage if linked else None,
        [pair for frame in frames for pair in frame.seg] if segmentation else None,
    )
    return Scores(measures, [], notes)


def _window(truth: Path, frames: list[int], wanted: str) -> tuple[int, int] | None:
    """Returns the first and the last frame that are wanted, None for all; some of the truth's have to be among them."""
    if not wanted:
        return None
    from celltrack_jax.inference.movies import chosen_frames  # it loads tensorstore

    chosen_frames(frames, wanted, True, truth)
    first, _, end = wanted.partition(":")
    # As wide as it was asked for: a frame at its ends that tracks tell of and no file shows is missed.
    return int(first or 0), int(end or _NO_END) - 1


def _inside(
    window: tuple[int, int] | None, files: dict[int, Any], duplicates: list[tuple[int, Path]]
) -> tuple[dict[int, Any], list[tuple[int, Path]]]:
    """Keeps the files of frames in the window; args as `ctc.scan` returns them."""
    if window is None:
        return files, duplicates
    frames = range(window[0], window[1] + 1)
    return {frame: file for frame, file in files.items() if frame in frames}, [
        each for each in duplicates if each[0] in frames
    ]


def _all_frames(folders: _Folders) -> list[int]:
    return sorted(folders.masks.keys() | folders.markers.keys() | folders.segmentation.keys())


def _read_frame(folders: _Folders, number: int) -> _Frame:
    frame = _Frame([], [], [], [], [], [])

    def read(path: Path, plane: int | None, kept: list[Mask]) -> np.ndarray | None:
        image, problems = read_mask(path, number)
        frame.problems.extend(problems)
        if image is not None:
            kept.append(Mask(path, number, plane, image.shape, image.dtype, present_labels(image)))
        return image

    result = read(folders.masks[number], None, frame.result) if number in folders.masks else None
    if number in folders.markers:
        reference = read(folders.markers[number], None, frame.markers)
        if reference is not None and result is not None and reference.shape == result.shape:
            frame.tra.append(overlap(reference, result, number))
    pairs = []
    for plane, path in folders.segmentation.get(number, []):
        reference = read(path, plane, frame.segmentation)
        computed = _plane(result, plane)
        # Other shapes are found by the rules, once all masks are known.
        if reference is not None and computed is not None and reference.shape == computed.shape:
            pairs.append((reference, computed))
    if len(pairs) > 1 and folders.seg_slices == "object" and len({pair[0].shape for pair in pairs}) == 1:
        pairs = [(np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))]
    frame.seg.extend(overlap(reference, computed, number) for reference, computed in pairs)
    return frame


def _plane(image: np.ndarray | None, plane: int | None) -> np.ndarray | None:
    if image is None or plane is None:
        return image
    planes = image.reshape(-1, *image.shape[-2:])
    return planes[plane] if plane < len(planes) else None


def _check_truth(
    folders: _Folders, frames: list[_Frame]
) -> tuple[Lineage | None, list[Problem], list[Problem]]:
    """Returns the truth's tracks, breaches of the rules, and the frames it lacks."""
    markers = [mask for frame in frames for mask in frame.markers]
    segmentation = [mask for frame in frames for mask in frame.segmentation]
    problems = check_segmentation(segmentation, common_shape(markers))
    if not folders.markers:
        return None, problems, []
    tra = folders.truth / "TRA"
    tracks, found = check_track_file(tra / "man_track.txt")
    tracks = within(tracks, folders.window)
    problems += found + check_uniform(markers) + check_labels(markers, tracks)
    gaps = check_frames(tra, "man_track", folders.markers) + check_span(tracks, folders.markers)
    return tracks.lineage, problems, gaps


def _required_shape(frames: list[_Frame]) -> tuple[int, ...] | None:
    """Shape that the truth asks of the result; where only planes are annotated, any depth that holds them."""
    whole = [mask for frame in frames for mask in frame.markers]
    segmentation = [mask for frame in frames for mask in frame.segmentation]
    whole += [mask for mask in segmentation if mask.plane is None]
    planes = [mask for mask in segmentation if mask.plane is not None]
    computed = common_shape([mask for frame in frames for mask in frame.result])
    if whole or not planes or computed is None:
        return common_shape(whole)
    depth = max([*computed[:-2], 1 + max(mask.plane or 0 for mask in planes)])
    shape = common_shape(planes)
    return shape if shape is None or depth == 1 else (depth, *shape)
