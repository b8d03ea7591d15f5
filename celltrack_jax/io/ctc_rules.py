"""The rules of Cell Tracking Challenge folders, each a function that lists all breaches of it.

They work on what is known after the masks have been read (`Mask`, `Tracks`): `inference.ctc_scores` and
`data.sources` apply them to files that they read once, for other reasons.

Shapes: Z Y X space, K labels.
"""

from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io.ctc import MAX_LABEL, parse_tracks
from celltrack_jax.io.ctc_subset import cut
from celltrack_jax.lineage import Lineage


class Problem(NamedTuple):
    """One breach of the rules; str() is one line."""

    file: str
    frame: int | None
    label: int | None
    text: str

    def __str__(self) -> str:
        frame = f", frame {self.frame}" if self.frame is not None else ""
        label = f", label {self.label}" if self.label is not None else ""
        return f"{self.file}{frame}{label}: {self.text}"


class Mask(NamedTuple):
    """What the rules need to know of a mask that could be read."""

    path: Path
    frame: int
    plane: int | None
    """z of a single plane, None for a whole frame."""
    shape: tuple[int, ...]
    dtype: np.dtype
    labels: np.ndarray
    """(K,) int64, sorted labels in the mask, without the background."""


class Tracks(NamedTuple):
    """A track file, as far as it could be read."""

    path: Path
    lineage: Lineage | None
    """None where the file could not be read at all."""
    unclear: set[int]
    """Labels whose lines are malformed or end before they begin: masks are not held against these."""


def check_result(
    folder: Path,
    files: dict[int, Path],
    masks: list[Mask],
    required: set[int] | None,
    shape: tuple[int, ...] | None,
    more_frames: bool = False,
    window: tuple[int, int] | None = None,
) -> list[Problem]:
    """Checks a result of which the masks have been read.

    Args:
      folder: where the track file is, if there is one.
      files: all mask files by frame.
      masks: those that could be read.
      required: the truth's frames, or None.
      shape: the truth's shape, or None.
      more_frames: allow frames beyond the required ones.
      window: first and last frame that tracks are cut to, None for all.
    """
    problems = check_frames(folder, "mask", files, required, more_frames)
    problems += check_uniform(masks, shape) + check_largest_label(masks)
    if (folder / "res_track.txt").is_file():
        tracks, found = check_track_file(folder / "res_track.txt")
        tracks = within(tracks, window)
        problems += (
            found + check_span(tracks, files.keys() | (required or set())) + check_labels(masks, tracks)
        )
    return problems


def within(tracks: Tracks, window: tuple[int, int] | None) -> Tracks:
    """Cuts tracks to the frames from the first to the last of the window; None for all."""
    if window is None or tracks.lineage is None:
        return tracks
    return tracks._replace(lineage=cut(tracks.lineage, *window))


def check_duplicates(files: dict[int, Path], duplicates: list[tuple[int, Path]]) -> list[Problem]:
    """Lists files whose frame (or plane) another file has already; args as `ctc.scan` returns them."""
    return [
        Problem(str(path), frame, None, f"{files[frame].name} is the same frame: keep one of the two")
        for frame, path in duplicates
    ]


def check_frames(
    folder: Path,
    stem: str,
    files: dict[int, Path],
    required: set[int] | None = None,
    more_frames: bool = False,
) -> list[Problem]:
    """Lists missing frames, a run of them as one problem, and superfluous ones.

    Args:
      folder: where the files are.
      stem: begin of their names.
      files: by frame.
      required: frames there must be; None for all between the first and the last that there are.
      more_frames: allow frames beyond the required ones.
    """
    if not files and not required:
        return [Problem(str(folder), None, None, f"there is no {stem}*.tif: check the folder")]
    first_file = next(iter(files.values()), Path(f"{stem}000.tif"))
    digits = len(first_file.stem.removeprefix(stem))
    problems = []
    scored = ", or score those that there are by --frames=first:end" if stem == "mask" else ""
    for first, last in _missing_runs(files, required):
        path = folder / f"{stem}{first:0{digits}d}{first_file.suffix}"
        what = (
            "the file is missing" if first == last else f"the files of frames {first} to {last} are missing"
        )
        problems.append(Problem(str(path), first, None, f"{what}: every frame needs one{scored}"))
    if required is not None and not more_frames:
        text = f"the truth has no such frame (it has {min(required)} to {max(required)}): remove the file"
        problems += [
            Problem(str(files[frame]), frame, None, text) for frame in sorted(files.keys() - required)
        ]
    return problems


def _missing_runs(files: Collection[int], required: set[int] | None) -> list[tuple[int, int]]:
    """Runs (first, last) of frames without a file."""
    if required is None:
        frames = sorted(files)
        return [(a + 1, b - 1) for a, b in pairwise(frames) if b > a + 1]
    runs = []
    for frame in sorted(required - set(files)):
        if runs and runs[-1][1] == frame - 1:
            runs[-1] = (runs[-1][0], frame)
        else:
            runs.append((frame, frame))
    return runs


def common_shape(masks: list[Mask]) -> tuple[int, ...] | None:
    """Returns the shape that most masks have, None where there are none."""
    return _most_common([mask.shape for mask in masks])


def check_uniform(masks: list[Mask], shape: tuple[int, ...] | None = None) -> list[Problem]:
    """Lists masks whose dtype differs from most, and whose shape differs from the truth's, or else from most.

    Args:
      masks: whole frames of one folder.
      shape: the truth's shape, None where there is no truth to compare with.
    """
    dtype = _most_common([mask.dtype for mask in masks])
    wanted = shape or common_shape(masks)
    whose = "the truth has" if shape else "most masks have"
    wrong = [mask for mask in masks if mask.shape != wanted]
    if shape and len(wrong) == len(masks) > 1 and len({mask.shape for mask in wrong}) == 1:
        text = f"all masks have shape {wrong[0].shape} where the truth has {shape}"
        problems = [Problem(str(wrong[0].path.parent), None, None, text)]
    else:
        problems = [
            Problem(str(mask.path), mask.frame, None, f"the shape is {mask.shape} where {whose} {wanted}")
            for mask in wrong
        ]
    return problems + [
        Problem(str(mask.path), mask.frame, None, f"the mask is {mask.dtype} where most masks are {dtype}")
        for mask in masks
        if mask.dtype != dtype
    ]


def check_segmentation(masks: list[Mask], shape: tuple[int, ...] | None) -> list[Problem]:
    """Lists SEG masks of another shape or dtype than the rest, and planes that lie outside the volume.

    Args:
      masks: whole frames and planes.
      shape: of the TRA masks, None where there are none.
    """
    whole = [mask for mask in masks if mask.plane is None]
    planes = [mask for mask in masks if mask.plane is not None]
    shape = shape or common_shape(whole)
    problems = check_uniform(whole, shape) + check_uniform(planes, shape and shape[-2:])
    if shape is not None:
        depth = shape[0] if len(shape) == 3 else 1
        problems += [
            Problem(
                str(mask.path),
                mask.frame,
                None,
                f"plane {mask.plane} is outside the {depth} planes there are",
            )
            for mask in planes
            if mask.plane is not None and mask.plane >= depth
        ]
    return problems


def _most_common(values: list):
    return Counter(values).most_common(1)[0][0] if values else None


def check_largest_label(masks: list[Mask]) -> list[Problem]:
    """Lists labels that a 16-bit mask cannot hold."""
    return [
        Problem(
            str(mask.path), mask.frame, int(label), f"labels of a result go up to {MAX_LABEL}: number anew"
        )
        for mask in masks
        for label in mask.labels[mask.labels > MAX_LABEL]
    ]


def check_track_file(path: Path) -> tuple[Tracks, list[Problem]]:
    """Reads a track file and lists what is wrong within it."""
    try:
        rows, malformed = parse_tracks(path)
    except InputError as error:
        return Tracks(path, None, set()), [Problem(str(path), None, None, str(error))]
    problems = [Problem(str(path), None, label, f"line {line}: {text}") for line, label, text in malformed]
    unclear = {label for _, label, _ in malformed if label is not None}
    unclear |= {label for _, (label, begin, end, _) in rows if end < begin}
    lines, ends = {}, {label: end for _, (label, _, end, _) in rows}
    for line, (label, *_) in rows:
        lines.setdefault(label, []).append(line)
    for line, (label, begin, end, parent) in rows:
        texts = _row_problems(label, begin, end, parent, ends, unclear)
        problems += [Problem(str(path), None, label, f"line {line}: {text}") for text in texts]
    for label, found in lines.items():
        if len(found) > 1:
            text = f"lines {', '.join(map(str, found))} have the same label: give each track its own"
            problems.append(Problem(str(path), None, label, text))
    return Tracks(path, Lineage.from_rows([row for _, row in rows]), unclear), problems


def _row_problems(
    label: int, begin: int, end: int, parent: int, ends: dict[int, int], unclear: set[int]
) -> list[str]:
    texts = []
    if label < 1:
        texts.append("labels are positive")
    if begin < 0:
        texts.append(f"the track begins in frame {begin}: frame numbers are not negative")
    if end < begin:
        texts.append(f"the track ends in frame {end} before it begins in frame {begin}")
    if parent < 0:
        texts.append(f"the parent is {parent}: write 0 for none")
    elif parent == label:
        texts.append("the track is its own parent: write 0 for none")
    elif parent > 0 and parent not in ends:
        if parent not in unclear:
            texts.append(f"there is no track for the parent {parent}: add its line, or write 0 for none")
    elif parent > 0 and ends[parent] >= begin:
        texts.append(
            f"the parent {parent} lives to frame {ends[parent]}, but must end before its child begins in "
            f"frame {begin}"
        )
    return texts


def check_labels(masks: list[Mask], tracks: Tracks) -> list[Problem]:
    """Lists, frame by frame, labels in the mask that are not alive in the track file, and the reverse."""
    if tracks.lineage is None:
        return []
    label, begin, end, _ = tracks.lineage
    name, unclear = tracks.path.name, np.array(sorted(tracks.unclear), np.int64)
    problems = []
    for mask in masks:
        alive = label[(begin <= mask.frame) & (mask.frame <= end)]
        # Most frames are right; for these two comparisons are all there is to do.
        for other in np.setdiff1d(np.setxor1d(mask.labels, alive), unclear).tolist():
            lives = _lives(tracks.lineage, other)
            if other not in mask.labels:
                text = f"the mask lacks this label, {name} has it in {lives}"
            elif lives:
                text = f"the mask has this label, {name} has it only in {lives}"
            else:
                text = f"the mask has this label, {name} lacks it"
            problems.append(Problem(str(mask.path), mask.frame, other, text))
    return problems


def _lives(lineage: Lineage, label: int) -> str:
    rows = np.flatnonzero(lineage.label == label)
    return ", ".join(f"frames {lineage.begin[row]} to {lineage.end[row]}" for row in rows)


def check_span(tracks: Tracks, frames: Collection[int]) -> list[Problem]:
    """Lists tracks that begin before the first frame or end after the last."""
    if not frames or tracks.lineage is None:
        return []
    first, last = min(frames), max(frames)
    problems = []
    for label, begin, end, _ in tracks.lineage.rows().tolist():
        if label not in tracks.unclear and (begin < first or end > last):
            text = f"the track lives in frames {begin} to {end}, the masks are of frames {first} to {last}"
            frame = end if end > last else begin
            problems.append(Problem(str(tracks.path), frame, label, text))
    return problems
