"""Lineage trees: where each track is drawn, and the drawing as SVG.

Time runs to the right, every leaf has a row of its own, and a mother lies half way between her outer daughters.

Shapes: K tracks.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from celltrack_jax.lineage import Lineage
from celltrack_jax.report.link_layer import Doubt

AXIS_HEIGHT = 22
LABELLED_TRACKS = 200
"""Trees of up to this many tracks have rows high enough for the track's number."""


class Layout(NamedTuple):
    """Where tracks are drawn."""

    row: np.ndarray
    """(K,) float64, vertical place in rows from the top; leaves have whole numbers."""
    parent: np.ndarray
    """(K,) int64, index of the track that the connector comes from, -1 for none."""
    rows: int
    """Number of rows."""


def layout(lineage: Lineage) -> Layout:
    """Places tracks so that no two subtrees share rows, and hence no connector crosses a track.

    Bad lineages are drawn as far as they can be: a parent that is not listed, or a track among its own
    ancestors, leaves a root.
    """
    K = len(lineage.label)
    index = {label: i for i, label in reversed(list(enumerate(lineage.label.tolist())))}
    parent = np.array(
        [index.get(label, -1) if label > 0 else -1 for label in lineage.parent.tolist()], np.int64
    )
    order = sorted(range(K), key=lambda i: (lineage.begin[i], lineage.label[i], i))
    children: list[list[int]] = [[] for _ in range(K)]
    for i in order:
        if parent[i] >= 0:
            children[parent[i]].append(i)

    row = np.full(K, np.nan)
    rows = 0
    reached = np.zeros(K, bool)
    roots = [i for i in order if parent[i] < 0]
    for root in [*roots, *order]:  # what no root reaches lies on a cycle; its earliest track becomes a root
        if reached[root]:
            continue
        parent[root] = -1
        below = _preorder(root, children, reached)
        for i in below:
            if not any(parent[child] == i for child in children[i]):
                row[i] = rows
                rows += 1
        for i in reversed(below):
            places = [row[child] for child in children[i] if parent[child] == i]
            if places:
                row[i] = (min(places) + max(places)) / 2
    return Layout(row, parent, rows)


def tree_svg(
    lineage: Lineage,
    frames: Sequence[int],
    colour: Callable[[int], str],
    name: str,
    doubts: Mapping[int, Sequence[Doubt]] | None = None,
) -> str:
    """Draws a lineage as an SVG that fills the width it is given, with a time axis of its own above it.

    Args:
      lineage: the tracks.
      frames: first and last frame of the axis, any others ignored.
      colour: of the track at an index.
      name: what the tree shows, for those who cannot see it, and the prefix of element ids.
      doubts: by track, links to mark.
    """
    first, last = (min(frames), max(frames)) if len(frames) else (0, 0)
    place = layout(lineage)
    height = 16 if len(lineage.label) <= LABELLED_TRACKS else 9

    def x(time: float) -> str:
        return f"{100 * (time - first + 0.5) / (last - first + 1):.2f}%"

    def y(track: int) -> str:
        return f"{(place.row[track] + 0.8) * height:.1f}"

    children: list[list[int]] = [[] for _ in lineage.label]
    for i, parent in enumerate(place.parent.tolist()):
        if parent >= 0:
            children[parent].append(i)
    parts = []
    for i, below in enumerate(children):
        track = _Track(*(int(column[i]) for column in lineage))
        mother = int(place.parent[i])
        lines = [
            _doubt(one, x, y(i), y(mother) if one.from_mother and mother >= 0 else y(i))
            for one in (doubts or {}).get(track.label, ())
        ]
        lines.append(_line(x(track.begin - 0.5), y(i), x(track.end + 0.5), y(i)))
        if below:
            places = sorted(below, key=lambda child: place.row[child])
            lines.append(_line(x(track.end + 0.5), y(places[0]), x(track.end + 0.5), y(places[-1]), "join"))
            lines.append(f'<circle cx="{x(track.end + 0.5)}" cy="{y(i)}" r="{height / 5:.1f}"/>')
        for child in below:
            if lineage.begin[child] != track.end + 1:
                start = x(int(lineage.begin[child]) - 0.5)
                lines.append(_line(x(track.end + 0.5), y(child), start, y(child), "gap"))
        if height > 10:
            lines.append(f'<text x="{x(track.begin - 0.5)}" y="{y(i)}" dx="3" dy="-3">{track.label}</text>')
        parts.append(
            f'<g class="track" data-track="{track.label}" style="--c:{escape(colour(i))}">'
            f"<title>{escape(_track_sentence(track, [int(lineage.label[c]) for c in below]))}</title>"
            + "".join(lines)
            + "</g>"
        )
    count = len(lineage.label)
    return (
        f'<div class="tree" role="img" aria-label="{escape(name)}: {count} tracks, frames {first} to {last}">'
        + _axis(first, last, x)
        + f'<svg class="branches" height="{(max(place.rows, 1) + 1) * height}">'
        + "".join(parts)
        + '<line class="cursor" x1="0" x2="0" y1="0" y2="100%"/></svg></div>'
    )


def _track_sentence(track: "_Track", daughters: Sequence[int]) -> str:
    """A track in words."""
    text = f"track {track.label}, frames {track.begin} to {track.end}"
    if track.parent:
        text += f", from {track.parent}"
    if daughters:
        text += f", continues as {daughters[0]}" if len(daughters) == 1 else ""
        text += f", divides into {', '.join(map(str, daughters))}" if len(daughters) > 1 else ""
    return text


def nice_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from low to high, about as many as wanted, at steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    start = np.ceil(low / step - 1e-9)
    return [float(k * step) for k in range(int(start), int(np.floor(high / step + 1e-9)) + 1)]


class _Track(NamedTuple):
    label: int
    begin: int
    end: int
    parent: int


def _preorder(root: int, children: list[list[int]], reached: np.ndarray) -> list[int]:
    """The subtree of a root, mothers before daughters; a stack, because lineages may be deep."""
    found, stack = [], [root]
    while stack:
        i = stack.pop()
        if reached[i]:
            continue
        reached[i] = True
        found.append(i)
        stack.extend(reversed(children[i]))
    return found


def _line(x1: str, y1: str, x2: str, y2: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f'<line{mark} x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _doubt(one: Doubt, x: Callable[[float], str], row: str, source_row: str) -> str:
    """A halo around a link: along the track, or from its mother's row, wherever the link begins, to its first cell."""
    begin = x(one.source_frame if row == source_row else one.source_frame + 0.5)
    along = _line(begin, row, x(one.frame), row)
    across = _line(begin, source_row, begin, row) if row != source_row else ""
    said = f"link from frame {one.source_frame} to {one.frame}: {one.probability:.2f}"
    opacity = 0.25 + 0.5 * (1 - one.probability)
    return (
        f'<g class="doubt" data-frame="{one.frame}" style="opacity:{opacity:.2f}"><title>{said}</title>'
        f"{across}{along}</g>"
    )


def _axis(first: int, last: int, x: Callable[[float], str]) -> str:
    ticks = [t for t in nice_ticks(first, last, 12) if t == int(t)]
    marks = "".join(
        f'<line x1="{x(t)}" x2="{x(t)}" y1="{AXIS_HEIGHT - 5}" y2="{AXIS_HEIGHT}"/>'
        f'<text x="{x(t)}" y="{AXIS_HEIGHT - 8}">{t:.0f}</text>'
        for t in ticks
    )
    return f'<svg class="axis" height="{AXIS_HEIGHT}" aria-hidden="true">{marks}</svg>'
