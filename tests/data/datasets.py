"""Small data sets on disk, in the layouts that `launch.prepare` reads."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tifffile

from tests.ctc_folders import write_masks, write_rows

SHAPE = (40, 52)


def cells(
    shape: tuple[int, ...], boxes: Mapping[int, tuple[slice, ...]], dtype: type = np.uint16
) -> np.ndarray:
    """Returns a mask with a box per label."""
    mask = np.zeros(shape, dtype)
    for label, box in boxes.items():
        mask[box] = label
    return mask


def image(shape: tuple[int, ...], seed: int, dtype: type = np.uint16) -> np.ndarray:
    """Returns noise."""
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def moving_cells(frames=range(4), shape=SHAPE) -> tuple[dict[int, np.ndarray], list[list[int]]]:
    """Returns masks by frame and track rows: 1 lives always, 2 divides halfway into 3 and 4."""
    numbers = list(frames)
    half = numbers[len(numbers) // 2]
    masks = {}
    for i, frame in enumerate(numbers):
        depth = (slice(None),) * (len(shape) - 2)
        boxes = {1: (*depth, slice(3 + i, 9 + i), slice(4, 12))}
        boxes |= (
            {2: (*depth, slice(20, 30), slice(20, 30))}
            if frame < half
            else {
                3: (*depth, slice(18, 24), slice(20 - i, 30 - i)),
                4: (*depth, slice(28, 34), slice(22, 32)),
            }
        )
        masks[frame] = cells(shape, boxes)
    rows = [[1, numbers[0], numbers[-1], 0], [2, numbers[0], half - 1, 0]]
    return masks, rows + [[label, half, numbers[-1], 2] for label in (3, 4)]


def write_ctc(
    folder: Path,
    name: str = "01",
    *,
    images: Mapping[int, np.ndarray],
    markers: Mapping[int, np.ndarray] | None = None,
    segmentation: Mapping[int, np.ndarray] | None = None,
    planes: Mapping[tuple[int, int], np.ndarray] | None = None,
    silver: Mapping[int, np.ndarray] | None = None,
    rows: list[list[int]] | None = None,
) -> Path:
    """Writes one sequence of a CTC data set and returns the data set's folder; planes are keyed by (frame, z)."""
    write_masks(folder / name, "t", dict(images))
    truth = folder / f"{name}_GT"
    for mask, sub, stem in (
        (markers, truth / "TRA", "man_track"),
        (segmentation, truth / "SEG", "man_seg"),
        (silver, folder / f"{name}_ST" / "SEG", "man_seg"),
    ):
        if mask is not None:
            write_masks(sub, stem, dict(mask))
    for (frame, z), plane in (planes or {}).items():
        (truth / "SEG").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(truth / "SEG" / f"man_seg_{frame:03d}_{z:03d}.tif", plane)
    if rows is not None:
        write_rows(truth / "TRA" / "man_track.txt", rows)
    return folder


def write_movie(folder: Path, name: str = "01", *, frames=range(4), shape=SHAPE, seed: int = 0) -> Path:
    """Writes a fully annotated sequence of `moving_cells`."""
    masks, rows = moving_cells(frames, shape)
    images = {frame: image(shape, seed + frame) for frame in frames}
    return write_ctc(folder, name, images=images, markers=masks, segmentation=masks, rows=rows)


def write_dsb(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> Path:
    """Writes a DSB2018 folder with one image per name."""
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True)
    for seed, (name, shape) in enumerate(shapes.items()):
        tifffile.imwrite(folder / "images" / f"{name}.tif", image(shape, seed, np.uint8))
        mask = cells(shape, {1: (slice(2, 8), slice(3, 9)), 7: (slice(12, 18), slice(10, 16))})
        tifffile.imwrite(folder / "masks" / f"{name}.tif", mask)
    (folder / "index.csv").write_text("id,h,w\n" + "".join(f"{n},{h},{w}\n" for n, (h, w) in shapes.items()))
    return folder
