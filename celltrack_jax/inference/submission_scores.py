"""Scores of a submission against train.csv, by the measure of the Sartorius competition. numpy only.

Cells that overlap are painted into one label image on both sides, later ones over earlier ones, as `launch.prepare`
paints them.
"""

from collections.abc import Collection
from pathlib import Path

from celltrack_jax.errors import InputError
from celltrack_jax.inference.ctc_scores import Scores
from celltrack_jax.io import sartorius
from celltrack_jax.metrics.competition import competition_measures
from celltrack_jax.metrics.overlap import overlap

_SHOWN = 3


def score_submission(truth: Path, result: Path) -> Scores:
    """Scores the images that both files name.

    An image that the submission lists without a mask has no cells, so that all of the truth are missed; of one that it
    does not list it says nothing.

    Args:
      truth: a table as train.csv, see `io.sartorius`.
      result: a submission.

    Returns:
      Measures of `competition.competition_measures`, with the cell types as categories, and "images", how many were
      scored. Notes say which were not, and whether cells overlap.

    Raises:
      InputError: a file cannot be read or contradicts itself, or the two have no image in common.
    """
    if result.is_dir():
        raise InputError(
            f"{result} is a folder, and {truth} is scored against a submission: give the file that launch.predict "
            "--submission wrote"
        )
    images, found = sartorius.read_table(truth), sartorius.read_predicted(result)
    both = [name for name in images if name in found]
    if not both:
        raise InputError(
            f"{result} and {truth} have no image in common ({len(found)} and {len(images)}): predict images of the "
            "truth; the name of a file, without .png, is the id"
        )
    overlaps, shared_truth, shared_result = [], {}, {}
    for frame, name in enumerate(both):
        true = sartorius.paint(truth, images[name])
        computed = sartorius.paint_predicted(result, name, found[name], images[name].shape)
        overlaps.append(overlap(true.labels, computed.labels, frame))
        shared_truth[name], shared_result[name] = true.overwritten, computed.overwritten
    measures = competition_measures(overlaps, [images[name].cell_type for name in both])
    notes = [
        *_left_out(result, truth, images, found, "; where nothing was found, list them without a mask"),
        *_left_out(truth, result, found, images, ""),
        *_shared(truth, shared_truth, ""),
        *_shared(result, shared_result, ", and the competition refuses such a submission"),
    ]
    return Scores({**measures, "images": len(both)}, [], notes)


def _left_out(
    lacking: Path, having: Path, names: Collection[str], others: Collection[str], cure: str
) -> list[str]:
    """Says which images of one file the other has no row of."""
    only = [name for name in names if name not in others]
    if not only:
        return []
    shown = ", ".join(only[:_SHOWN]) + (", ..." if len(only) > _SHOWN else "")
    return [
        f"{lacking} has no row of {len(only)} of the {len(names)} images of {having} ({shown}): they are not scored{cure}"
    ]


def _shared(path: Path, shared: dict[str, int], consequence: str) -> list[str]:
    """Says how many pixels of a file are those of several cells."""
    where = [name for name, pixels in shared.items() if pixels]
    if not where:
        return []
    return [
        f"{path}: {sum(shared.values())} pixels lie in several cells, in {len(where)} images, first in {where[0]}: they "
        f"are given to the last one{consequence}"
    ]
