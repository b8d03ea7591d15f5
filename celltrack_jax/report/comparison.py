"""Several ways to segment the same images: a table, and a page of the images that each does worst and best.

Shapes: Y, X an image.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from celltrack_jax.io import files
from celltrack_jax.metrics.overlap import jaccard, overlap
from celltrack_jax.report import document, overlay, tables
from celltrack_jax.report.palette import TRACK_COLOURS, rgb
from celltrack_jax.report.viewer import data_url

NAME = "comparison"
"""Of the files, before .md, .json and .html."""
LONGEST_SIDE = 760
"""Pixels of a picture, of which a page has two for each image."""
MET_IOU = 0.5
_FOUND, _WRONG = rgb(TRACK_COLOURS[0]), rgb(TRACK_COLOURS[1])
_MEASURES = ("AP50", "AP75", "AP90", "mAP")
_ELSEWHERE = "or make room and run the same command again"
_KEY = (
    "Left the truth: blue cells were found, by one that overlaps with an IoU above 0.5, orange ones were missed. Right "
    "what was found: orange cells are none of the truth."
)


class Shown(NamedTuple):
    """An image as one way to segment it saw it."""

    name: str
    score: float
    """Its mAP."""
    picture: np.ndarray
    """(Y, X)."""
    truth: np.ndarray
    """(Y, X) integers."""
    labels: np.ndarray
    """(Y, X) integers."""


class Row(NamedTuple):
    """One way to segment the images."""

    name: str
    measures: Mapping[str, float | None]
    """As `metrics.competition` names them; empty where nothing was judged."""
    scores: Mapping[str, float | None]
    """mAP of each image by its name; None where neither truth nor result has a cell."""
    note: str
    """What was judged, or why nothing was."""
    worst: Sequence[Shown] = ()
    best: Sequence[Shown] = ()


def table(rows: Sequence[Row]) -> tables.Table:
    """Returns a row each: the score at three thresholds, its mean over all, by category, and COCO's where known."""
    every = list(dict.fromkeys(key for row in rows for key in row.measures))
    categories = sorted(key.removesuffix("/mAP") for key in every if key.endswith("/mAP"))
    columns = [*((name, name) for name in _MEASURES), *((name, f"{name}/mAP") for name in categories)]
    columns += [("COCO AP", "coco_AP")] if "coco_AP" in every else []
    cells: list[list[tables.Cell]] = [
        [row.name, *(row.measures.get(key) for _, key in columns), len(row.scores) or None, row.note]
        for row in rows
    ]
    return tables.Table(["model", *(name for name, _ in columns), "images", "note"], cells)


def write(
    workdir: Path, rows: Sequence[Row], facts: Mapping[str, object], notes: Sequence[str]
) -> tuple[tables.Table, list[Path]]:
    """Writes <workdir>/comparison.md, .json and .html, and returns the table and the paths.

    Args:
      workdir: of the comparison.
      rows: in their order.
      facts: below the page's heading.
      notes: paragraphs of plain text.

    Raises:
      InputError: they cannot be written.
    """
    found = table(rows)
    title = f"Comparison {workdir.name}"
    rows_as_json: list[dict[str, Any]] = [
        {"model": row.name, **row.measures, "images": len(row.scores), "note": row.note, "scores": row.scores}
        for row in rows
    ]
    content = {"facts": {key: str(value) for key, value in facts.items()}, "rows": rows_as_json}
    body = [
        document.header(title, facts, notes),
        document.section("Scores", tables.html(found)),
        *(document.section(row.name, _images(row)) for row in rows),
    ]
    texts = {
        "md": tables.markdown(found),
        "json": json.dumps(content, indent=1, allow_nan=False) + "\n",
        "html": document.document(title, "\n".join(filter(None, body))),
    }
    paths = [workdir / f"{NAME}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        files.replace_text(path, text, _ELSEWHERE)
    return found, paths


def _images(row: Row) -> str:
    parts = []
    for title, images in (("Worst images", row.worst), ("Best images", row.best)):
        if images:
            parts.append(f"<h3>{title}</h3>{''.join(map(_pair, images))}")
    return f"<p>{escape(_KEY)}</p>{''.join(parts)}" if parts else ""


def _pair(one: Shown) -> str:
    """An image twice, with the outlines of the truth and with those that were found."""
    both = overlap(one.truth, one.labels, 0)
    met = jaccard(both) > MET_IOU
    sides = []
    for side, labels, known, own in (
        ("truth", one.truth, both.ref_label, both.ref[met]),
        ("found", one.labels, both.comp_label, both.comp[met]),
    ):
        colours = dict.fromkeys(known.tolist(), _WRONG) | dict.fromkeys(known[own].tolist(), _FOUND)
        picture = _smaller(overlay.overlay(one.picture, labels, colours))
        said = escape(f"{one.name}, {side}")
        sides.append(f'<img src="{data_url(picture, "jpeg")}" alt="{said}">')
    counts = (
        f"{len(both.ref_label)} cells, {len(both.comp_label)} found, {np.count_nonzero(met)} of them right"
    )
    caption = f"<strong>{escape(one.name)}</strong> mAP {one.score:.3f}; {counts}"
    return f'<figure><div class="pair">{"".join(sides)}</div><figcaption>{caption}</figcaption></figure>'


def _smaller(picture: np.ndarray) -> np.ndarray:
    if overlay.picture_scale(picture.shape[:2], LONGEST_SIDE) == 1:
        return picture
    height, width = overlay.picture_size(picture.shape[:2], LONGEST_SIDE)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
