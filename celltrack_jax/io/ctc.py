"""Cell Tracking Challenge folders: images, annotations (_GT, _ST) and results (_RES).

    01/t000.tif ...                  images
    01_GT/TRA/man_track000.tif ...   markers, and man_track.txt, lines "L B E P": label, begin, end, parent
    01_GT/SEG/man_seg000.tif ...     gold masks of some frames; in 3D also planes, man_seg_000_005.tif
    01_ST/SEG/man_seg000.tif ...     silver masks
    01_RES/mask000.tif ...           a result, and res_track.txt

Frame numbers may have any number of digits. Shapes: Z Y X space, K tracks.
"""

import re
import shutil
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io.files import explained, replace_text
from celltrack_jax.io.tif import read_tif, write_tif
from celltrack_jax.lineage import Lineage

MAX_LABEL = 65535
"""CTC masks are 16-bit unsigned."""
_ELSEWHERE = "or choose another folder"

Segmentation = dict[int, list[tuple[int | None, Path]]]
"""By frame: (z, file) in the order of z for annotated planes, or one (None, file) for the whole frame."""


class Sequence(NamedTuple):
    """The files of one sequence of a data set; what does not exist is empty."""

    name: str
    images: dict[int, Path]
    markers: dict[int, Path]
    """Files of the TRA folder by frame."""
    segmentation: Segmentation
    tracks: Lineage | None
    silver: Segmentation


def find_sequences(dataset: Path, *, need_images: bool = True) -> list[str]:
    """Lists the sequences of a data set: "01", "02", ..., folders of two or more digits that hold t*.tif.

    Args:
      dataset: the data set's folder.
      need_images: False lists sequences too of which there is only an annotation folder (`01_GT`).
    """
    dataset = Path(dataset)
    if not dataset.is_dir():
        raise InputError(f"{dataset} is not a folder: give the data set folder that holds 01, 01_GT, ...")
    names = {path.name for path in dataset.iterdir() if path.is_dir()}
    found = {name for name in names if re.fullmatch(r"\d\d+", name) and scan(dataset / name, "t")[0]}
    if not need_images:
        found |= {name.removesuffix("_GT") for name in names if re.fullmatch(r"\d\d+_GT", name)}
    return sorted(found)


def open_sequence(dataset: Path, name: str) -> Sequence:
    """Lists a sequence's files, and reads its track file; reads no image.

    Raises:
      InputError: there is neither an image nor an annotation folder, a frame has two files, or the track file
        is malformed.
    """
    images, gold, silver = (Path(dataset) / (name + suffix) for suffix in ("", "_GT", "_ST"))
    if not images.is_dir() and not gold.is_dir():
        raise InputError(f"{dataset} has neither a folder {images.name} nor {gold.name}: check the name")
    track_file = gold / "TRA" / "man_track.txt"
    return Sequence(
        name=name,
        images=frame_files(images, "t") if images.is_dir() else {},
        markers=frame_files(gold / "TRA", "man_track") if (gold / "TRA").is_dir() else {},
        segmentation=segmentation_files(gold / "SEG"),
        tracks=read_tracks(track_file) if track_file.is_file() else None,
        silver=segmentation_files(silver / "SEG"),
    )


def read_result(folder: Path) -> tuple[dict[int, Path], Lineage | None]:
    """Lists a result's masks by frame and reads its track file, None where it has none."""
    track_file = Path(folder) / "res_track.txt"
    masks = frame_files(folder, "mask")
    return masks, read_tracks(track_file) if track_file.is_file() else None


def frame_files(folder: Path, stem: str) -> dict[int, Path]:
    """Lists the files <stem><digits>.tif of a folder by frame number, in order.

    Args:
      folder: an existing folder.
      stem: "t", "mask", "man_track" or "man_seg".

    Raises:
      InputError: no such folder, or one frame has two files, as in mask001.tif and mask0001.tif.
    """
    files, duplicates = scan(folder, stem)
    _refuse_duplicates(files, duplicates)
    return files


def segmentation_files(folder: Path) -> Segmentation:
    """Lists the man_seg files of a SEG folder; empty where there is no such folder.

    Raises:
      InputError: a frame or a plane has two files, or a frame has both planes and a whole mask.
    """
    files, duplicates = scan_segmentation(folder)
    _refuse_duplicates({frame: entries[0][1] for frame, entries in files.items()}, duplicates)
    return files


def _refuse_duplicates(files: dict[int, Path], duplicates: list[tuple[int, Path]]) -> None:
    for frame, path in duplicates:
        raise InputError(f"{path}: frame {frame} is also in {files[frame].name}; keep one of the two")


def scan(folder: Path, stem: str) -> tuple[dict[int, Path], list[tuple[int, Path]]]:
    """Lists a folder's files by frame, and the files of frames that were there already."""
    files, duplicates = {}, []
    for path, (frame,) in _numbered(folder, rf"{stem}(\d+)\.tiff?"):
        if frame in files:
            duplicates.append((frame, path))
        else:
            files[frame] = path
    return files, duplicates


def scan_segmentation(folder: Path) -> tuple[Segmentation, list[tuple[int, Path]]]:
    """Lists a SEG folder like `segmentation_files`, and the files that say a thing again."""
    folder = Path(folder)
    if not folder.is_dir():
        return {}, []
    whole, duplicates = scan(folder, "man_seg")
    files: Segmentation = {frame: [(None, path)] for frame, path in whole.items()}
    for path, (frame, z) in _numbered(folder, r"man_seg_(\d+)_(\d+)\.tiff?"):
        entries = files.setdefault(frame, [])
        if any(known is None or known == z for known, _ in entries):
            duplicates.append((frame, path))
        else:
            entries.append((z, path))
    return dict(sorted(files.items())), duplicates


def _numbered(folder: Path, pattern: str) -> list[tuple[Path, tuple[int, ...]]]:
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: check the path")
    matches = [(re.fullmatch(pattern, path.name, re.IGNORECASE), path) for path in folder.iterdir()]
    found = [(path, tuple(int(number) for number in match.groups())) for match, path in matches if match]
    return sorted(found, key=lambda item: (item[1], item[0].name))


def read_image(path: Path) -> np.ndarray:
    """Reads an image or mask, (Y, X) or (Z, Y, X) in the file's own dtype; see `tif.read_tif`."""
    path = Path(path)
    number = re.search(r"\d+", path.stem)
    return read_tif(path, int(number.group()) if number else None)


def read_tracks(path: Path) -> Lineage:
    """Reads a track file, lines of "L B E P"; an empty file is a lineage without tracks.

    Labels that occur twice stay in, for the validator to list.

    Raises:
      InputError: the file cannot be read, or a line is not four integers.
    """
    rows, malformed = parse_tracks(path)
    for line, _, text in malformed:
        raise InputError(f"{path}, line {line}: {text}")
    return Lineage.from_rows([row for _, row in rows])


def parse_tracks(path: Path) -> tuple[list[tuple[int, list[int]]], list[tuple[int, int | None, str]]]:
    """Reads a track file as far as it goes.

    Returns:
      (line number, [label, begin, end, parent]) of the good lines, and of the others (line number, label where
      the first word is one, what is wrong).

    Raises:
      InputError: the file cannot be read as text.
    """
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise InputError(f"cannot read {path}: {reason}; write lines of four integers, L B E P") from error
    rows, malformed = [], []
    for line, text in enumerate(lines, 1):
        words = text.split()
        # 18 digits stay within int64.
        numbers = [int(word) for word in words if re.fullmatch(r"[+-]?\d{1,18}", word, re.ASCII)]
        if len(words) == len(numbers) == 4:
            rows.append((line, numbers))
        elif words:
            shown = text.strip() if len(text) < 60 else text.strip()[:60] + "..."
            label = numbers[0] if numbers and words[0] == str(numbers[0]) else None
            malformed.append(
                (line, label, f"{shown!r} is not four integers: write label, begin, end, parent")
            )
    return rows, malformed


def write_tracks(path: Path, lineage: Lineage) -> None:
    """Writes a track file, lines of "L B E P" in the order of labels; a crash leaves the old file or none.

    Raises:
      InputError: the disk is full, or refuses.
    """
    text = "".join(f"{' '.join(map(str, row))}\n" for row in lineage.rows().tolist())
    replace_text(Path(path), text, _ELSEWHERE)


class ResultWriter:
    """Writes a result folder frame by frame; it appears whole at `finish`, or not at all.

    Masks are collected in `<folder>.partial`. `finish` puts them in the place of the masks and of the track
    file that the folder may hold from before; leaving the `with` block without it removes them.

        with ResultWriter(folder) as writer:
            writer.write(0, labels)
            writer.finish(lineage)
    """

    def __init__(self, folder: Path, digits: int = 3):
        """Names the result folder; digits: least number of digits of frame numbers in file names."""
        self.folder = Path(folder)
        self.digits = digits
        self._partial = self.folder.with_name(self.folder.name + ".partial")
        self._files: dict[int, Path] = {}

    def __enter__(self) -> Self:
        shutil.rmtree(self._partial, ignore_errors=True)
        with explained(self._partial, _ELSEWHERE):
            self._partial.mkdir(parents=True)
        return self

    def __exit__(self, *_) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)

    def write(self, frame: int, labels: np.ndarray) -> None:
        """Writes the mask of a frame.

        Args:
          frame: frame number, each once, in any order.
          labels: (Y, X) or (Z, Y, X) integers, 0 background.

        Raises:
          InputError: a label that 16 bits cannot hold, or the disk is full.
        """
        if frame in self._files:
            raise ValueError(f"frame {frame} is written twice")
        if labels.dtype.kind not in "iu":
            raise TypeError(f"labels must be integers, not {labels.dtype}")
        for label in (labels.min(initial=0), labels.max(initial=0)):
            if not 0 <= label <= MAX_LABEL:
                raise InputError(
                    f"{self.folder}, frame {frame}: label {label} does not fit into a CTC mask (0 to "
                    f"{MAX_LABEL}): number the tracks from 1, or split the movie into shorter sequences"
                )
        path = self._partial / f"{frame}.tif"
        with explained(self.folder / f"mask{frame:0{self.digits}d}.tif", _ELSEWHERE):
            write_tif(path, labels.astype(np.uint16, copy=False))
        self._files[frame] = path

    def finish(self, lineage: Lineage | None) -> None:
        """Puts the result in place.

        Args:
          lineage: tracks whose labels are those of the masks; None for a segmentation without a track file.
        """
        digits = max([self.digits, *(len(str(frame)) for frame in self._files)])
        with explained(self.folder, _ELSEWHERE):
            for frame, path in self._files.items():
                path.rename(self._partial / f"mask{frame:0{digits}d}.tif")
            if lineage is not None:
                write_tracks(self._partial / "res_track.txt", lineage)
            if not self.folder.exists():
                self._partial.rename(self.folder)
                return
            for path, _ in _numbered(self.folder, r"mask(\d+)\.tiff?"):
                path.unlink()
            (self.folder / "res_track.txt").unlink(missing_ok=True)
            for path in sorted(self._partial.iterdir()):  # the track file last
                path.replace(self.folder / path.name)
