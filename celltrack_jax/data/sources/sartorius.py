"""Sartorius (`io.sartorius`): train.csv, train/<id>.png, train_semi_supervised/*.png; a sequence per cell type.

Images of train_semi_supervised/ are frames without annotation, in sequences of their own: "<type>_unlabelled", or
"unlabelled" where the file's name tells no type.
"""

from collections.abc import Callable
from pathlib import Path

from celltrack_jax.data.sources import collection
from celltrack_jax.data.sources.collection import Cells, Item
from celltrack_jax.data.sources.source import Source
from celltrack_jax.errors import InputError
from celltrack_jax.io import sartorius
from celltrack_jax.io.png import png_shape
from celltrack_jax.io.sartorius import AnnotatedImage


def find(dataset: Path, allow_gaps: bool) -> tuple[list[str], Callable[[str], Source]]:
    """Lists cell types.

    Raises:
      InputError: the table is damaged, or, unless gaps are allowed, an image has no rows or rows have no image.
    """
    table = dataset / sartorius.TABLE
    cells = sartorius.read_table(table)
    images = sartorius.find_images(dataset / sartorius.IMAGES)
    if not allow_gaps:
        _refuse_gaps(table, cells, images)
    kinds = sorted({*sartorius.TYPES, *(one.cell_type for one in cells.values())})
    items = [_annotated(table, one, images[name]) for name, one in cells.items() if name in images]
    unlabelled = {name: path for name, path in images.items() if name not in cells}
    unlabelled |= sartorius.find_images(dataset / sartorius.UNLABELLED)
    items += [_unlabelled(name, path, kinds) for name, path in unlabelled.items()]
    found = collection.sequences(items)
    missing = {name: one.cell_type for name, one in cells.items() if name not in images}
    notes = collection.by_category(missing, f"not in {dataset / sartorius.IMAGES}, left out")

    def open_one(name: str) -> Source:
        own = found[name]
        texts = [notes[own[0].category]] if own[0].paint and own[0].category in notes else []
        return collection.open_collection(name, own, [table], texts)

    return list(found), open_one


def _refuse_gaps(table: Path, cells: dict[str, AnnotatedImage], images: dict[str, Path]) -> None:
    for name, path in images.items():
        if name not in cells:
            raise InputError(
                f"{path} has no row in {table}: add its cells, move it to {sartorius.UNLABELLED}/, or give --allow_gaps, "
                "by which it is taken for not annotated"
            )
    for name, one in cells.items():
        if name not in images:
            raise InputError(
                f"{table}, row {one.rows[0]}: there is no image {sartorius.IMAGES}/{name}.png: copy it there, or give "
                "--allow_gaps, by which its rows are left out"
            )


def _annotated(table: Path, image: AnnotatedImage, path: Path) -> Item:
    def paint() -> Cells:
        labels, overwritten = sartorius.paint(table, image)
        return collection.painted(labels, cells=len(image.rows), overwritten=overwritten, empty=0)

    return Item(image.name, path, image.cell_type, image.cell_type, image.shape, paint)


def _unlabelled(name: str, path: Path, kinds: list[str]) -> Item:
    kind = sartorius.type_of(name, kinds)
    return Item(name, path, f"{kind}_unlabelled" if kind else "unlabelled", kind, png_shape(path), None)
