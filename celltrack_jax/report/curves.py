"""Curves as SVG: training history and cells per frame.

Shapes: P points of a curve.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from celltrack_jax.report.lineage_tree import nice_ticks

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 18, 12, 34
MOST_POINTS = 300
"""Longer curves are drawn as means of this many stretches: the screen shows no more."""
LOG_RATIO = 30
"""A panel of positive values whose largest exceeds its smallest by more than this gets a logarithmic axis."""
MACHINE_KEYS = (
    "input_wait", "samples_per_s", "step_s", "mfu", "roofline", "tflops_per_s", "learning_rate",
)  # fmt: skip
"""Keys of a history that tell of the machine rather than of what was learned, in the order shown."""
TITLES = {
    "input_wait": "input wait (share of time)",
    "samples_per_s": "samples per second",
    "step_s": "seconds per step",
    "mfu": "FLOP/s relative to the device's peak",
    "roofline": "speed relative to the roofline",
    "tflops_per_s": "TFLOP/s",
    "learning_rate": "learning rate",
}


class Curve(NamedTuple):
    """One line of a panel; not finite values are gaps."""

    name: str
    x: np.ndarray
    """(P,) float64, ascending."""
    y: np.ndarray
    """(P,) float64."""


class Panel(NamedTuple):
    """One chart."""

    title: str
    x_label: str
    curves: list[Curve]
    from_zero: bool = False
    """Whether the vertical axis has to begin at 0."""
    limits: tuple[float, float] | None = None
    """Ends of the vertical axis, for panels that are compared; None fits it to the values."""


def history_panels(history: Sequence[Mapping[str, Any]]) -> tuple[list[Panel], list[Panel]]:
    """Sorts the rows of a run's metrics.jsonl into panels, one per key, with a curve per kind of row.

    Args:
      history: rows with "step", "kind" and numbers; null is a value that was not finite.

    Returns:
      Panels of what was learned, the losses first, and panels of the machine.
    """
    keys = list(dict.fromkeys(key for row in history for key in row if key not in ("step", "kind")))
    keys = [key for key in keys if any(_is_number(row.get(key)) for row in history)]
    kinds = list(dict.fromkeys(str(row["kind"]) for row in history))
    panels = {}
    for key in keys:
        curves = []
        for kind in kinds:
            rows = [row for row in history if row["kind"] == kind and key in row]
            if rows:
                y = [float(row[key]) if _is_number(row[key]) else np.nan for row in rows]
                curves.append(Curve(kind, np.array([row["step"] for row in rows], float), np.array(y)))
        panels[key] = Panel(
            TITLES.get(key, key.replace("_", " ")), "step", curves, from_zero=key in MACHINE_KEYS
        )
    learned = sorted((key for key in keys if key not in MACHINE_KEYS), key=lambda key: "loss" not in key)
    machine = [key for key in MACHINE_KEYS if key in keys]
    return [panels[key] for key in learned], [panels[key] for key in machine]


def chart_svg(panel: Panel) -> str:
    """Draws a panel. Colours and dashes come from the page's style, by the classes curve0, curve1, ..."""
    curves = [_thinned(curve) for curve in panel.curves]
    x = np.concatenate([curve.x for curve in curves]) if curves else np.zeros(0)
    y = np.concatenate([curve.y for curve in curves]) if curves else np.zeros(0)
    y = y[np.isfinite(y)]
    if not len(y):
        return ""
    logarithmic = bool(
        not (panel.from_zero or panel.limits) and y.min() > 0 and y.max() / y.min() > LOG_RATIO
    )
    to_x, x_ticks = _scale(float(x.min()), float(x.max()), LEFT, WIDTH - RIGHT, 5, False)
    low, high = panel.limits or _limits(np.append(y, 0.0) if panel.from_zero else y, logarithmic)
    to_y, y_ticks = _scale(low, high, HEIGHT - BOTTOM, TOP, 4, logarithmic)
    if not np.mod(y, 1).any():  # counts: there is nothing between 1 and 2
        y_ticks = [tick for tick in y_ticks if tick % 1 == 0]

    parts = [f"<title>{escape(panel.title)} over {escape(panel.x_label)}</title>"]
    for tick in y_ticks:
        at = f"{to_y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{at}" dy="4">{_short(tick)}</text>')
    for tick in x_ticks:
        parts.append(f'<text class="x" x="{to_x(tick):.1f}" y="{HEIGHT - BOTTOM + 15}">{_short(tick)}</text>')
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(
        f'<text class="x name" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 4}">{escape(panel.x_label)}</text>'
    )
    for number, curve in enumerate(curves):
        parts.append(_curve(curve, number, to_x, to_y))
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _thinned(curve: Curve) -> Curve:
    if len(curve.x) <= MOST_POINTS:
        return curve
    stretches = np.array_split(np.arange(len(curve.x)), MOST_POINTS)
    means = [curve.y[s][np.isfinite(curve.y[s])] for s in stretches]
    y = np.array([m.mean() if len(m) else np.nan for m in means])
    return Curve(curve.name, np.array([curve.x[s].mean() for s in stretches]), y)


def _limits(y: np.ndarray, logarithmic: bool) -> tuple[float, float]:
    """The values' range, widened to 0 or 1 where these are near: a share is read against them."""
    low, high = float(y.min()), float(y.max())
    if logarithmic:
        return low, high
    if low >= 0 and low < 0.5 * high:
        low = 0.0
    if 0.8 < high <= 1:
        high = 1.0
    if high == low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    ticks = nice_ticks(low, high, 4)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    return float(np.floor(low / step + 1e-9) * step), float(np.ceil(high / step - 1e-9) * step)


def _scale(low: float, high: float, start: float, stop: float, wanted: int, logarithmic: bool):
    """Returns value -> pixel, and the values to mark."""
    if logarithmic:
        a, b = np.log10(low), np.log10(high)
        powers = [10.0**k for k in range(int(np.ceil(a - 1e-9)), int(np.floor(b + 1e-9)) + 1)]
        ticks = powers if len(powers) >= 2 else [low, high]
        return (lambda value: start + (np.log10(value) - a) / (b - a) * (stop - start)), ticks
    span = (high - low) or 1.0
    return (lambda value: start + (value - low) / span * (stop - start)), nice_ticks(low, high, wanted)


def _curve(curve: Curve, number: int, to_x, to_y) -> str:
    finite = np.isfinite(curve.y)
    stretches = np.split(np.arange(len(curve.y)), np.flatnonzero(~finite))
    parts = []
    for stretch in stretches:
        points = [f"{to_x(curve.x[i]):.1f},{to_y(curve.y[i]):.1f}" for i in stretch if finite[i]]
        if len(points) > 1:
            parts.append(f'<polyline points="{" ".join(points)}"/>')
    if finite.sum() <= 40:
        parts.extend(
            f'<circle cx="{to_x(curve.x[i]):.1f}" cy="{to_y(curve.y[i]):.1f}" r="2.5">'
            f"<title>{escape(curve.name)}, {_short(curve.x[i])}: {curve.y[i]:.4g}</title></circle>"
            for i in np.flatnonzero(finite)
        )
    return f'<g class="curve curve{number}">{"".join(parts)}</g>'


def _short(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.4g}"
