"""What movies a linker was trained on, and whether another one is like them.

Shapes: N detections.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.tasks.link_truth import Truth
from celltrack_jax.tracking import links
from celltrack_jax.tracking.cells import Cells
from celltrack_jax.tracking.handmade import is_flat

_SAME_SPACING, _SAME_ANISOTROPY, _SAME_DIAMETER = 1.05, 1.5, 3.0
"""Ratios up to which two are alike."""


def facts(
    truths: Sequence[Truth], diameter_um: Callable[[Cells], float], radius: float | None
) -> dict[str, Any]:
    """Describes the movies that a linker is trained on, in plain values.

    Args:
      truths: of the movies.
      diameter_um: cells -> what a typical one counts as, in µm.
      radius: of candidates in diameters, None where they have none.

    Returns:
      "movies": a dict each of name, spacing_um [z, y, x], diameter_um of a typical cell, radius_um or None, and
      whether it has images.
    """
    movies = []
    for truth in truths:
        measured = links.typical_diameter(truth.cells.detections)
        reach = None if radius is None else radius * diameter_um(truth.cells)
        row = {"name": truth.name, "spacing_um": truth.cells.spacing_um.tolist(), "diameter_um": measured}
        row |= {"radius_um": reach, "images": _lit(truth.cells)}
        movies.append(row)
    return {"movies": movies}


def fitting(
    cells: Cells,
    trained: Mapping[str, Any],
    *,
    in_voxels: bool,
    needs_light: bool,
    fixed_um: float,
    say: Callable[[str], object] = print,
) -> Cells:
    """Compares a movie with those that the linker was trained on, and says what differs.

    Args:
      cells: of the movie.
      trained: as `facts` returns it.
      in_voxels: whether the linker's features are in voxels.
      needs_light: whether it was never trained without the intensities that its movies had.
      fixed_um: what a cell counts as wide in all movies; 0 where it is measured.
      say: is told in one line what differs.

    Returns:
      The cells, without intensities where no movie of the training had any.

    Raises:
      InputError: the linker needs images and there are none.
    """
    movies = trained["movies"]
    if len(cells.detections.frame) == 0 or not movies:
        return cells
    lit = [movie["images"] for movie in movies]
    if all(lit) and needs_light and not _lit(cells):
        raise InputError(
            "the movie has no images and this linker was trained with images alone: give --images, or train with "
            "augment.dark_probability above 0"
        )
    if all(lit) and not _lit(cells):
        say(
            "note: this linker was trained with images and the movie has none: give --images for better links"
        )
    if not any(lit) and _lit(cells):
        say("note: this linker was trained without images and does not look at them")
        cells = cells._replace(intensity=np.full_like(cells.intensity, np.nan))
    for text in _differences(cells, movies, in_voxels, fixed_um):
        say(f"note: {text}; links may be worse than on movies like those")
    return cells


def _differences(
    cells: Cells, movies: Sequence[Mapping[str, Any]], in_voxels: bool, fixed_um: float
) -> list[str]:
    axes = slice(1 if is_flat(cells) else 0, 3)
    spacing = cells.spacing_um[axes]
    known = [np.array(movie["spacing_um"])[axes] for movie in movies]
    found = []
    if in_voxels and not any(_alike(spacing, other, _SAME_SPACING) for other in known):
        found.append(
            f"voxels of {_listed(spacing)} µm here and {_listed(known[0])} in training, and this linker's features are "
            "in voxels"
        )
    elif len(spacing) == 3:
        ratio, ratios = spacing[0] / spacing[2], [other[0] / other[2] for other in known]
        if not any(_alike(ratio, other, _SAME_ANISOTROPY) for other in ratios):
            found.append(
                f"voxels are {ratio:.3g} times as deep as wide here and {ratios[0]:.3g} times in training"
            )
    # Without a spacing all lengths are in voxels, and compare with others in voxels.
    unit = bool(np.all(spacing == 1))
    units = ("voxels", "µm") if unit else ("µm", "voxels")
    same = [
        movie["diameter_um"]
        for movie, other in zip(movies, known, strict=True)
        if bool(np.all(other == 1)) == unit
    ]
    measured = links.typical_diameter(cells.detections)
    if same and not any(_alike(measured, other, _SAME_DIAMETER) for other in same):
        found.append(f"a typical cell is {measured:.3g} {units[0]} wide here and {same[0]:.3g} in training")
    if not same and fixed_um:
        found.append(
            f"lengths are in {units[0]} here and in {units[1]} in training, and this linker takes {fixed_um:.3g} of "
            "either for a cell's width (features.diameter_um): give --spacing as the training had it"
        )
    return found


def _alike(one: Any, other: Any, ratio: float) -> bool:
    return bool(np.all(np.abs(np.log(np.asarray(one) / np.asarray(other))) <= np.log(ratio)))


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _lit(cells: Cells) -> bool:
    return bool((~np.isnan(cells.intensity[:, 0])).any())
