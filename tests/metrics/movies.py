"""Tiny random movies with every kind of mistake, and the two packages that score them in our place.

Cells sit in the slots of a grid of 3 x 4 slots of 4 x 4 pixels. Truth: cells are born, vanish, divide, hide for a
frame. Result: cells are missed, invented, eroded, split, merged; links are lost, swapped, cut in two.
"""

import contextlib
import io
import warnings
from pathlib import Path
from typing import NamedTuple

import ctc_metrics.scripts.evaluate as pyctc
import numpy as np
import tifffile
import traccuracy
from traccuracy.loaders import load_ctc_data
from traccuracy.matchers import CTCMatcher
from traccuracy.metrics import CellCycleAccuracy, CHOTAMetric, CTCMetrics

from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.ctc import ctc_measures, overlap

ROWS, COLUMNS, SLOT = 3, 4, 4
SHIFT = 0.3
"""How often a division comes a frame late or early in the result."""
PYCTC_KEYS = {
    **{
        key: key
        for key in ("DET", "SEG", "TRA", "AOGM", "AOGM_0", "LNK", "OP_CSB", "OP_CTB", "CT", "TF", "CCA")
    },
    **{f"AOGM_{kind}": f"AOGM_{kind}" for kind in ("NS", "FN", "FP", "ED", "EA", "EC")},
    **{f"BC{i}": f"BC({i})" for i in range(4)},
    "BIO": "BIO(2)",
    "OP_CLB": "OP_CLB(2)",
    "CHOTA": "CHOTA",
}
"""Our key: that of py-ctcmetrics."""


class Movie(NamedTuple):
    """Masks by frame 0..T-1 and tracks."""

    masks: np.ndarray
    """(T, Y, X) uint16."""
    tracks: Lineage


def random_pair(seed: int, *, plain: bool = False) -> tuple[Movie, Movie]:
    """Draws a truth and a result.

    Args:
      seed: of everything.
      plain: without gaps and without links to only children, where traccuracy has another definition.
    """
    rng = np.random.default_rng(seed)
    frames = int(rng.integers(2, 9))
    cells = _truth_cells(rng, frames, plain)
    truth = _movie(frames, cells, rng, cut=0.0 if plain else 0.1)
    found = _found_cells(rng, cells, frames, plain, level=rng.choice([0.0, 0.02, 0.1, 0.25]))
    return truth, _movie(frames, found, rng, cut=0.0 if plain else 0.1)


def painted(frames: list[dict[int, range]], rows: list[tuple[int, int, int, int]]) -> Movie:
    """Paints a movie by hand.

    Args:
      frames: the pixels of each label, flat indices into 12 x 16 pixels.
      rows: (label, begin, end, parent) of each track.
    """
    masks = np.zeros((len(frames), ROWS * SLOT * COLUMNS * SLOT), np.uint16)
    for mask, cells in zip(masks, frames, strict=True):
        for label, pixels in cells.items():
            mask[list(pixels)] = label
    return Movie(masks.reshape(-1, ROWS * SLOT, COLUMNS * SLOT), Lineage.from_rows(rows))


def measure(truth: Movie, result: Movie, *, seg: bool = True) -> dict:
    """Scores with our code; the truth of SEG is that of TRA."""
    pairs = zip(truth.masks, result.masks, strict=True)
    overlaps = [overlap(ref, comp, frame) for frame, (ref, comp) in enumerate(pairs)]
    return ctc_measures(overlaps, truth.tracks, result.tracks, overlaps if seg else None)


def write(folder: Path, truth: Movie, result: Movie) -> tuple[Path, Path]:
    """Writes 01_GT and 01_RES and returns them."""
    gt, res = folder / "01_GT", folder / "01_RES"
    for part, movie, stem, track_file in (
        (gt / "TRA", truth, "man_track", "man_track.txt"),
        (gt / "SEG", truth, "man_seg", "man_seg.txt"),
        (res, result, "mask", "res_track.txt"),
    ):
        part.mkdir(parents=True, exist_ok=True)
        for frame, mask in enumerate(movie.masks):
            tifffile.imwrite(part / f"{stem}{frame:03d}.tif", mask)
        lines = [" ".join(map(str, row)) + "\n" for row in movie.tracks.rows().tolist()]
        (part / track_file).write_text("".join(lines))
    return gt, res


def measure_pyctc(folder: Path, truth: Movie, result: Movie) -> dict:
    """Scores with py-ctcmetrics, by our keys."""
    gt, res = write(folder, truth, result)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = pyctc.evaluate_sequence(str(res), str(gt), threads=1)
    return {ours: scores[theirs] for ours, theirs in PYCTC_KEYS.items()}


def measure_traccuracy(folder: Path, truth: Movie, result: Movie) -> dict:
    """Scores with traccuracy, by our keys, for the measures that it has."""
    gt, res = write(folder, truth, result)
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference, computed = load_ctc_data(str(gt / "TRA")), load_ctc_data(str(res))
        metrics = [CTCMetrics(), CHOTAMetric(), CellCycleAccuracy()]
        ctc, chota, cca = (
            row["results"] for row in traccuracy.run_metrics(reference, computed, CTCMatcher(), metrics)[0]
        )
    kinds = {"NS": "ns_nodes", "FN": "fn_nodes", "FP": "fp_nodes"}
    kinds |= {"ED": "fp_edges", "EA": "fn_edges", "EC": "ws_edges"}
    return {
        **{key: ctc[key] for key in ("DET", "TRA", "LNK", "AOGM")},
        **{f"AOGM_{kind}": ctc[name] for kind, name in kinds.items()},
        **chota,
        **cca,
    }


class _Cell(NamedTuple):
    frame: int
    pixels: np.ndarray
    """(n,) flat indices into the frame."""
    previous: int
    """Index of the cell that it comes from, -1 for none."""


def _truth_cells(rng: np.random.Generator, frames: int, plain: bool) -> list[_Cell]:
    cells: list[_Cell] = []
    alive: list[tuple[int, int]] = []  # (slot, index of the last cell)
    hidden: list[tuple[int, int]] = []
    for frame in range(frames):
        coming: list[tuple[int, int]] = [] if frame else [(int(s), -1) for s in rng.permutation(12)[:4]]
        back, hidden = hidden, []
        for slot, last in alive:
            event = rng.choice(["stay", "divide", "die", "hide"], p=[0.76, 0.14, 0.05, 0.05])
            if event == "divide":
                coming += [(slot, last), ((slot + 1) % 12, last), ((slot + 2) % 12, last)][
                    : rng.integers(2, 4)
                ]
            elif event == "hide" and not plain:
                hidden.append((slot, last))
            elif event != "die":
                coming.append((slot, last))
        coming += back
        if rng.random() < 0.2:
            coming.append((int(rng.integers(12)), -1))
        alive, taken = [], set()
        for slot, last in coming:
            if slot not in taken:
                taken.add(slot)
                alive.append((slot, len(cells)))
                cells.append(_Cell(frame, _blob(rng, slot), last))
    return cells


def _found_cells(
    rng: np.random.Generator, cells: list[_Cell], frames: int, plain: bool, level: float
) -> list[_Cell]:
    """Perturbs the true cells; `level` is the probability of each mistake."""
    found: list[_Cell] = []
    parts_of: dict[int, list[int]] = {-1: [-1]}  # indices of the found cells of a true cell
    born: dict[int, list[int]] = {}  # indices of the true cells that come from a true cell
    children = np.bincount([cell.previous for cell in cells if cell.previous >= 0], minlength=len(cells))
    by_frame: dict[int, list[int]] = {frame: [] for frame in range(frames)}
    for index, cell in enumerate(cells):
        here = by_frame[cell.frame]
        draw = rng.random(6)
        siblings = born.setdefault(cell.previous, []) if cell.previous >= 0 else []
        siblings.append(index)
        if draw[0] < level:
            continue
        if len(siblings) > 1 and siblings[0] in parts_of and rng.random() < SHIFT:
            parts_of[index] = parts_of[siblings[0]][:1]  # found as one cell still: the division is late
            continue
        # The children of a cell that was found in two parts come from one part each: the division is early.
        previous = parts_of.get(cell.previous, [-1])[
            (len(siblings) - 1) % len(parts_of.get(cell.previous, [-1]))
        ]
        if draw[1] < level or (not plain and draw[1] < 2 * level):
            nearby = by_frame[cell.frame - 1] if cell.frame else []
            nearby = nearby + (by_frame[cell.frame - 2] if cell.frame > 1 and not plain else [])
            previous = int(rng.choice([*nearby, -1]))
        if previous >= 0 and plain and found[previous].frame != cell.frame - 1:
            previous = -1
        pixels = cell.pixels
        if draw[2] < 2 * level:
            pixels = rng.permutation(pixels)[: max(1, int(len(pixels) * rng.uniform(0.3, 1)))]
        if here and draw[3] < level:  # merged with another cell of the frame
            other = int(rng.choice(here))
            found[other] = found[other]._replace(pixels=np.concatenate([found[other].pixels, pixels]))
            parts_of[index] = [other]
            continue
        half = len(pixels) // 2
        divides_next = SHIFT * (children[index] > 1)
        parts = [pixels[:half], pixels[half:]] if half and draw[4] < max(level, divides_next) else [pixels]
        parts_of[index] = list(range(len(found), len(found) + len(parts)))
        for part in parts:
            here.append(len(found))
            found.append(_Cell(cell.frame, part, previous))
        if draw[5] < level:
            here.append(len(found))
            found.append(_Cell(cell.frame, _blob(rng, int(rng.integers(12)))[:3], -1))
    return found


def _blob(rng: np.random.Generator, slot: int) -> np.ndarray:
    row, column = divmod(slot, COLUMNS)
    y, x = np.divmod(rng.permutation(SLOT * SLOT)[: rng.integers(4, 17)], SLOT)
    return (row * SLOT + y) * (COLUMNS * SLOT) + column * SLOT + x


def _movie(frames: int, cells: list[_Cell], rng: np.random.Generator, cut: float) -> Movie:
    """Paints cells and turns their links into tracks; `cut` is how often a track goes on under a new label."""
    masks = np.zeros((frames, ROWS * SLOT * COLUMNS * SLOT), np.uint16)
    order = sorted(range(len(cells)), key=lambda index: cells[index].frame)
    free = [np.setdiff1d(cells[i].pixels, []).astype(int) for i in range(len(cells))]
    for index in order:  # a later cell gives way to an earlier one but keeps at least a pixel
        mask = masks[cells[index].frame]
        own = free[index][mask[free[index]] == 0]
        free[index] = own if len(own) else np.flatnonzero(mask == 0)[:1]
        mask[free[index]] = 1
    children = np.bincount([cell.previous for cell in cells if cell.previous >= 0], minlength=len(cells))
    track, rows = {}, []
    masks[:] = 0
    for index in order:
        cell = cells[index]
        last = cells[cell.previous] if cell.previous >= 0 else None
        if last and children[cell.previous] == 1 and last.frame == cell.frame - 1 and rng.random() >= cut:
            track[index] = track[cell.previous]
            rows[track[index] - 1][2] = cell.frame
        else:
            rows.append([len(rows) + 1, cell.frame, cell.frame, track[cell.previous] if last else 0])
            track[index] = len(rows)
        masks[cell.frame][free[index]] = track[index]
    shaped = masks.reshape(frames, ROWS * SLOT, COLUMNS * SLOT)
    return Movie(shaped, Lineage.from_rows(np.array(rows, np.int64).reshape(-1, 4)))
