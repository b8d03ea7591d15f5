"""Files of the Sartorius competition (Cell Instance Segmentation, 2021): images of one cell type each.

    train.csv                                           a row per cell: id, annotation, width, height, cell_type, ...
    train/0030fd0e6378.png                              images, 8 bit
    train_semi_supervised/shsy5y[diff]_E10-4_....png    images that nobody annotated
    submission.csv                                      a row per cell: id, predicted; no two cells overlap

Annotations are run lengths (`io.rle`). Shapes: Y X space.
"""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io import files, rle
from celltrack_jax.io.png import write_png

TABLE, IMAGES, UNLABELLED = "train.csv", "train", "train_semi_supervised"
TYPES = ("astro", "cort", "shsy5y")
_COLUMNS = ("id", "annotation", "width", "height", "cell_type")
_PREDICTED = ("id", "predicted")


class AnnotatedImage(NamedTuple):
    """What the table says of an image."""

    name: str
    """Its id."""
    shape: tuple[int, int]
    """Y, X."""
    cell_type: str
    annotations: tuple[str, ...]
    """Run lengths, in the order of the rows."""
    rows: tuple[int, ...]
    """Line of each in the file."""


def is_table(path: Path) -> bool:
    """Returns whether the first line of a file is that of a train.csv."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {"id", "annotation"} <= set(next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def read_table(path: Path) -> dict[str, AnnotatedImage]:
    """Reads train.csv; run lengths are looked at by `paint`.

    Returns:
      Images by id, ascending.

    Raises:
      InputError: the file is missing, lacks a column, or contradicts itself.
    """
    found: dict[str, AnnotatedImage] = {}
    for line, row in _rows(path, _COLUMNS):
        where = f"{path}, row {line} (image {row['id']})"
        shape = (_pixels(row, "height", where), _pixels(row, "width", where))
        if not row["cell_type"]:
            raise InputError(f"{where}: cell_type is empty: name the type, such as {TYPES[0]}")
        one = found.setdefault(row["id"], AnnotatedImage(row["id"], shape, row["cell_type"], (), ()))
        for what, here, there in (
            ("width and height", shape[::-1], one.shape[::-1]),
            ("cell_type", row["cell_type"], one.cell_type),
        ):
            if here != there:
                raise InputError(
                    f"{where}: {what} {here}, but {there} in row {one.rows[0]}: an image has one; correct the row"
                )
        found[one.name] = one._replace(
            annotations=(*one.annotations, row["annotation"]), rows=(*one.rows, line)
        )
    return dict(sorted(found.items()))


def paint(path: Path, image: AnnotatedImage) -> rle.Painted:
    """Paints the cells of an image of this table; errors as of `rle.paint`."""
    where = [f"{path}, row {row} (image {image.name})" for row in image.rows]
    return rle.paint(image.annotations, image.shape, where)


def find_images(folder: Path) -> dict[str, Path]:
    """Lists the PNGs of a folder by id, ascending; none where there is no such folder."""
    return {path.stem: path for path in sorted(folder.glob("*.png"))}


def type_of(name: str, known: Collection[str] = TYPES) -> str | None:
    """Returns the cell type that a file name begins with, before "[" or "_"; None where it is not a known one."""
    word = name.split("[", maxsplit=1)[0].split("_", maxsplit=1)[0].lower()
    # Some files of the data set say "astros".
    return next((kind for kind in known if word in (kind, f"{kind}s")), None)


def write_images(folder: Path, images: Mapping[str, np.ndarray]) -> None:
    """Writes images (Y, X) by id; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        write_png(folder / f"{name}.png", image)


def write_table(path: Path, images: Iterable[AnnotatedImage]) -> None:
    """Writes train.csv, with the rows in the order given.

    Raises:
      InputError: the file cannot be written.
    """
    rows = [
        (one.name, text, one.shape[1], one.shape[0], one.cell_type)
        for one in images
        for text in one.annotations
    ]
    _write(path, _COLUMNS, rows)


def write_submission(path: Path, images: Mapping[str, np.ndarray]) -> None:
    """Writes a submission, in which cells cannot overlap because they come from label images.

    Args:
      path: of the file.
      images: labels (Y, X) by id. An image without cells gets one row with nothing predicted.

    Raises:
      InputError: the file cannot be written.
    """
    rows = [
        (name, text)
        for name, labels in images.items()
        for text in (rle.encode_labels(labels).values() or ("",))
    ]
    _write(path, _PREDICTED, rows)


def read_submission(path: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Reads a submission.

    Args:
      path: of the file.
      shapes: Y, X of each image, by id.

    Returns:
      Labels (Y, X) int32 by id, in the order of `shapes`; images that the file does not name have no cells.

    Raises:
      InputError: the file is missing, names another image, or has bad run lengths or cells that overlap.
    """
    found = read_predicted(path)
    for name, rows in found.items():
        if name not in shapes:
            where = f"{path}, row {next(iter(rows))} (image {name})"
            raise InputError(f"{where}: there is no such image: correct the id, or leave the row out")
    painted = {}
    for name, shape in shapes.items():
        labels, overwritten = paint_predicted(path, name, found.get(name, {}), shape)
        if overwritten:
            raise InputError(
                f"{path}: cells of image {name} share {overwritten} pixels: each pixel may belong to one; write the "
                "submission from label images"
            )
        painted[name] = labels
    return painted


def read_predicted(path: Path) -> dict[str, dict[int, str]]:
    """Reads the rows of a submission; run lengths are looked at by `paint_predicted`.

    Returns:
      By id, in the order of the file, the run lengths by the line they are in; "" where nothing is predicted.

    Raises:
      InputError: the file is missing, or lacks a column.
    """
    found: dict[str, dict[int, str]] = {}
    for line, row in _rows(path, _PREDICTED):
        found.setdefault(row["id"], {})[line] = row["predicted"].strip()
    return found


def paint_predicted(path: Path, name: str, rows: Mapping[int, str], shape: tuple[int, int]) -> rle.Painted:
    """Paints the cells of an image (Y, X) from its rows in a submission; errors as of `rle.paint`."""
    cells = {f"{path}, row {line} (image {name})": text for line, text in rows.items() if text}
    return rle.paint(list(cells.values()), shape, list(cells))


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the number of the line and the columns of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            lacking = [column for column in columns if column not in (table.fieldnames or ())]
            if lacking:
                raise InputError(
                    f"{path} has no column {', '.join(lacking)}: it needs {', '.join(columns)} in its first line"
                )
            for row in table:
                if any(row[column] is None for column in columns):
                    raise InputError(
                        f"{path}, row {table.line_num}: it has fewer columns than the first line; write it again"
                    )
                if not row["id"]:
                    raise InputError(f"{path}, row {table.line_num}: id is empty: name the image")
                yield table.line_num, {column: row[column] for column in columns}
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist: copy it there; it has the columns {', '.join(columns)}"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}; copy the file again") from error


def _pixels(row: Mapping[str, str], column: str, where: str) -> int:
    word = row[column].strip()
    if not (word.isascii() and word.isdecimal() and 0 < int(word) < 2**24):
        raise InputError(f"{where}: {column} {word!r} is not a number of pixels: give the image's {column}")
    return int(word)


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    files.replace_text(path, text.getvalue(), "or choose another folder")
