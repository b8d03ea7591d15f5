"""The measures of the Cell Tracking Challenge, assembled. A measure that is not defined is None.

celltrackingchallenge.net/evaluation-methodology; py-ctcmetrics 1.3.3 is followed where descriptions leave a choice.
"""

from collections.abc import Sequence

import numpy as np

from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics import aogm, biological
from celltrack_jax.metrics.aogm import Operation, aogm_operations
from celltrack_jax.metrics.chota import chota
from celltrack_jax.metrics.matching import Matching, check_labels, match_frames
from celltrack_jax.metrics.overlap import Overlap, jaccard, matches, overlap

__all__ = ["MEASURES", "Operation", "Overlap", "aogm_operations", "ctc_measures", "overlap"]

MEASURES = (
    *("DET", "SEG", "TRA", "AOGM", "AOGM_0", *(f"AOGM_{kind}" for kind in aogm.WEIGHTS), "LNK"),
    *("OP_CSB", "OP_CTB", "CT", "TF", "BC0", "BC1", "BC2", "BC3", "CCA", "BIO", "OP_CLB", "CHOTA"),
)
"""Keys of the measures, in the order in which they are reported."""

BIO_TOLERANCE = 2
"""The i of the BC(i) in BIO, in frames: the default of the challenge's Java tool; py-ctcmetrics reports one BIO for
each i."""


def ctc_measures(
    overlaps: Sequence[Overlap] | None,
    truth: Lineage | None,
    result: Lineage | None,
    seg: Sequence[Overlap] | None,
) -> dict[str, float | int | None]:
    """Returns every measure by its key in `MEASURES`.

    Args:
      overlaps: one per frame with tracking truth (TRA); None where there is none. A result without any cell
        still has its overlaps, with no computed objects.
      truth: the reference tracks. Without them, or without the result's, only DET and SEG are scored.
      result: the computed tracks; an empty lineage scores 0.
      seg: one per segmentation truth (SEG): a frame, or an annotated plane of one, whose objects then count
        for themselves.

    Raises:
      InputError: a mask has a label that its lineage lacks.
    """
    measures: dict[str, float | int | None] = dict.fromkeys(MEASURES)
    measures["SEG"] = segmentation_accuracy(seg) if seg is not None else None
    if overlaps is not None:
        matching = match_frames(overlaps)
        if truth is not None and result is not None:
            check_labels(matching.ref, truth, "reference")
            check_labels(matching.comp, result, "result")
            measures |= tracking_accuracy(matching, truth, result)
            measures |= biological_accuracy(matching, truth, result)
            measures["CHOTA"] = chota(matching, truth, result)
        else:
            measures |= detection_accuracy(matching)
    measures["OP_CSB"] = mean_of(measures["SEG"], measures["DET"])
    measures["OP_CTB"] = mean_of(measures["SEG"], measures["TRA"])
    measures["OP_CLB"] = mean_of(measures["LNK"], measures["BIO"])
    return measures


def segmentation_accuracy(overlaps: Sequence[Overlap]) -> float | None:
    """SEG: mean over reference objects of the Jaccard index with their match, 0 for those without one."""
    total, count = 0.0, 0
    for one in overlaps:
        matched = matches(one)[one.ref] == one.comp
        total += float(jaccard(one)[matched].sum())
        count += len(one.ref_label)
    return total / count if count else None


def detection_accuracy(matching: Matching) -> dict[str, float | int | None]:
    """DET, and the counts of the operations that it is made of."""
    counts = aogm.correct_vertices(matching).counts()
    kinds = ("NS", "FN", "FP")
    measures: dict[str, float | int | None] = {f"AOGM_{kind}": counts[kind] for kind in kinds}
    return measures | {"DET": aogm.score(counts, len(matching.match), 0, kinds)}


def tracking_accuracy(matching: Matching, truth: Lineage, result: Lineage) -> dict[str, float | int | None]:
    """DET, TRA, LNK, AOGM and its counts."""
    truth_edges = aogm.edges(matching.ref, truth)
    corrections = aogm.correct_edges(
        aogm.correct_vertices(matching), matching, truth_edges, aogm.edges(matching.comp, result)
    )
    counts = corrections.counts()
    vertices, links = len(matching.match), len(truth_edges.source)
    return detection_accuracy(matching) | {
        "TRA": aogm.score(counts, vertices, links, tuple(aogm.WEIGHTS)),
        "LNK": aogm.score(counts, vertices, links, ("ED", "EA", "EC")),
        "AOGM": sum(aogm.WEIGHTS[kind] * count for kind, count in counts.items()),
        "AOGM_0": aogm.WEIGHTS["FN"] * vertices + aogm.WEIGHTS["EA"] * links,
        **{f"AOGM_{kind}": count for kind, count in counts.items()},
    }


def biological_accuracy(matching: Matching, truth: Lineage, result: Lineage) -> dict[str, float | None]:
    """CT, TF, BC0 to BC3, CCA, and BIO: the mean of those of CT, TF, BC and CCA that are defined."""
    branching = biological.branching_correctness(matching, truth, result)
    measures = {
        "CT": biological.complete_tracks(matching, truth, result),
        "TF": biological.track_fractions(matching, truth),
        **{f"BC{i}": score for i, score in zip(biological.TOLERANCES, branching, strict=True)},
        "CCA": biological.cell_cycle_accuracy(truth, result),
    }
    parts = [measures[key] for key in ("CT", "TF", f"BC{BIO_TOLERANCE}", "CCA")]
    defined = [part for part in parts if part is not None]
    return measures | {"BIO": mean_of(*defined) if defined else None}


def mean_of(*scores: float | None) -> float | None:
    """Returns the mean of scores, None where one of them is not defined."""
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if len(known) == len(scores) else None
