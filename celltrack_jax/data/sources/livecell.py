"""LIVECell: images anywhere below the folder, cells in the JSON of COCO (`io.coco`); a sequence per cell type.

    images/livecell_train_val_images/A172/A172_Phase_A7_1_00d00h00m_1.tif
    annotations/LIVECell/livecell_coco_train.json, ..._val.json, ..._test.json

Of other files with annotation all are read, if none has these names. The type is the category of an image's cells
or, where the file has a single category, what its name begins with; a172, bt474, bv2, huh7, mcf7, shsy5y, skbr3, skov3.
"""

import re
from collections.abc import Callable
from pathlib import Path

from celltrack_jax.data.sources import collection
from celltrack_jax.data.sources.collection import Cells, Item
from celltrack_jax.data.sources.source import Source
from celltrack_jax.errors import InputError
from celltrack_jax.io import coco
from celltrack_jax.io.coco import CocoImage

_SPLITS = r"livecell_coco_(train|val|test)\.json"
_SUFFIXES = (".tif", ".tiff", ".png")


def find(dataset: Path, allow_gaps: bool) -> tuple[list[str], Callable[[str], Source]]:
    """Lists cell types.

    Raises:
      InputError: a file is damaged, two files have the same image, an image has cells of two types, or, unless gaps
        are allowed, has no cells or is not there.
    """
    tables = _tables(dataset)
    if not tables:
        return [], lambda name: collection.open_collection(name, [], [], [])
    paths: dict[str, list[Path]] = {}
    for path in sorted(dataset.rglob("*")):
        if path.suffix.lower() in _SUFFIXES:
            paths.setdefault(path.name, []).append(path)
    seen: dict[str, Path] = {}
    items, missing = [], {}
    for table in tables:
        content = coco.read_coco(table)
        for image in content.images:
            name = Path(image.file_name).stem
            if name in seen:
                raise InputError(
                    f"image {name} is in {seen[name]} and in {table}: move one of the files to another folder"
                )
            seen[name] = table
            kind = _kind(table, image, several=len(content.categories) > 1)
            path = _path(table, dataset, image, paths, allow_gaps)
            if path is None:
                missing[name] = kind
                continue
            if not image.ids and not allow_gaps:
                raise InputError(
                    f"{table}: image {image.file_name} has no annotation: add its cells, take it out of images, or give "
                    "--allow_gaps, by which it is taken for not annotated"
                )
            items.append(Item(name, path, kind, kind, image.shape, _painter(table, image)))
    notes = collection.by_category(missing, f"not below {dataset}, left out")
    other = sorted(path.stem for found in paths.values() for path in found if path.stem not in seen)
    sorted_items = collection.sequences(items)

    def open_one(name: str) -> Source:
        own = sorted_items[name]
        texts = [notes[own[0].category]] if own[0].category in notes else []
        if other and name == next(iter(sorted_items)):
            texts.append(f"{collection.listed(other)}: images that no file annotates, left out")
        return collection.open_collection(name, own, tables, texts)

    return list(sorted_items), open_one


def _tables(dataset: Path) -> list[Path]:
    found = sorted([*dataset.glob("*.json"), *(dataset / "annotations").rglob("*.json")])
    return [path for path in found if re.fullmatch(_SPLITS, path.name)] or found


def _kind(table: Path, image: CocoImage, *, several: bool) -> str:
    """Returns the cell type, written as Sartorius writes it: shsy5y for SH-SY5Y."""
    kinds = sorted(set(image.categories))
    if several and len(kinds) > 1:
        raise InputError(
            f"{table}: image {image.file_name} has cells of {' and '.join(kinds)}: a type is one of the image; correct "
            "category_id"
        )
    word = kinds[0] if several and kinds else Path(image.file_name).name.split("_")[0]
    return re.sub(r"[- ]", "", word).lower()


def _path(
    table: Path, dataset: Path, image: CocoImage, paths: dict[str, list[Path]], allow_gaps: bool
) -> Path | None:
    """Returns where an image is; None where it is not, which has to be allowed."""
    found = paths.get(Path(image.file_name).name, [])
    exact = [path for path in found if path == dataset / image.file_name]
    found = exact or found
    if len(found) > 1:
        raise InputError(f"{found[0]} and {found[1]} are of the same name: move one out of {dataset}")
    if not found and not allow_gaps:
        raise InputError(
            f"{table}: image {image.file_name} is not below {dataset}: copy it there, or give --allow_gaps, by "
            "which it is left out"
        )
    return found[0] if found else None


def _painter(table: Path, image: CocoImage) -> Callable[[], Cells] | None:
    def paint() -> Cells:
        labels, overwritten, empty = coco.paint(image, str(table))
        return collection.painted(labels, cells=len(image.ids), overwritten=overwritten, empty=empty)

    return paint if image.ids else None
