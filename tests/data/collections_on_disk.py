"""A small collection in the layout of Sartorius, and the store of it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from celltrack_jax.data import prepare, sources, store
from celltrack_jax.io import rle, sartorius
from tests.data import datasets


def discs(shape: tuple[int, int], radius: float, seed: int, count: int = 5) -> np.ndarray:
    """Returns labels of discs on a grid, (Y, X)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    pitch = int(2 * radius + 3)
    places = [
        (i, j)
        for i in range(pitch // 2, shape[0] - pitch // 2, pitch)
        for j in range(pitch // 2, shape[1] - pitch // 2, pitch)
    ]
    for label, place in enumerate(rng.permutation(len(places))[:count], 1):
        labels[(y - places[place][0]) ** 2 + (x - places[place][1]) ** 2 <= radius**2] = label
    return labels


def write(
    folder: Path, images: Mapping[str, tuple[str, np.ndarray]], unlabelled: tuple[str, ...] = ()
) -> Path:
    """Writes <folder>/set, of labels by image and type; the image shows its labels; returns <folder>/store."""
    rows = []
    for name, (kind, labels) in images.items():
        shown = (100 * (labels > 0) + datasets.image(labels.shape, len(rows), np.uint8) // 4).astype(np.uint8)
        sartorius.write_images(folder / "set" / "train", {name: shown})
        texts = tuple(rle.encode_labels(labels).values())
        rows.append(sartorius.AnnotatedImage(name, labels.shape, kind, texts, ()))
    sartorius.write_table(folder / "set" / "train.csv", rows)
    for name in unlabelled:
        shape = rows[0].shape
        sartorius.write_images(
            folder / "set" / "train_semi_supervised", {name: datasets.image(shape, 7, np.uint8)}
        )
    prepare.prepare(
        folder / "store",
        sources.open_sources(folder / "set", "sartorius", None),
        layout="sartorius",
        origin="set",
        spacing_um=None,
        advance=lambda name, frames: None,
    )
    return folder / "store"


def opened(folder: Path) -> dict[str, store.StoredSequence]:
    """Returns the sequences of a store by name."""
    return {sequence.name: sequence for sequence in store.open_store(folder)}
