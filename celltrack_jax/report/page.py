"""One HTML page about one run: scores, a frame viewer, lineage trees, curves, the config.

The page holds everything it shows. It loads nothing, and its content security policy forbids it to.

Shapes: Y X of a frame, Z of a volume, K tracks.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from celltrack_jax.io import files
from celltrack_jax.io.link_scores import LinkScores
from celltrack_jax.lineage import Lineage
from celltrack_jax.report import curves, document, lineage_tree, link_layer, measures, overlay
from celltrack_jax.report.palette import TRACK_COLOURS, colour_index, rgb
from celltrack_jax.report.viewer import Annotation, Read, data_url, shown_frames, viewer_data

TRUTH_COLOUR = "var(--ink-soft)"
TRUTH_BOXES = """<label><input type="checkbox" id="show-truth"> truth <kbd>t</kbd></label>
<label><input type="checkbox" id="show-errors"> errors (× missed, + extra) <kbd>e</kbd></label>"""
LINKS_BOX = """<label><input type="checkbox" id="show-links"> links <kbd>c</kbd></label>"""
LINKS_KEY = """Links lead to a cell from where it may have been: solid ones were chosen, dashed ones were not;
<span class="sure">blue</span> is probable, <span class="unsure">orange</span> is not. """


def write_page(
    path: Path | str,
    *,
    title: str,
    frames: Sequence[int],
    image: Read,
    result: Annotation,
    truth: Annotation | None = None,
    links: LinkScores | None = None,
    facts: Mapping[str, object] | None = None,
    scores: Mapping[str, Any] | None = None,
    targets: Mapping[str, float] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    config: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Writes the page; the same arguments give the same bytes.

    Args:
      path: the HTML file; its folder is made when absent.
      title: the heading.
      frames: frame numbers of the movie in order; may be empty.
      image: reads a frame.
      result: masks and tracks that were found.
      truth: masks and tracks to compare with.
      links: what a trained linker thought of the result's links and of those it did not choose.
      facts: what, when, on which device, how long: shown below the heading in this order.
      scores: as in the JSON of `launch.evaluate`; further numbers are shown without an explanation.
      targets: by measure, the value to reach.
      history: the rows of the run's metrics.jsonl.
      config: the run's, shown folded.
      notes: paragraphs of plain text.

    Raises:
      InputError: the disk is full, or refuses.
    """
    annotated = (result, truth) if truth else (result,)
    cells = sum(int(cells_per_frame(annotation.lineage, frames).sum()) for annotation in annotated)
    shown = shown_frames(frames, cells)
    data = viewer_data(shown, image, result, truth, links)
    scores, targets = scores or {}, targets or {}
    sections = [
        document.header(title, facts or {}, notes),
        measures.problems(scores),
        measures.tiles(scores, targets),
        _viewer_section(frames, image, result, truth, data),
        _lineage_section(frames, result, truth, links),
        _history_section(history),
        document.section("Measures", measures.table(scores, targets)),
        _config_section(config),
    ]
    # "<" is written as an escape so that no text in the data can close the script element.
    packed = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    scripts = (
        f'<script type="application/json" id="movie">{packed}</script>\n'
        f"<script>{document.text('viewer.js')}</script>"
    )
    html = document.document(title, "\n".join(filter(None, sections)), scripts)
    files.replace_text(Path(path), html, "or write the page elsewhere")


def _viewer_section(
    frames: Sequence[int], image: Read, result: Annotation, truth: Annotation | None, data: Mapping[str, Any]
) -> str:
    shown = data["frames"]
    if not shown:
        return document.section("Movie", "<p>The movie has no frames.</p>")
    pixels = np.asarray(image(shown[0]))
    projected = "Volumes are shown as maximum projections. " if pixels.ndim == 3 else ""
    skipped = f"{len(shown)} of {len(frames)} frames are shown. " if len(shown) < len(frames) else ""
    truth_boxes = TRUTH_BOXES if truth else ""
    links_box, links_key = (LINKS_BOX, LINKS_KEY) if data["links"] is not None else ("", "")
    height, width = overlay.picture_size(pixels.shape, None)
    viewer = f"""<figure class="viewer">
<div class="stage" style="aspect-ratio:{width}/{height}">
<canvas id="picture"></canvas><canvas id="drawing" role="img" aria-label="Frame with outlines"
data-first="{frames[0]}" data-last="{frames[-1]}"></canvas>
<noscript><img alt="First frame with the outlines of the result" src="{_poster(pixels, shown[0], result)}">
</noscript></div>
<div class="controls">
<button type="button" id="play" aria-pressed="false">Play</button>
<input type="range" id="time" min="0" max="{len(shown) - 1}" value="0" aria-label="Frame">
<output id="frame" for="time"></output>
</div>
<div class="controls">
<label><input type="checkbox" id="show-result" checked> result <kbd>r</kbd></label>
{truth_boxes}
{links_box}
<label><input type="checkbox" id="show-tails" checked> tails <kbd>l</kbd></label>
<label><input type="checkbox" id="show-names"> numbers <kbd>n</kbd></label>
<label>brightness <input type="range" id="brightness" min="50" max="300" value="100"></label>
</div>
<figcaption><span id="selected" role="status">Select a cell or a branch of the tree to follow its track.</span>
{links_key}{projected}{skipped}</figcaption>
</figure>"""
    return document.section(
        "Movie", f'<div class="columns">{viewer}<div>{_summary(frames, result, truth, data)}</div></div>'
    )


def _poster(pixels: np.ndarray, frame: int, result: Annotation) -> str:
    """The first frame for readers without scripts, and for print."""
    labels = result.masks(frame)
    lineage = result.lineage
    colours = {
        label: rgb(TRACK_COLOURS[c])
        for label, c in zip(lineage.label.tolist(), colour_index(lineage).tolist(), strict=True)
    }
    empty = np.zeros(pixels.shape, np.uint8)
    return data_url(overlay.overlay(pixels, empty if labels is None else labels, colours), "png")


def _summary(
    frames: Sequence[int], result: Annotation, truth: Annotation | None, data: Mapping[str, Any]
) -> str:
    """Counts of the result, beside those of the truth where there is one, cells and errors per frame."""
    columns = {"result": result.lineage} | ({"truth": truth.lineage} if truth else {})
    counted = {name: _counts(lineage) for name, lineage in columns.items()}
    head = "".join(f"<th scope=col class=number>{name}</th>" for name in columns)
    rows = "".join(
        f"<tr><th scope=row>{key}</th>"
        + "".join(f"<td class=number>{counts[key]}</td>" for counts in counted.values())
        + "</tr>"
        for key in counted["result"]
    )
    at = np.asarray(frames, np.float64)
    alive = [curves.Curve(name, at, cells_per_frame(lineage, frames)) for name, lineage in columns.items()]
    panel = curves.Panel("cells per frame", "frame", alive)
    table = f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return table + document.figure(panel) + (document.figure(_errors(data)) if truth else "")


def _errors(data: Mapping[str, Any]) -> curves.Panel:
    at = np.asarray(data["frames"], np.float64)
    counts = {name: np.array([len(labels) for labels in data[name]], float) for name in ("missed", "extra")}
    return curves.Panel("errors per frame", "frame", [curves.Curve(n, at, y) for n, y in counts.items()])


def cells_per_frame(lineage: Lineage, frames: Sequence[int]) -> np.ndarray:
    """(T,) float64, tracks alive in each of T frames."""
    at = np.asarray(frames, np.int64)[:, None]
    return ((lineage.begin <= at) & (at <= lineage.end)).sum(axis=1).astype(np.float64)


def _counts(lineage: Lineage) -> dict[str, str]:
    lengths = lineage.end - lineage.begin + 1
    _, children = np.unique(lineage.parent[lineage.parent > 0], return_counts=True)
    return {
        "cells in all frames": f"{lengths.sum():,}",
        "tracks": f"{len(lengths):,}",
        "divisions": f"{np.count_nonzero(children > 1):,}",
        "frames per track, median": f"{np.median(lengths):g}" if len(lengths) else "—",
    }


def _lineage_section(
    frames: Sequence[int], result: Annotation, truth: Annotation | None, links: LinkScores | None
) -> str:
    if not len(frames):
        return ""
    doubts = link_layer.doubts(links) if links else {}
    colour = colour_index(result.lineage).tolist()
    trees = {
        "result": lineage_tree.tree_svg(
            result.lineage, frames, lambda i: TRACK_COLOURS[colour[i]], "Lineage of the result", doubts
        )
    }
    if truth:
        trees["truth"] = lineage_tree.tree_svg(
            truth.lineage, frames, lambda i: TRUTH_COLOUR, "Lineage of the truth"
        )
    panels = "".join(
        f"<div><h3>{name if truth else ''}</h3>"
        f'<div class="forest" data-forest="{name}" tabindex="0">{tree}</div></div>'
        for name, tree in trees.items()
    )
    said = "Time runs to the right; a dot is a division. Colours are those of the movie above."
    if links:
        count = sum(map(len, doubts.values()))
        said += (
            f" {count:,} links that the network gave less than {link_layer.SURE:.0%} are marked red: select one to see "
            "its frame."
        )
    return document.section("Lineage", f'<p>{said}</p><div class="columns even">{panels}</div>')


def _history_section(history: Sequence[Mapping[str, Any]]) -> str:
    learned, machine = curves.history_panels(history)
    body = ""
    if learned:
        body += f'<div class="panels">{"".join(map(document.figure, learned))}</div>'
    if machine:
        body += f'<h3>The machine</h3><div class="panels">{"".join(map(document.figure, machine))}</div>'
    return document.section("Training", body)


def _config_section(config: Mapping[str, Any] | None) -> str:
    if config is None:
        return ""
    text = escape(json.dumps(config, indent=2, default=str))
    return f"<section><details><summary>Config of the run</summary><pre>{text}</pre></details></section>"
