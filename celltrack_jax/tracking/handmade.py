"""Hand-made features of cells: the original tracker's, and ours in physical units.

Shapes: N detections of a movie, D = 3 axes, or 2 where the frames have one plane.
"""

from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from celltrack_jax.lineage import Detections
from celltrack_jax.tracking import features
from celltrack_jax.tracking.cells import MAX, MEAN, MIN, STD, Cells

PHYSICAL = (
    "log_volume",
    "log_axis_1",
    "log_axis_2",
    "log_axis_3",
    "intensity_mean",
    "intensity_std",
    "intensity_known",
    "touches_border",
    "border_distance",
    "neighbour_1",
    "neighbour_2",
    "neighbour_3",
)
"""Columns of `physical`."""
_NEIGHBOURS = 3
_FAR_BORDER, _FAR_NEIGHBOUR = 2.0, 4.0
"""Diameters beyond which a distance tells no more."""
_MOST_SPREADS = 6.0
"""Intensities are cut off so far from the median."""
_FLAT = 1e-6
"""An axis whose variance is a smaller share of the largest is the float32 covariance's rounding."""


def ben_haim2022(cells: Cells, kind: Literal["2d", "3d", "patch"]) -> np.ndarray:
    """Makes the features of Ben-Haim & Riklin-Raviv, ECCV 2022 (docs/originals.md, 5.1).

    All is in voxels, whatever the spacing, and centroids are rounded to whole voxels. Axis lengths are those of
    scikit-image, from second moments; flat cells, for which it may return NaN, have 0. Without images the
    intensities are 0. The original takes the intensities of "patch" from where the annotation is too: the marker.

    Args:
      cells: of a movie.
      kind: "2d": frame, area, box (low y x, high y x), centroid (y x), major and minor axis, largest, mean and
        smallest intensity. "3d": the same with z y x. "patch": frame, centroid (y x) and the intensities.

    Returns:
      (N, 13 | 16 | 6) float32.
    """
    frame = cells.detections.frame[:, None]
    intensity = np.nan_to_num(cells.intensity[:, [MAX, MEAN, MIN]])
    axes = slice(0 if kind == "3d" else 1, 3)
    centroid = voxel_centroids(cells)[:, axes]
    if kind == "patch":
        return np.concatenate([frame, centroid, intensity], 1).astype(np.float32)
    area = np.rint(cells.detections.volume_um / np.prod(cells.spacing_um))[:, None]
    spacing = cells.spacing_um[axes]
    variances = principal_variances(cells.covariance_um[:, axes, axes] / (spacing * spacing[:, None]))
    factor = 20.0 if kind == "3d" else 16.0
    lengths = np.sqrt(factor * variances[:, [0, -1]])
    columns = [frame, area, cells.low[:, axes], cells.high[:, axes], centroid, lengths, intensity]
    return np.concatenate(columns, 1).astype(np.float32)


def minmax(nodes: np.ndarray) -> np.ndarray:
    """Scales each column of one graph's features (N, F) to [0, 1], as the original does; constant ones become 0."""
    if len(nodes) == 0:
        return nodes
    least = nodes.min(0)
    extent = nodes.max(0) - least
    return (nodes - least) / np.where(extent > 0, extent, 1)


def physical(cells: Cells, diameter_um: float) -> np.ndarray:
    """Makes features that say nothing about when and where in the frame a cell is, nor how large a voxel is.

    All distances are in diameters. Give the whole movie: intensities count from its median, in its spreads.

    Args:
      cells: of a movie.
      diameter_um: that a cell of this movie typically has (`links.typical_diameter`).

    Returns:
      (N, 12) float32, the columns of `PHYSICAL`:
        log of the volume over that of a ball (disc) of one diameter;
        log of the three principal axes of the ellipsoid (ellipse, the third 0) of the same second moments, longest
        first, where a voxel counts as a box so that none is flat;
        mean and standard deviation of the intensity, in the spreads of both over the movie's cells, cut off at 6,
        0 where unknown, and whether it is known;
        whether the bounding box touches the border of the frame, and its distance to it, at most 2;
        distances to the three nearest cells of the frame, at most 4, which also stands for none.
    """
    flat = is_flat(cells)
    volume = cells.detections.volume_um / (cells.spacing_um[0] if flat else 1)
    ball = np.pi * diameter_um**2 / 4 if flat else np.pi * diameter_um**3 / 6
    known = ~np.isnan(cells.intensity[:, MEAN])
    edge = _border_distance_um(cells, flat)[:, None] / diameter_um
    columns = [
        np.log(volume / ball)[:, None],
        log_axes(cells, diameter_um),
        relative_intensity(cells),
        known[:, None],
        edge <= 0,
        np.minimum(edge, _FAR_BORDER),
        _neighbour_distances(cells.detections, _FAR_NEIGHBOUR * diameter_um) / diameter_um,
    ]
    return np.concatenate(columns, 1).astype(np.float32)


def as_points(cells: Cells) -> Cells:
    """Returns cells of a voxel each, with the box that their centre touches; positions and intensities stay."""
    centre = np.round(cells.detections.position_um / cells.spacing_um, 6)
    volume = np.full(len(centre), np.prod(cells.spacing_um))
    return cells._replace(
        detections=cells.detections._replace(volume_um=volume),
        covariance_um=np.zeros_like(cells.covariance_um),
        low=np.floor(centre).astype(np.int64),
        high=np.ceil(centre).astype(np.int64) + 1,
    )


def is_flat(cells: Cells) -> bool:
    """Tells whether the frames have one plane."""
    return bool(cells.shape[0] == 1)


def voxel_centroids(cells: Cells) -> np.ndarray:
    """Returns (N, 3) int64, the centroids rounded to whole voxels (halves to even ones), as the original does."""
    # In micrometres and back, 2.5 voxels may have become 2.4999999999999996.
    return np.rint(np.round(cells.detections.position_um / cells.spacing_um, 6)).astype(np.int64)


def log_axes(cells: Cells, diameter_um: float) -> np.ndarray:
    """Returns (N, 3) float64, logs of the principal axes' lengths in diameters, longest first; in 2D the third is 0."""
    axes = slice(1 if is_flat(cells) else 0, 3)
    voxel = np.diag(cells.spacing_um[axes] ** 2 / 12)
    variances = principal_variances(cells.covariance_um[:, axes, axes] + voxel)
    # Along each axis a disc has a quarter and a ball a fifth of its squared radius as variance.
    lengths = np.zeros((len(variances), 3))
    ratio = 2 * np.sqrt((2 + variances.shape[1]) * variances) / diameter_um
    lengths[:, : variances.shape[1]] = np.log(ratio)
    return lengths


def principal_variances(covariance: np.ndarray) -> np.ndarray:
    """Returns (N, D) float64, the eigenvalues of (N, D, D) covariances, largest first; of flat directions 0."""
    values = np.linalg.eigvalsh(covariance.astype(np.float64))[:, ::-1]
    return np.where(values > _FLAT * values[:, :1], values, 0)


def relative_intensity(cells: Cells) -> np.ndarray:
    """Returns (N, 2) float64, mean and standard deviation from their medians, in spreads; 0 where unknown."""
    values = cells.intensity[:, [MEAN, STD]].astype(np.float64)
    known = ~np.isnan(values[:, 0])
    result = np.zeros_like(values)
    if known.any():
        values = values[known]
        low, median, high = np.percentile(values, (25, 50, 75), axis=0)
        # Of a normal distribution the quartiles are 1.349 standard deviations apart.
        spread = (high - low) / 1.349
        spread = np.where(spread > 0, spread, np.where(values.std(0) > 0, values.std(0), 1))
        result[known] = np.clip((values - median) / spread, -_MOST_SPREADS, _MOST_SPREADS)
    return result


def _border_distance_um(cells: Cells, flat: bool) -> np.ndarray:
    """Distance (N,) from the bounding box to the frame's nearest border; 0 where they touch."""
    axes = slice(1 if flat else 0, 3)
    gaps = np.minimum(cells.low, cells.shape - cells.high)[:, axes] * cells.spacing_um[axes]
    return gaps.min(1, initial=np.inf)


def _neighbour_distances(detections: Detections, farthest_um: float) -> np.ndarray:
    """Distances (N, 3) in µm to the nearest other cells of the frame; the farthest stands for none."""
    distances = np.full((len(detections.frame), _NEIGHBOURS), farthest_um)
    for here in features.frame_slices(detections.frame).values():
        points = detections.position_um[here]
        found = cKDTree(points).query(points, _NEIGHBOURS + 1, distance_upper_bound=farthest_um)[0]
        # The first is the cell itself, or another at the same place.
        distances[here] = np.minimum(found[:, 1:], farthest_um)
    return distances
