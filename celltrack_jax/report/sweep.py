"""The arms of a sweep side by side: measures of their best checkpoints, and what they differ from the baseline by."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np

from celltrack_jax.io import files
from celltrack_jax.report import curves, document, tables

_NOT_MEASURES = ("step", "kind", "evaluation_s")
_ELSEWHERE = "or make room and run the same command again"
_MOST_CURVES = 60


class ArmResult(NamedTuple):
    """What an arm's runs came to."""

    name: str
    runs: int
    """How many there are, one per seed."""
    best: dict[int, dict[str, float]]
    """By seed of each run that is done: the measures of its best checkpoint."""
    history: Sequence[Mapping[str, Any]]
    """Rows of the metrics.jsonl of the first run that is done."""
    problems: list[str]
    """A line for each run that should be done and is not."""


def best_row(history: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Returns the measures of the evaluation with the largest `metric`; of the last one where it is nowhere defined.

    Args:
      history: the rows of a run's metrics.jsonl.
      metric: config.train.best_metric of the run.
    """
    rows = [row for row in history if row["kind"] == "eval"]
    scored = [row for row in rows if row.get(metric) is not None]
    if not rows:
        return {}
    row = max(scored, key=lambda row: row[metric]) if scored else rows[-1]
    return {key: value for key, value in row.items() if key not in _NOT_MEASURES and value is not None}


def table(arms: Sequence[ArmResult], metric: str) -> tables.Table:
    """Returns a row per arm; the first arm is the baseline.

    For each measure: the mean over seeds; the mean of the differences to the baseline's run of the same seed; and the
    sample standard deviation of these differences, None below two seeds.

    Args:
      arms: in their order.
      metric: the measure that comes first.
    """
    measures = list(dict.fromkeys(key for arm in arms for row in arm.best.values() for key in row))
    measures.sort(key=lambda key: key != metric)
    columns = ["arm", "done"]
    for measure in measures:
        columns += [measure, f"{measure} difference", f"{measure} spread"]
    rows: list[list[tables.Cell]] = []
    for arm in arms:
        row: list[tables.Cell] = [arm.name, f"{len(arm.best)}/{arm.runs}"]
        for measure in measures:
            values = [found[measure] for found in arm.best.values() if measure in found]
            differences = [] if arm is arms[0] else _paired(arm, arms[0], measure)
            row.append(mean(values) if values else None)
            row.append(mean(differences) if differences else None)
            row.append(stdev(differences) if len(differences) > 1 else None)
        rows.append([*row, "; ".join(arm.problems) or None])
    return tables.Table([*columns, "problem"], rows)


def write(
    workdir: Path, arms: Sequence[ArmResult], metric: str, facts: Mapping[str, object]
) -> tuple[tables.Table, list[Path]]:
    """Writes <workdir>/sweep.csv and report.html, and returns the table and both paths.

    Args:
      workdir: of the sweep.
      arms: in their order.
      metric: config.train.best_metric.
      facts: below the page's heading.

    Raises:
      InputError: they cannot be written.
    """
    found = table(arms, metric)
    title = f"Sweep {workdir.name}"
    note = (
        "Measures of each run's best checkpoint on held-out frames, means over seeds. A difference is to the "
        "baseline's run of the same seed, its spread the standard deviation over seeds."
    )
    body = [
        document.header(title, facts, [note]),
        document.section("Arms", tables.html(found)),
        document.section(f"{metric} over steps", document.panels(_panels(arms, metric))),
    ]
    paths = [workdir / "sweep.csv", workdir / "report.html"]
    texts = [tables.csv_text(found), document.document(title, "\n".join(filter(None, body)))]
    for path, text in zip(paths, texts, strict=True):
        files.replace_text(path, text, _ELSEWHERE)
    return found, paths


def _paired(arm: ArmResult, baseline: ArmResult, measure: str) -> list[float]:
    return [
        found[measure] - baseline.best[seed][measure]
        for seed, found in arm.best.items()
        if measure in found and measure in baseline.best.get(seed, {})
    ]


def _panels(arms: Sequence[ArmResult], metric: str) -> list[curves.Panel]:
    """A chart per arm, with the baseline beside it."""
    baseline = _curve(arms[0], metric)
    others = [arm for arm in arms[1:] if arm.history][:_MOST_CURVES]
    return [curves.Panel(arm.name, "step", [_curve(arm, metric), baseline]) for arm in others]


def _curve(arm: ArmResult, metric: str) -> curves.Curve:
    rows = [row for row in arm.history if row["kind"] == "eval" and row.get(metric) is not None]
    x, y = (np.array([row[key] for row in rows], float) for key in ("step", metric))
    return curves.Curve(arm.name, x, y)
