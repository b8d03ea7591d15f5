"""Precision and recall of several results by the IoU that a match must exceed: charts side by side and a table."""

from collections.abc import Mapping

import numpy as np

from celltrack_jax.metrics.instances import PrecisionRecall
from celltrack_jax.report import curves, document, tables

X_LABEL = "IoU that a match must exceed"


def panel(name: str, curve: PrecisionRecall) -> curves.Panel:
    """Returns the chart of one result, from 0 to 1 for all of them."""
    lines = [
        curves.Curve("precision", curve.threshold, curve.precision),
        curves.Curve("recall", curve.threshold, curve.recall),
    ]
    return curves.Panel(name, X_LABEL, lines, limits=(0.0, 1.0))


def table(results: Mapping[str, PrecisionRecall]) -> tables.Table:
    """Returns a row per result and threshold."""
    rows: list[list[tables.Cell]] = []
    for name, curve in results.items():
        for threshold, *scores in zip(*curve, strict=True):
            rows.append(
                [name, f"{threshold:.2f}", *(None if np.isnan(score) else float(score) for score in scores)]
            )
    return tables.Table(["result", "IoU >", "precision", "recall", "F1"], rows)


def page(title: str, results: Mapping[str, PrecisionRecall]) -> str:
    """Returns a whole HTML page.

    Args:
      title: its heading.
      results: curves by the names of the results, in the order shown.
    """
    charts = document.panels([panel(name, curve) for name, curve in results.items()])
    parts = [
        document.header(title, {"results": len(results)}),
        document.section("Precision and recall", charts),
        document.section("Values", tables.html(table(results))),
    ]
    return document.document(title, "".join(parts))
