"""Synthetic data sets in the formats of Sartorius and LIVECell: one cell type per image (`phase_contrast`).

Numbers and areas of cells are those of the competition's training images (specs/sartorius.md, 3.1); those of LIVECell
stand for its range from small round cells in crowds to few spread ones, and its looks overlap with the three. In 60
images of astro, cort and shsy5y there were 87, 35 and 349 cells on average, of 804, 231 and 216 pixels; the threshold
and watershed that served best had an mAP of 0.04, 0.04 and 0.08. An image takes 0.1 to 0.3 s of a core.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from celltrack_jax.data.synthetic.phase_contrast import Culture, Look, make_culture
from celltrack_jax.io import coco, rle, sartorius
from celltrack_jax.io.tif import write_tif

SARTORIUS = {
    "astro": Look(
        cells=(80, 64, 594),
        area=(906, 855, 37, 13327),
        elongation=0.5,
        waves=0.12,
        arms=(3.0, 0.45, 14.0),
        neurites=(0.4, 20.0),
        clustered=0.5,
        dark=13.0,
        halo=34.0,
        bright=(0.35, 34.0),
        flat=0.25,
        grains=6.0,
    ),
    "cort": Look(
        cells=(33.7, 16.5, 108),
        area=(240, 139, 33, 2054),
        elongation=0.35,
        waves=0.08,
        arms=(1.4, 0.7, 22.0),
        neurites=(2.2, 70.0),
        clustered=0.3,
        dark=34.0,
        halo=75.0,
        bright=(0.5, 95.0),
        flat=0.7,
        grains=5.0,
    ),
    "shsy5y": Look(
        cells=(337, 150, 790),
        area=(224, 134, 30, 2254),
        elongation=0.45,
        waves=0.07,
        arms=(0.7, 0.5, 16.0),
        neurites=(0.5, 25.0),
        clustered=0.75,
        dark=32.0,
        halo=62.0,
        bright=(0.45, 75.0),
        flat=0.5,
        grains=5.0,
    ),
}
"""By type, in the order of the names."""

# fmt: off
LIVECELL = {
    "A172": Look((180, 90, 520), (800, 520, 40, 6000), 0.55, 0.1, (1.6, 0.5, 14), (0.3, 20),
                 clustered=0.5, dark=14, halo=38, bright=(0.3, 36), flat=0.3, grains=5),
    "BT474": Look((190, 90, 500), (700, 420, 40, 5000), 0.25, 0.08, (0.3, 0.3, 8), (0, 0),
                  clustered=0.95, dark=14, halo=46, bright=(0.5, 36), flat=0.3, grains=5),
    "BV2": Look((480, 260, 1200), (175, 80, 30, 900), 0.2, 0.04, (0.2, 0.4, 14), (0.1, 12),
                clustered=0.6, dark=26, halo=62, bright=(0.6, 66), flat=0.6, grains=4),
    "Huh7": Look((80, 40, 220), (1500, 900, 60, 9000), 0.35, 0.1, (0.8, 0.3, 8), (0, 0),
                 clustered=0.7, dark=10, halo=34, bright=(0.3, 26), flat=0.2, grains=7),
    "MCF7": Look((250, 140, 800), (420, 250, 35, 3000), 0.3, 0.07, (0.3, 0.3, 8), (0, 0),
                 clustered=0.85, dark=20, halo=48, bright=(0.4, 50), flat=0.35, grains=5),
    "SHSY5Y": Look((330, 160, 900), (230, 140, 30, 2300), 0.45, 0.07, (0.8, 0.5, 16), (0.5, 25),
                   clustered=0.75, dark=30, halo=58, bright=(0.45, 70), flat=0.5, grains=5),
    "SKOV3": Look((110, 60, 320), (1250, 850, 60, 9000), 0.5, 0.11, (1.6, 0.4, 12), (0.1, 15),
                  clustered=0.5, dark=12, halo=34, bright=(0.35, 32), flat=0.25, grains=6),
    "SkBr3": Look((190, 100, 520), (400, 170, 40, 2000), 0.15, 0.04, (0.1, 0.3, 8), (0, 0),
                  clustered=0.6, dark=26, halo=66, bright=(0.7, 80), flat=0.6, grains=4),
}
# fmt: on
"""By type, as its files name them."""

_HELD_EVERY = 5
"""Of LIVECell, one of so many images of a type is in the file of the validation."""


def write_sartorius(root: Path, *, types: int, images: int, shape: tuple[int, int], seed: int) -> None:
    """Writes train.csv, train/ and train_semi_supervised/, which has half as many images of each type.

    Args:
      root: folder; made when absent.
      types: how many of the cell types.
      images: annotated ones of each type.
      shape: Y, X of an image.
      seed: of all randomness; an image is the same for any number of types.
    """
    rows = []
    for kind, look in list(SARTORIUS.items())[:types]:
        names = np.random.default_rng([seed, *kind.encode()])
        for k, state in enumerate(_states(seed, kind, images + max(1, images // 2))):
            made = make_culture(look, shape, state)
            if k < images:
                name = f"{int(names.integers(2**48)):012x}"
                sartorius.write_images(root / sartorius.IMAGES, {name: made.image})
                texts = tuple(rle.encode_window(mask, corner, shape) for corner, mask in made.outlines)
                rows.append(sartorius.AnnotatedImage(name, shape, kind, texts, ()))
            else:
                name = f"{kind}[sim]_A{k - images + 1}-1_Vessel-1_Ph_1"
                sartorius.write_images(root / sartorius.UNLABELLED, {name: made.image})
    sartorius.write_table(root / sartorius.TABLE, sorted(rows, key=lambda row: row.name))


def write_livecell(root: Path, *, types: int, images: int, shape: tuple[int, int], seed: int) -> None:
    """Writes tifs in a folder per type, and files of COCO with polygons: one to train, one to validate.

    Args:
      root: folder; made when absent.
      types: how many of the cell types.
      images: of each type.
      shape: Y, X of an image.
      seed: of all randomness; an image is the same for any number of types.
    """
    kinds = list(LIVECELL.items())[:types]
    found: dict[str, list[coco.CocoImage]] = {"train": [], "val": []}
    for kind, look in kinds:
        folder = root / "images" / "livecell_train_val_images" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for k, state in enumerate(_states(seed, kind, images)):
            made = make_culture(look, shape, state)
            name = f"{kind}_Phase_A7_1_{k // 6:02d}d{k % 6 * 4:02d}h00m_1.tif"
            write_tif(folder / name, made.image)
            split = "val" if k % _HELD_EVERY == _HELD_EVERY - 1 else "train"
            found[split].append(_outlined(name, made, kind.lower()))
    for split, content in found.items():
        path = root / "annotations" / "LIVECell" / f"livecell_coco_{split}.json"
        if content:
            coco.write_coco(path, coco.CocoFile(tuple(content), tuple(kind.lower() for kind, _ in kinds)))


def _outlined(name: str, made: Culture, kind: str) -> coco.CocoImage:
    outlines = tuple(coco.polygons(mask, corner) for corner, mask in made.outlines)
    return coco.CocoImage(
        name, made.labels.shape, tuple(range(1, len(outlines) + 1)), (kind,) * len(outlines), outlines
    )


def _states(seed: int, kind: str, count: int) -> Sequence[int]:
    return np.random.SeedSequence([seed, *kind.encode()]).generate_state(count).tolist()
