"""Cells as boxes in a MOT-style table: frame, id, left, top, width, height, and four columns without a meaning here.

    1,7,103,42,21,18,1,-1,-1,-1      cell 7 in frame 1: columns 103 to 123, rows 42 to 59

There is no header; frames are numbered as in the file, from 1. Shapes: N cells of a movie.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io import files

MAX_ID = 2**31 - 1
_COLUMNS = ("frame", "id", "left", "top", "width", "height")
_NO_MEANING = "1,-1,-1,-1"
_SHOWN = 5
"""Cells that a note lists by name."""


class PointTable(NamedTuple):
    """Cells of a movie by the middle and the size of their boxes, sorted by (frame, label)."""

    frame: np.ndarray
    """(N,) int64, frame numbers as written."""
    label: np.ndarray
    """(N,) int64, positive; a cell keeps its id from frame to frame."""
    position: np.ndarray
    """(N, 3) float64, voxel index z, y, x; z is 0."""
    size: np.ndarray
    """(N, 3) float64, voxels z, y, x; z is 1."""


def read_mot(path: Path, shape: Sequence[int]) -> tuple[PointTable, list[str]]:
    """Reads a table of boxes.

    A cell lies at (top + height // 2, left + width // 2), `//` rounding down: whole numbers for whole boxes.

    Args:
      path: of the file; rows in any order, six columns or more.
      shape: (Y, X) of the frames. Cells whose middle lies outside are left out.

    Returns:
      The table, and notes for the user: which cells were left out.

    Raises:
      InputError: the file cannot be read, a value is not the number it has to be, or an id occurs twice in a frame.
    """
    path = Path(path)
    lines, table = _read_rows(path)
    frame, label = table[:, :2].astype(np.int64).T
    _refuse_duplicates(path, lines, frame, label)
    order = np.lexsort((label, frame))
    frame, label = frame[order], label[order]
    corner, extent = table[order][:, [3, 2]], table[order][:, [5, 4]]
    middle = corner + extent // 2
    inside = ((middle >= 0) & (middle <= np.asarray(shape) - 1)).all(axis=1)
    plane, one = np.zeros(len(order)), np.ones(len(order))
    cells = PointTable(frame, label, np.column_stack([plane, middle]), np.column_stack([one, extent]))
    notes = [] if inside.all() else [_left_out(path, shape, frame[~inside], label[~inside])]
    return PointTable(*(column[inside] for column in cells)), notes


def write_mot(path: Path, cells: PointTable) -> None:
    """Writes a table of boxes, of which `read_mot` finds these cells again; the file is there whole or as it was before.

    Raises:
      InputError: it cannot be written.
      ValueError: the cells do not lie in one plane.
    """
    if cells.position[:, 0].any():
        raise ValueError("a table of boxes has no z: these cells lie in several planes")
    extent = cells.size[:, 1:]
    corner = cells.position[:, 1:] - extent // 2
    whole = zip(cells.frame.tolist(), cells.label.tolist(), strict=True)
    boxes = np.column_stack([corner[:, ::-1], extent[:, ::-1]]).tolist()
    text = "".join(
        f"{frame},{label},{','.join(map(_number, box))},{_NO_MEANING}\n"
        for (frame, label), box in zip(whole, boxes, strict=True)
    )
    files.replace_text(Path(path), text, "or choose another folder")


def _read_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N,) numbers of the lines, and (N, 6) float64 columns of `_COLUMNS`."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise InputError(
            f"cannot read {path}: {reason}; write lines of {', '.join(_COLUMNS)}, separated by commas"
        ) from error
    numbers = [number for number, text in enumerate(lines, 1) if text.strip()]
    rows = [_parse(lines[number - 1], f"{path}, line {number}") for number in numbers]
    return np.array(numbers, np.int64), np.array(rows, np.float64).reshape(-1, len(_COLUMNS))


def _parse(text: str, where: str) -> list[float]:
    words = [word.strip() for word in text.split(",")]
    shown = text.strip() if len(text) < 60 else text.strip()[:60] + "..."
    if len(words) < len(_COLUMNS):
        raise InputError(
            f"{where}: {shown!r} has {len(words)} columns: write {', '.join(_COLUMNS)}, separated by commas"
        )
    row = [_finite(word) for word in words[: len(_COLUMNS)]]
    for name, word, value in zip(_COLUMNS, words, row, strict=False):
        if value is None:
            raise InputError(
                f"{where}: {name} {word!r} is not a number: the columns are {', '.join(_COLUMNS)}, without a header"
            )
        if name in ("frame", "id") and not (value.is_integer() and (name == "id") <= value <= MAX_ID):
            raise InputError(
                f"{where}: {name} {word!r} is not a whole number from {int(name == 'id')} to {MAX_ID}: number "
                f"{'cells from 1' if name == 'id' else 'frames as the images are'}"
            )
        if name in ("width", "height") and value < 0:
            raise InputError(f"{where}: {name} {word!r} is negative: give the box's corner at the top left")
    return [value for value in row if value is not None]


def _finite(word: str) -> float | None:
    """Reads a decimal number of ordinary size; None where the word is none, as 'nan', '1_0' and '' are."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", word, re.ASCII):
        return None
    return float(word)


def _refuse_duplicates(path: Path, lines: np.ndarray, frame: np.ndarray, label: np.ndarray) -> None:
    first: dict[tuple[int, int], int] = {}
    for line, *cell in zip(lines.tolist(), frame.tolist(), label.tolist(), strict=True):
        before = first.setdefault((cell[0], cell[1]), line)
        if before != line:
            raise InputError(
                f"{path}, line {line}: frame {cell[0]} has the id {cell[1]} already, in line {before}: keep one of the "
                "two, or give the other cell an id of its own"
            )


def _left_out(path: Path, shape: Sequence[int], frame: np.ndarray, label: np.ndarray) -> str:
    cells = [f"frame {t} id {name}" for t, name in zip(frame.tolist(), label.tolist(), strict=True)]
    listed = ", ".join(cells[:_SHOWN]) + (", ..." if len(cells) > _SHOWN else "")
    return (
        f"{path}: the middle of {len(cells)} boxes lies outside of the frame of {shape[0]} x {shape[1]}; left out: "
        f"{listed}"
    )


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
