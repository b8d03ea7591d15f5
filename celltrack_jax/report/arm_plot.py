"""Measures of the arms of a sweep, a row for each arm and a chart for each measure: a picture for a README."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from celltrack_jax.errors import InputError
from celltrack_jax.report.palette import TRACK_COLOURS
from celltrack_jax.report.sweep_plot import Run, checked

_ROW, _TOP, _BOTTOM, _NAMES, _WIDTH, _GAP = 18, 30, 24, 110, 200, 50
_STYLE = "text{font:11px sans-serif;fill:#666}.title{font-size:12px;font-weight:bold}line{stroke:#8884}"


class Row(NamedTuple):
    """One measure of one arm, over seeds."""

    arm: str
    mean: float
    low: float
    high: float


def rows(runs: Sequence[Run], measure: str) -> list[Row]:
    """Gathers one measure of every arm that has it, in the order of the sweep.

    Raises:
      InputError: no run has the measure, or one has it outside of 0..1.
    """
    found: dict[str, list[float]] = {}
    for run in runs:
        if measure in run.best:
            found.setdefault(run.arm, []).append(checked(run, measure))
    if not found:
        known = ", ".join(dict.fromkeys(key for run in runs for key in run.best))
        raise InputError(f"no run of the sweep has the measure {measure!r}: it has {known or 'none yet'}")
    return [Row(arm, sum(each) / len(each), min(each), max(each)) for arm, each in found.items()]


def svg(charts: Mapping[str, Sequence[Row]]) -> str:
    """Draws charts side by side, from 0 to 1, with the arms from top to bottom; a file of its own.

    Args:
      charts: by title.
    """
    arms = list(dict.fromkeys(row.arm for chart in charts.values() for row in chart))
    foot = _TOP + _ROW * len(arms)
    parts = [
        f'<text x="{_NAMES - 8}" y="{_middle(i) + 4}" text-anchor="end">{escape(arm)}</text>'
        for i, arm in enumerate(arms)
    ]
    for k, (title, chart) in enumerate(charts.items()):
        left = _NAMES + k * (_WIDTH + _GAP)
        parts.append(f'<text class="title" x="{left}" y="14">{escape(title)}</text>')
        for share in (0, 0.25, 0.5, 0.75, 1):
            x = left + share * _WIDTH
            parts.append(f'<line x1="{x:g}" x2="{x:g}" y1="{_TOP - 6}" y2="{foot}"/>')
            parts.append(f'<text x="{x:g}" y="{foot + 14}" text-anchor="middle">{share:g}</text>')
        for row in chart:
            y = _middle(arms.index(row.arm))
            low, mean, high = (left + share * _WIDTH for share in (row.low, row.mean, row.high))
            colour = TRACK_COLOURS[k % len(TRACK_COLOURS)]
            parts.append(
                f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" style="stroke:{colour};stroke-width:2"/>'
                f'<circle cx="{mean:.1f}" cy="{y}" r="4" style="fill:{colour}"/>'
                f'<text x="{left + _WIDTH + 8}" y="{y + 4}">{row.mean:.3f}</text>'
            )
    width, height = _NAMES + len(charts) * (_WIDTH + _GAP), foot + _BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>{_STYLE}</style>{''.join(parts)}</svg>\n"
    )


def _middle(row: int) -> float:
    return _TOP + _ROW * (row + 0.5)
