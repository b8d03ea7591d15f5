"""What the measures of `launch.evaluate` mean, in a few words each, and their table."""

from collections.abc import Mapping
from html import escape
from typing import Any

GROUPS: dict[str, dict[str, str]] = {
    "Cells": {
        "SEG": "how well masks cover the true cells: mean Jaccard index, a missed cell counts 0",
        "DET": "share of the work of finding cells that is done: missed, extra and merged cells cost",
        "OP_CSB": "mean of SEG and DET, the segmentation benchmark's rank",
    },
    "Tracks": {
        "TRA": "share of the work of finding cells and linking them that is done",
        "LNK": "share of the work of linking the cells found that is done",
        "OP_CTB": "mean of SEG and TRA, the tracking benchmark's rank",
        "CHOTA": "cells found and kept in their families over the whole movie",
    },
    "Biology": {
        "BIO": "mean of those of CT, TF, CCA and BC that are defined",
        "CT": "true tracks followed completely from begin to end",
        "TF": "longest stretch of a true track that one track follows",
        "CCA": "agreement of the lengths of cell cycles",
        "BC0": "divisions found in the very frame (F1)",
        "BC1": "divisions found within 1 frame (F1)",
        "BC2": "divisions found within 2 frames (F1)",
        "BC3": "divisions found within 3 frames (F1)",
        "OP_CLB": "mean of LNK and BIO, the linking benchmark's rank",
    },
    "Corrections to reach the truth": {
        "AOGM": "weighted sum of all corrections; 0 is perfect",
        "AOGM_0": "the same for an empty result, the worst that counts",
        "AOGM_NS": "merged cells to split",
        "AOGM_FN": "missed cells to add",
        "AOGM_FP": "extra cells to delete",
        "AOGM_ED": "wrong links to delete",
        "AOGM_EA": "missing links to add",
        "AOGM_EC": "links to turn from continuation to division, or back",
    },
}
HEADLINE = ("SEG", "DET", "TRA", "LNK")
"""Measures shown large even where they have no target."""
NOT_SCORES = ("valid", "problems")


def shown_value(value: Any) -> str:
    """A score as text: an em dash where it is not defined, counts whole, all else to four places."""
    if value is None:
        return "—"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) > 1):
        return f"{value:,.0f}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def tiles(scores: Mapping[str, Any], targets: Mapping[str, float]) -> str:
    """The measures with a target, and the headline ones, as large numbers."""
    names = [*(n for n in HEADLINE if n in scores), *(n for n in targets if n not in HEADLINE)]
    meaning = {name: text for group in GROUPS.values() for name, text in group.items()}
    parts = []
    for name in names:
        value = scores.get(name)
        share = min(max(float(value), 0.0), 1.0) if isinstance(value, int | float) else 0.0
        target = targets.get(name)
        mark = "" if target is None else f'<i style="left:{100 * target:.1f}%"></i>'
        parts.append(
            f'<div class="tile"><h3>{escape(name)}</h3><p class="value">{escape(_rounded(value))}</p>'
            f'<div class="meter"><b style="width:{100 * share:.1f}%"></b>{mark}</div>'
            f"{_verdict(value, target)}<p>{escape(meaning.get(name, ''))}</p></div>"
        )
    return f'<div class="tiles">{"".join(parts)}</div>' if parts else ""


def table(scores: Mapping[str, Any], targets: Mapping[str, float]) -> str:
    """All measures in groups, each with its meaning; unknown ones come last, as they are."""
    known = {name for group in GROUPS.values() for name in group}
    groups = dict(GROUPS) | {"Others": {n: "" for n in scores if n not in known and n not in NOT_SCORES}}
    bodies = []
    for title, group in groups.items():
        rows = "".join(
            f"<tr><th scope=row>{escape(name)}</th><td class=number>{escape(shown_value(scores[name]))}</td>"
            f"<td>{_verdict(scores[name], targets.get(name))}</td><td>{escape(text)}</td></tr>"
            for name, text in group.items()
            if name in scores
        )
        if rows:
            bodies.append(f"<tbody><tr><th scope=rowgroup colspan=4>{escape(title)}</th></tr>{rows}</tbody>")
    if not bodies:
        return ""
    head = "<tr><th scope=col>measure</th><th scope=col class=number>value</th><th scope=col>target</th>"
    return f"<table><thead>{head}<th scope=col>what it says</th></tr></thead>{''.join(bodies)}</table>"


def problems(scores: Mapping[str, Any]) -> str:
    """A warning where the result breaks the CTC rules."""
    if scores.get("valid", True):
        return ""
    listed = "".join(f"<li>{escape(str(problem))}</li>" for problem in scores.get("problems") or ())
    return (
        '<div class="warning" role="alert"><p><strong>Not scored:</strong> the result breaks the rules of the '
        f"Cell Tracking Challenge.</p><ul>{listed}</ul></div>"
    )


def _rounded(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else shown_value(value)


def _verdict(value: Any, target: float | None) -> str:
    if target is None:
        return ""
    if not isinstance(value, int | float):
        return f'<span class="verdict">target {target:g}</span>'
    met = value >= target
    word = f"✓ reaches {target:g}" if met else f"✗ below {target:g}"
    return f'<span class="verdict {"met" if met else "missed"}">{word}</span>'
