"""Measures of a sweep over one setting of its config, a line for each value of another one: a picture for a README.

Shapes: P points of a line.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.report.palette import TRACK_COLOURS

_WIDTH, _HEIGHT, _TOP, _BOTTOM, _LEFT, _RIGHT = 250, 210, 30, 36, 34, 8
_KEY = 26
"""Height of the key below the charts."""
_STYLE = (
    "text{font:11px sans-serif;fill:#666}.title{font-size:12px;font-weight:bold}.key{font-size:12px}"
    "line{stroke:#8884}polyline{fill:none;stroke-width:2}"
)


class Run(NamedTuple):
    """One run of a sweep."""

    config: Mapping[str, Any]
    best: Mapping[str, float]
    """Measures of its best checkpoint."""
    arm: str
    """Its name in the sweep."""


class Line(NamedTuple):
    """One measure of the runs with one value of `by`."""

    name: str
    x: np.ndarray
    """(P,) ascending."""
    mean: np.ndarray
    """(P,) over seeds."""
    low: np.ndarray
    high: np.ndarray
    """(P,) least and largest over seeds."""


def lines(runs: Sequence[Run], measure: str, x: str, by: str) -> list[Line]:
    """Gathers one measure of a sweep.

    Args:
      runs: of the sweep.
      measure: name of it.
      x: dotted key of the config whose values, numbers, are the horizontal axis.
      by: dotted key whose values tell the lines apart.

    Raises:
      InputError: no run has the measure or the keys, a measure is not in 0..1, or a value of x is no number.
    """
    found: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        if measure in run.best:
            value = checked(run, measure)
            place, line = _number(run.config, x), str(_value(run.config, by))
            found.setdefault(line, {}).setdefault(place, []).append(value)
    if not found:
        known = ", ".join(dict.fromkeys(key for run in runs for key in run.best))
        raise InputError(f"no run of the sweep has the measure {measure!r}: it has {known or 'none yet'}")
    return [
        Line(
            name,
            np.array(sorted(of_line)),
            *(np.array([reduce(of_line[k]) for k in sorted(of_line)]) for reduce in (np.mean, min, max)),
        )
        for name, of_line in found.items()
    ]


def checked(run: Run, measure: str) -> float:
    """Returns a measure of a run, which charts can show."""
    value = run.best[measure]
    if not 0 <= value <= 1:
        raise InputError(f"{measure!r} is {value:g} in a run: charts go from 0 to 1, so take another measure")
    return value


def svg(charts: Mapping[str, Sequence[Line]], x_label: str) -> str:
    """Draws charts side by side, from 0 to 1, as a file of its own.

    Args:
      charts: by title; lines of one name have one colour.
      x_label: of all of them.
    """
    names = list(dict.fromkeys(line.name for chart in charts.values() for line in chart))
    colour = {name: TRACK_COLOURS[i % len(TRACK_COLOURS)] for i, name in enumerate(names)}
    places = sorted({float(x) for chart in charts.values() for line in chart for x in line.x})
    parts = [
        _chart(title, chart, colour, places, x_label, i * _WIDTH)
        for i, (title, chart) in enumerate(charts.items())
    ]
    width, height = _WIDTH * len(charts), _HEIGHT + _KEY
    for i, name in enumerate(names):
        at = _LEFT + 130 * i
        parts.append(
            f'<line x1="{at}" x2="{at + 22}" y1="{height - 10}" y2="{height - 10}" '
            f'style="stroke:{colour[name]};stroke-width:3"/>'
            f'<text class="key" x="{at + 28}" y="{height - 6}">{escape(name)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}"><style>{_STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _chart(
    title: str,
    chart: Sequence[Line],
    colour: Mapping[str, str],
    places: Sequence[float],
    x_label: str,
    offset: float,
) -> str:
    """Values of x are as far apart as their logarithms, if all are positive."""
    values = np.log(places) if min(places) > 0 else np.array(places)
    span = float(values[-1] - values[0]) or 1.0
    inner = _WIDTH - _LEFT - _RIGHT - 16
    x_of = {
        x: offset + _LEFT + 8 + inner * (value - values[0]) / span
        for x, value in zip(places, values, strict=True)
    }
    base = _HEIGHT - _BOTTOM

    def y_of(value: float) -> float:
        return base - (base - _TOP) * float(np.clip(value, 0, 1))

    parts = [f'<text class="title" x="{offset + _LEFT}" y="16">{escape(title)}</text>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = f"{y_of(tick):.1f}"
        parts.append(f'<line x1="{offset + _LEFT}" x2="{offset + _WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{offset + _LEFT - 6}" y="{y}" dy="4" text-anchor="end">{tick:g}</text>')
    for x in places:
        parts.append(f'<text x="{x_of[x]:.1f}" y="{base + 15}" text-anchor="middle">{x:g}</text>')
    middle = offset + _LEFT + (_WIDTH - _LEFT - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{base + 30}" text-anchor="middle">{escape(x_label)}</text>')
    for line in chart:
        points = " ".join(f"{x_of[x]:.1f},{y_of(y):.1f}" for x, y in zip(line.x, line.mean, strict=True))
        parts.append(f'<polyline points="{points}" style="stroke:{colour[line.name]}"/>')
        for x, low, high in zip(line.x, line.low, line.high, strict=True):
            at = f"{x_of[x]:.1f}"
            ends = f'y1="{y_of(low):.1f}" y2="{y_of(high):.1f}"'
            style = f"stroke:{colour[line.name]};stroke-width:1.5"
            parts.append(f'<line x1="{at}" x2="{at}" {ends} style="{style}"/>')
    return "".join(parts)


def _number(config: Mapping[str, Any], key: str) -> float:
    value = _value(config, key)
    if not isinstance(value, int | float):
        raise InputError(
            f"{key} is {value!r} in a run, which has no place on an axis: give a key of numbers as --x"
        )
    return float(value)


def _value(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise InputError(f"the runs' config has no {key}: give a key as in --config.{key}=...")
        found = found[part]
    return found
