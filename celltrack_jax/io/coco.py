"""Cells in the JSON of COCO: images, categories, and annotations whose outline is polygons or run lengths.

Run lengths count down the columns, as numbers ("uncompressed") or as text ("compressed"). Pixel i covers i to i + 1 of
a polygon's coordinates, x before y. Shapes: Y X space, N annotations of an image, P points of a polygon.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io import files

_FEWEST = 6
"""Numbers of a polygon that has an area."""


class CocoImage(NamedTuple):
    """An image and its annotations."""

    file_name: str
    shape: tuple[int, int]
    """Y, X."""
    ids: tuple[int, ...]
    """(N,) of the annotations, in the order of the file."""
    categories: tuple[str, ...]
    """(N,)"""
    outlines: tuple[Any, ...]
    """(N,) polygons, a list of (2P,) float64 x, y, x, y ...; or {"counts", "size"}."""


class CocoFile(NamedTuple):
    """What a file holds."""

    images: tuple[CocoImage, ...]
    """Sorted by file name."""
    categories: tuple[str, ...]
    """In the order of their ids."""


class Painted(NamedTuple):
    """The cells of an image as one label image."""

    labels: np.ndarray
    """(Y, X) int32: k for the k-th annotation, from 1; 0 background."""
    overwritten: int
    """Pixels that an earlier annotation has too; they belong to the last one."""
    empty: int
    """Annotations without a pixel."""


def read_coco(path: Path) -> CocoFile:
    """Reads a file; annotations of crowds are left out.

    Raises:
      InputError: the file is missing or damaged, lacks a part, or names an image or a category that it does not have.
    """
    parts = {key: _table(path, table, key) for key, table in _load(path).items()}
    categories = {row["id"]: str(row["name"]) for row in _complete(path, parts, "categories", ("id", "name"))}
    images: dict[Any, dict[str, Any]] = {}
    for row in _complete(path, parts, "images", ("id", "file_name", "width", "height")):
        if row["id"] in images:
            raise InputError(f"{path}: two images have the id {row['id']}: number them anew")
        images[row["id"]] = row
    cells: dict[Any, list[dict[str, Any]]] = {name: [] for name in images}
    needed = ("id", "image_id", "category_id", "segmentation")
    for row in _complete(path, parts, "annotations", needed):
        for key, known, table in (("image_id", images, "images"), ("category_id", categories, "categories")):
            if row[key] not in known:
                raise InputError(
                    f"{path}: annotation {row['id']} has the {key} {row[key]}, which is not in its {table}: add it "
                    "there, or take the annotation out"
                )
        if not row.get("iscrowd"):
            cells[row["image_id"]].append(row)
    found = [
        CocoImage(
            str(row["file_name"]),
            (int(row["height"]), int(row["width"])),
            tuple(cell["id"] for cell in cells[name]),
            tuple(categories[cell["category_id"]] for cell in cells[name]),
            tuple(cell["segmentation"] for cell in cells[name]),
        )
        for name, row in images.items()
    ]
    order = sorted(found, key=lambda image: image.file_name)
    return CocoFile(tuple(order), tuple(categories[name] for name in sorted(categories)))


def paint(image: CocoImage, where: str) -> Painted:
    """Paints the cells of an image, later ones over earlier ones.

    Args:
      image: as read.
      where: file, for messages.

    Raises:
      InputError: run lengths are damaged or of another size, or an outline is neither.
    """
    labels, total, empty = np.zeros(image.shape, np.int32), 0, 0
    for label, (name, outline) in enumerate(zip(image.ids, image.outlines, strict=True), 1):
        place = f"{where}, annotation {name} (image {image.file_name})"
        (y, x), inside = (
            _filled(outline, image.shape, place)
            if isinstance(outline, list)
            else ((0, 0), _unpacked(outline, image.shape, place))
        )
        labels[y : y + inside.shape[0], x : x + inside.shape[1]][inside] = label
        pixels = np.count_nonzero(inside)
        total, empty = total + pixels, empty + (not pixels)
    return Painted(labels, int(total - np.count_nonzero(labels)), empty)


def polygons(window: np.ndarray, corner: Sequence[int]) -> list[list[float]]:
    """Outlines a mask, half way between its pixels and those around it; holes are lost.

    Args:
      window: (y, x) bool.
      corner: row and column of its first pixel.

    Returns:
      A polygon x, y, x, y ... for each part.
    """
    from skimage import measure

    found = measure.find_contours(np.pad(window, 1).astype(np.float32), 0.5)
    # Of a hole the corners go the other way round.
    outer = [line for line in found if _area(line) > 0]
    # Padding, and the middle of a pixel.
    return [
        np.round((line[:-1] + np.asarray(corner) - 0.5)[:, ::-1], 2).ravel().tolist()
        for line in outer
        if line[:-1].size >= _FEWEST
    ]


def write_coco(path: Path, content: CocoFile) -> None:
    """Writes a file, whose images, annotations and categories are numbered anew, from 1.

    Raises:
      InputError: it cannot be written.
    """
    number = {name: k for k, name in enumerate(content.categories, 1)}
    annotations = []
    for k, image in enumerate(content.images, 1):
        for outline, category in zip(image.outlines, image.categories, strict=True):
            row = {"id": len(annotations) + 1, "image_id": k, "category_id": number[category]}
            annotations.append(
                row | {"segmentation": _plain(outline), "iscrowd": 0} | _extent(outline, image.shape)
            )
    text = json.dumps(
        {
            "images": [
                {"id": k, "file_name": image.file_name, "height": image.shape[0], "width": image.shape[1]}
                for k, image in enumerate(content.images, 1)
            ],
            "categories": [{"id": k, "name": name, "supercategory": "cell"} for name, k in number.items()],
            "annotations": annotations,
        }
    )
    files.replace_text(path, text + "\n", "or choose another folder")


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=_compact)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: copy it there") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; copy the file again") from error
    lacking = [key for key in ("images", "annotations", "categories") if key not in content]
    if not isinstance(content, dict) or lacking:
        raise InputError(f"{path} has no {' and no '.join(lacking)}: give annotations in the JSON of COCO")
    return {key: content[key] for key in ("images", "annotations", "categories")}


def _compact(row: dict[str, Any]) -> dict[str, Any]:
    """Keeps polygons as arrays while the file is read: 1.7 million cells as Python's floats would fill the memory."""
    outline = row.get("segmentation")
    if isinstance(outline, list) and all(isinstance(polygon, list) for polygon in outline):
        try:
            row["segmentation"] = [np.array(polygon, np.float64) for polygon in outline]
        except (TypeError, ValueError):
            row["segmentation"] = None
    return row


def _table(path: Path, table: Any, key: str) -> list[dict[str, Any]]:
    # Some files of LIVECell number the annotations in a dictionary.
    rows = list(table.values()) if isinstance(table, dict) else table
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: {key} is no list of objects: give annotations in the JSON of COCO")
    return rows


def _complete(
    path: Path, parts: Mapping[str, list[dict[str, Any]]], key: str, needed: Iterable[str]
) -> Iterable[dict[str, Any]]:
    for number, row in enumerate(parts[key]):
        lacking = [column for column in needed if column not in row]
        if lacking:
            raise InputError(f"{path}: {key}[{number}] has no {' and no '.join(lacking)}: write it again")
        yield row


def _filled(
    outline: list[np.ndarray], shape: tuple[int, int], where: str
) -> tuple[tuple[int, int], np.ndarray]:
    """Fills polygons: corner and (y, x) bool of their box, as pycocotools fills them in the whole image.

    It is quick for small boxes: 1.7 million cells take minutes instead of hours.
    """
    from pycocotools import mask as coco_mask

    if not all(isinstance(one, np.ndarray) and one.ndim == 1 and one.size % 2 == 0 for one in outline):
        raise InputError(
            f"{where}: a polygon is not a list of pairs x, y: correct it or take the annotation out"
        )
    kept = [one for one in outline if one.size >= _FEWEST]
    if not all(np.isfinite(one).all() for one in kept):
        raise InputError(f"{where}: a polygon has coordinates that are no numbers: correct it")
    if not kept:
        return (0, 0), np.zeros((0, 0), bool)
    points = np.concatenate(kept).reshape(-1, 2)[:, ::-1]
    low = np.clip(np.floor(points.min(0)) - 1, 0, shape).astype(int)
    high = np.clip(np.ceil(points.max(0)) + 2, 0, shape).astype(int)
    if (high <= low).any():
        return (0, 0), np.zeros((0, 0), bool)
    shifted: Any = [_fifths(one) - np.tile(low[::-1], one.size // 2) for one in kept]
    packed = coco_mask.frPyObjects(shifted, int(high[0] - low[0]), int(high[1] - low[1]))
    return (int(low[0]), int(low[1])), coco_mask.decode(coco_mask.merge(packed)).astype(bool)


def _fifths(points: np.ndarray) -> np.ndarray:
    """Rounds coordinates to fifths of a pixel, as pycocotools does: after a shift it might round another way."""
    fifths = np.trunc(5 * points + 0.5)
    # It rounds towards 0, below 0 too.
    return (fifths - (fifths < 0)) / 5


def _unpacked(outline: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """Reads run lengths: (Y, X) bool."""
    if not isinstance(outline, dict) or not {"counts", "size"} <= outline.keys():
        raise InputError(f"{where}: its segmentation is neither polygons nor run lengths: correct it")
    if list(outline["size"]) != list(shape):
        raise InputError(
            f"{where}: its run lengths are of {outline['size']} pixels (height, width), the image has {list(shape)}: "
            "correct width and height, or export it again"
        )
    counts = outline["counts"]
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    if not isinstance(counts, list) or not all(isinstance(one, int) and one >= 0 for one in counts):
        raise InputError(f"{where}: its run lengths are damaged: export it again")
    if sum(counts) != shape[0] * shape[1]:
        raise InputError(
            f"{where}: its run lengths cover {sum(counts)} pixels, the image has {shape[0] * shape[1]}: export it again"
        )
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return inside.reshape(shape[::-1]).T


def _uncompressed(text: str) -> list[int] | None:
    """Reads compressed run lengths; None where they are damaged, on which pycocotools would read on behind the end.

    Six bits a character, least first, of which the sixth says whether another one follows; from the fourth number on
    they are differences to the one before the last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    return counts if shift == 0 else None


def _plain(outline: Any) -> Any:
    if isinstance(outline, list):
        return [np.asarray(polygon).tolist() for polygon in outline]
    return outline


def _extent(outline: Any, shape: tuple[int, int]) -> dict[str, Any]:
    """Returns area and box x, y, width, height, in pixels."""
    (y, x), inside = (
        _filled([np.asarray(polygon, np.float64) for polygon in outline], shape, "polygons")
        if isinstance(outline, list)
        else ((0, 0), _unpacked(outline, shape, "run lengths"))
    )
    if not inside.any():
        return {"area": 0, "bbox": [0, 0, 0, 0]}
    (top, bottom), (left, right) = (np.flatnonzero(inside.any(axis))[[0, -1]].tolist() for axis in (1, 0))
    box = [x + left, y + top, right - left + 1, bottom - top + 1]
    return {"area": int(inside.sum()), "bbox": box}


def _area(line: np.ndarray) -> float:
    """Twice the area within a closed line (P, 2), positive where the mask lies inside of it."""
    y, x = line.T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))
