"""A folder of single images, of any names and sizes, through a trained network: a label map for each.

Shapes: Y, X an image, C channels, K channels of the network's output.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from celltrack_jax.data import normalise
from celltrack_jax.data.sources.pixels import read_image
from celltrack_jax.errors import InputError
from celltrack_jax.inference import tiles
from celltrack_jax.io import label_maps, threads
from celltrack_jax.io.label_maps import LabelMap
from celltrack_jax.tasks import ImageCells

SUFFIXES = (".png", ".tif", ".tiff")
WHOLE_PX = 2048 * 2048
"""Pixels, padding included, that a network sees at once: Cellpose's holds 3 GB of features of so many."""
_AT_ONCE = 2
"""Images: while the cells of one are read the network sees the next."""

Apply = Callable[[np.ndarray], Any]


def find(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Lists the images of a folder by name (without suffix), ascending, and the names of files that are none.

    Raises:
      InputError: it is no folder, or has no images, or two of one name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give one with images, {', '.join(SUFFIXES)}")
    found: dict[str, Path] = {}
    others = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix.lower() not in SUFFIXES:
            others.append(path.name)
        elif path.stem in found:
            raise InputError(f"{found[path.stem]} and {path} have one name: rename one, or move it away")
        else:
            found[path.stem] = path
    if not found:
        raise InputError(f"{folder} has no images: give a folder with files {', '.join(SUFFIXES)}")
    return found, others


def read(path: Path, channels: int = 1) -> np.ndarray:
    """Reads an image and scales its grey values as training does: (C, Y, X) float32.

    Raises:
      InputError: it cannot be read, has colours, is a stack, or holds NaN.
    """
    image = read_image(path, None)
    if image.shape[1] > 1:
        raise InputError(f"{path} is a stack of {image.shape[1]} planes: write single images")
    if channels != len(image):
        raise InputError(
            f"{path} has {len(image)} channels and the model takes {channels}: use a model trained on such images"
        )
    image = image[:, 0]
    try:
        return normalise.normalise(image, normalise.percentiles(image))
    except ValueError as error:
        raise InputError(f"{path}: {error}; write the image again without them") from error


def in_parts(apply: Apply, halo: tuple[int, ...], stride: tuple[int, ...], most_px: int = WHOLE_PX) -> Apply:
    """Returns a network that takes larger images in tiles, as `tiles` has them.

    Statistics of the whole image, such as a style, are then those of a tile.

    Args:
      apply: (1, y, x, C) -> (1, y, x, K).
      halo: how far its outputs see, y, x.
      stride: its total pooling.
      most_px: pixels that it takes at once.
    """

    def tiled(image: np.ndarray) -> np.ndarray:
        size = (image.shape[1], image.shape[2])
        if size[0] * size[1] <= most_px:
            return apply(image)
        tiling = tiles.make_tiling(size, tiles.fit_tile(size, most_px, halo, stride), halo, stride)
        frame, whole = np.moveaxis(image[0], -1, 0), None
        for position in tiling.positions():
            tile = np.moveaxis(tiles.cut(frame, tiling, position), 0, -1)
            prediction = np.asarray(apply(tile[None])[0])
            whole = np.zeros((*size, prediction.shape[-1]), np.float32) if whole is None else whole
            tiles.add(whole, prediction, tiling, position)
        assert whole is not None
        return whole[None]

    return tiled


class LabelFolder(Mapping[str, np.ndarray]):
    """The label maps of images by name, each read when it is asked for."""

    def __init__(self, folder: Path, images: Mapping[str, Path], made_by: str):
        """Looks at what is there.

        Args:
          folder: of the label maps; need not be there.
          images: by name.
          made_by: what they depend on beside the image; those that were made otherwise are made again.

        Raises:
          InputError: a file that would be replaced is none of ours.
        """
        self.folder, self.images, self.made_by = folder, images, made_by
        self.missing = [name for name in images if not self._is_there(name)]
        """Names of the images that have no label map yet."""

    def path(self, name: str) -> Path:
        """Returns the file of an image's label map."""
        return self.folder / f"{name}.tif"

    def _is_there(self, name: str) -> bool:
        path = self.path(name)
        if label_maps.made_by(path) != self.made_by:
            return False
        return path.stat().st_mtime_ns > self.images[name].stat().st_mtime_ns

    def write(self, name: str, found: ImageCells, classes: tuple[str, ...]) -> None:
        """Writes the label map of an image, with scores and classes where there are any."""
        cells: dict[str, list] = {}
        if found.score is not None:
            cells["score"] = [round(score, 4) for score in found.score.tolist()]
        if found.category is not None:
            cells["class"] = [classes[category] for category in found.category.tolist()]
        facts = {"image": self.images[name].name, "diameter_px": found.diameter_px, "lost": found.lost}
        label_maps.write(self.path(name), found.labels, self.made_by, cells, facts)

    def maps(self) -> Iterator[tuple[str, LabelMap]]:
        """Yields all of them, with what is known of their cells."""
        for name in self.images:
            yield name, label_maps.read(self.path(name))

    def __getitem__(self, name: str) -> np.ndarray:
        return label_maps.read(self.path(name)).labels

    def __iter__(self) -> Iterator[str]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)


def segment(
    folder: LabelFolder,
    names: Iterable[str],
    reader: Callable[[np.ndarray], ImageCells],
    *,
    channels: int,
    classes: tuple[str, ...],
    most_px: int | None = None,
) -> Iterator[str]:
    """Finds the cells of images and writes their label maps; yields the names of those that are done, in order.

    Args:
      folder: gets them.
      names: of the images; drawn as there is time for them.
      reader: of `tasks.ImageSegmentationTask`.
      channels: that the network takes.
      classes: of the task.
      most_px: pixels that an image may have; None for any number.

    Raises:
      InputError: an image cannot be read or is too large; those before it are written.
    """

    def one(name: str) -> str:
        path = folder.images[name]
        image = read(path, channels)
        if most_px is not None and image[0].size > most_px:
            raise InputError(
                f"{path} has {image.shape[1]}x{image.shape[2]} pixels, and this network sees no more than {most_px} at "
                "once: cut it into parts, or take a run of configs/sartorius/cellpose.py, which takes it in tiles"
            )
        try:
            found = reader(image)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        folder.write(name, found, classes)
        return name

    yield from threads.mapped(one, names, _AT_ONCE)
