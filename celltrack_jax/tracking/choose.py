"""Ways to choose links from scores by name, as configs choose them.

Shapes: N detections, E candidates.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from celltrack_jax.errors import InputError
from celltrack_jax.tracking.cells import Cells
from celltrack_jax.tracking.expected_aogm import expected_aogm
from celltrack_jax.tracking.graph import Candidates
from celltrack_jax.tracking.handmade import voxel_centroids
from celltrack_jax.tracking.ilp import ilp
from celltrack_jax.tracking.scored_links import Costs, Links, greedy_ben_haim2022, hungarian_scored

Chooser = Callable[[Cells, Candidates, Costs], Links]
"""The cells of a movie, its candidates and what they cost -> links."""


def chooser(name: str, **settings: Any) -> Chooser:
    """Returns one of the ways to choose links.

    Args:
      name: "expected_aogm", "ilp", "hungarian" or "greedy_ben_haim2022".
      settings: what that one takes; all of it.

    Raises:
      InputError: there is no such way, or it takes other settings.
    """
    if name not in _CHOOSERS:
        raise InputError(f"linking.name {name!r} is none of {', '.join(_CHOOSERS)}")
    choose = _CHOOSERS[name]
    wanted = set(inspect.signature(choose).parameters) - {"cells", "edges", "costs"}
    if wanted != set(settings):
        raise InputError(
            f"config.linking has {', '.join(sorted(settings)) or 'nothing'} beside its name; {name} takes "
            f"{', '.join(sorted(wanted)) or 'nothing'}"
        )
    return lambda cells, edges, costs: choose(cells, edges, costs, **settings)


def _ilp(cells, edges, costs, window, overlap, time_limit_s, false_penalty):
    costs = costs._replace(false=costs.false + false_penalty)
    limits = dict(window=window, overlap=overlap, time_limit_s=time_limit_s)
    return ilp(cells.detections.frame, edges.source, edges.target, costs, **limits)


def _expected_aogm(cells, edges, costs, window, overlap, time_limit_s, reject, drawn):
    frame = cells.detections.frame
    costs = expected_aogm(frame, edges.source, edges.target, costs, reject=reject, drawn=drawn)
    limits = dict(window=window, overlap=overlap, time_limit_s=time_limit_s)
    return ilp(frame, edges.source, edges.target, costs, **limits)


def _hungarian(cells, edges, costs, false_penalty):
    costs = costs._replace(false=costs.false + false_penalty)
    return hungarian_scored(cells.detections.frame, edges.source, edges.target, costs)


def _greedy(cells, edges, costs):
    centre = voxel_centroids(cells).astype(np.float64)
    return greedy_ben_haim2022(cells.detections.frame, centre, edges.source, edges.target, expit(-costs.edge))


_CHOOSERS: Mapping[str, Callable[..., Links]] = {
    "expected_aogm": _expected_aogm,
    "ilp": _ilp,
    "hungarian": _hungarian,
    "greedy_ben_haim2022": _greedy,
}
