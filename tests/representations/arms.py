"""Every arm of every representation, with constants for cells about ten pixels wide."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax import representations
from celltrack_jax.ops import guides
from celltrack_jax.representations import Representation, Target

DISTANCE = {
    "scale": "cell",
    "max_distance": 30.0,
    "max_cells": 64,
    "bce_weight": 1.0,
    "dice_weight": 1.0,
    "distance_weight": 1.0,
    "distance_loss": "smooth_l1",
    "smooth_l1_beta": 0.1,
    "foreground_threshold": 0.5,
    "smoothing": 1.0,
    "prominence": 0.2,
    "min_size": 1,
    "fill_holes": False,
}
FOREGROUND = {
    "arm": "foreground",
    "closing_radius": 0.0,
    "split": "components",
    "smoothing": 1.0,
    "prominence": 0.5,
    "bce_weight": 1.0,
    "dice_weight": 1.0,
    "foreground_threshold": 0.5,
    "min_size": 1,
}
BORDER = {
    "arm": "border",
    "border": "touching",
    "width": 1.0,
    "class_weights": (0.15, 0.25, 0.6),
    "min_core": 1,
    "min_size": 1,
}
HEATMAP = {
    "sigma": 2.0,
    "compose": "max",
    "max_cells": 64,
    "loss_name": "mse",
    "peak_weight": 10.0,
    "focal_alpha": 2.0,
    "focal_beta": 4.0,
    "focal_prior": 0.1,
    "axes": 2,
    "offset_weight": 0.0,
    "step_weight": 0.0,
    "decoder": "maxima",
    "log_sigma": 10.0,
    "log_scales": 10,
    "log_overlap": 0.1,
    "window_size": 20,
    "window_distance": 30,
    "threshold": 0.3,
    "min_distance": 3.0,
    "max_peaks": 128,
    "marker_radius": 3.0,
}
STAR = {
    "axes": 2,
    "rays": 64,
    "grid": (1, 1),
    "max_cells": 64,
    "max_length": 30.0,
    "radius": 8.0,
    "prior": 0.1,
    "neighbours": 4,
    "bce_weight": 1.0,
    "length_weight": 0.2,
    "background_weight": 2e-5,
    "threshold": 0.5,
    "candidates": "all",
    "max_candidates": 4096,
    "overlap": "exact",
    "max_overlap": 0.4,
}
OFFSET = {
    "axes": 2,
    "evidence": "foreground",
    "radius": 4.0,
    "sigma": 2.0,
    "max_cells": 64,
    "focal_alpha": 2.0,
    "focal_beta": 4.0,
    "prior": 0.1,
    "offset_loss": "smooth_l1",
    "offset_scale": 1.0,
    "offset_weight": 1.0,
    "bins": 1,
    "vote_blur": 1.0,
    "min_votes": 0.5,
    "min_distance": 3.0,
    "capture": 6.0,
    "max_peaks": 128,
    "threshold": 0.3,
    "foreground_threshold": 0.5,
    "marker_radius": 3.0,
}
HARMONIC = {
    "axes": 2,
    "frequencies": guides.octaves(2, 48.0, 3),
    "ball_radius": 0.0,
    "radius": 4.0,
    "max_offset": 22.0,
    "max_cells": 64,
    "prior": 0.1,
    "balance": "cell",
    "embedding_weight": 1.0,
    "decoder": "phase",
    "bins": 1,
    "vote_blur": 1.0,
    "min_distance": 3.0,
    "capture": 6.0,
    "bandwidth": 0.5,
    "iterations": 3,
    "max_voters": 256,
    "min_votes": 0.5,
    "max_peaks": 128,
    "threshold": 0.3,
    "foreground_threshold": 0.5,
}
BALL = {
    "axes": 2,
    "form": "ellipsoid",
    "radius": 6.0,
    "core": 1.5,
    "sigma": 2.0,
    "max_cells": 64,
    "focal_alpha": 2.0,
    "focal_beta": 4.0,
    "prior": 0.1,
    "offset_weight": 1.0,
    "radius_weight": 1.0,
    "threshold": 0.3,
    "min_distance": 2.0,
    "max_overlap": 0.5,
    "max_peaks": 128,
}
EMBEDSEG = {
    "axes": 2,
    "max_cells": 32,
    "centre": "medoid",
    "radius": 4.0,
    "scale": 16.0,
    "margin": 4.0,
    "window": (32, 32),
    "variance_weight": 10.0,
    "seed_weight": 1.0,
    "prior": 0.1,
    "foreground_weight": 10.0,
    "foreground_threshold": 0.5,
    "threshold": 0.9,
    "min_size": 1,
    "max_found": 128,
}
KERNEL = {
    "sizes": (5,),
    "sigmas": (1.0,),
    "spacing": (1.0, 1.0),
    "schedule": "constant",
    "starts": (0.0,),
    "steps": 100,
}
FLOW = {
    "axes": 2,
    "max_cells": 64,
    "logarithm": False,
    "flow_scale": 5.0,
    "flow_weight": 0.5,
    "cellprob_threshold": 0.0,
    "steps": 200,
    "flow_threshold": 0.4,
    "max_fraction": 0.4,
    "min_size": 1,
    "fill_holes": False,
}
SPOTS = {
    "axes": 2,
    "max_cells": 64,
    "shape": "ball",
    "radius": 2.0,
    "loss_name": "weighted_bce",
    "kernel": KERNEL,
    "around": (),
    "temporal": "none",
    "temporal_weight": 0.1,
    "published_sign": False,
    "decoder": "maxima",
    "threshold": 0.3,
    "smoothing": 1.0,
    "refine": "centroid",
    "min_distance": 3.0,
    "max_peaks": 128,
    "marker_radius": 3.0,
}
POINT_DISTANCE = {
    "axes": 2,
    "max_cells": 64,
    "form": "truncated",
    "reach": 5.0,
    "vectors": False,
    "around": (),
    "loss_name": "mse",
    "segment": 0.0,
    "segment_radius": 2.0,
    "kernel": KERNEL,
    "published_sign": False,
    "threshold": 0.3,
    "smoothing": 0.7,
    "min_distance": 3.0,
    "max_peaks": 128,
    "marker_radius": 3.0,
}

ARMS = {
    "distance of the cell": ("distance", DISTANCE),
    "distance in units": (
        "distance",
        DISTANCE | {"scale": "absolute", "max_distance": 8.0, "distance_loss": "mse", "prominence": 0.1},
    ),
    "foreground": ("mask", FOREGROUND),
    "touching border": ("mask", BORDER),
    "outline": ("mask", BORDER | {"border": "outline"}),
    "heat, mse": ("heatmap", HEATMAP),
    "heat, weighted": ("heatmap", HEATMAP | {"loss_name": "weighted_mse", "compose": "sum"}),
    "heat, focal": ("heatmap", HEATMAP | {"loss_name": "focal"}),
    "heat, offset": ("heatmap", HEATMAP | {"offset_weight": 0.1}),
    "heat, focal, offset and step": (
        "heatmap",
        HEATMAP | {"loss_name": "focal", "offset_weight": 0.5, "step_weight": 0.5},
    ),
    "star": ("star", STAR),
    "star, maxima and balls": ("star", STAR | {"candidates": "maxima", "overlap": "ball"}),
    "heat, focal, votes": ("offset", OFFSET | {"evidence": "centre"}),
    "heat, focal, ball": ("ball", BALL | {"form": "ball"}),
    "heat, focal, ellipsoid": ("ball", BALL),
    "offset": ("offset", OFFSET),
    "harmonic": ("harmonic", HARMONIC),
    "harmonic, mean shift": ("harmonic", HARMONIC | {"decoder": "mean_shift", "balance": "log_size"}),
    "offset, nll": ("offset", OFFSET | {"offset_loss": "nll"}),
    "clusters": ("embedseg", EMBEDSEG),
    "heat, spots": ("spots", SPOTS),
    "flow": ("flow", FLOW),
    "heat, point distance": ("point_distance", POINT_DISTANCE),
    "heat, point distance and way": (
        "point_distance",
        POINT_DISTANCE | {"form": "exponential", "vectors": True},
    ),
}


def build(arm: str, **changes) -> Representation:
    """Returns an arm by its name in `ARMS`, with some constants changed."""
    name, constants = ARMS[arm]
    return representations.build(name, **constants | changes)


def build_for(arm: str, labels: np.ndarray, **changes) -> Representation:
    """The same for label maps of this many axes."""
    axes: dict[str, Any] = {"axes": labels.ndim} if "axes" in ARMS[arm][1] else {}
    if "frequencies" in ARMS[arm][1]:
        axes["frequencies"] = guides.octaves(labels.ndim, 48.0, 3)
    if "window" in ARMS[arm][1]:
        axes |= {"window": (12, 32, 32)[-labels.ndim :]}
    if "kernel" in ARMS[arm][1]:
        axes |= {"kernel": KERNEL | {"spacing": (1.0,) * labels.ndim}}
    if "rays" in ARMS[arm][1]:
        axes |= {"grid": (1,) * labels.ndim, "rays": 64 if labels.ndim == 2 else 256}
    return build(arm, **axes | changes)


# Representations are hashable, so each of these programs compiles once for all tests.


@functools.partial(jax.jit, static_argnums=0)
def targets(representation, labels, spacing) -> Target:
    """Returns the targets of (B, *S) label maps."""
    return jax.vmap(lambda one: representation.target(one, spacing))(labels)


@functools.partial(jax.jit, static_argnums=0)
def perfect(representation, target) -> jax.Array:
    """Returns the raw output that says the targets."""
    return representation.perfect(target)


@functools.partial(jax.jit, static_argnums=0)
def cost(representation, target, prediction) -> tuple[jax.Array, jax.Array]:
    """Returns the loss and its gradient."""
    return jax.value_and_grad(lambda x: representation.loss(x, target, jnp.int32(0))[0])(prediction)


def values(representation, labels, spacing) -> np.ndarray:
    """Returns the target's value (*S, C) of one label map."""
    return np.asarray(targets(representation, labels[None], np.asarray(spacing, np.float32)).value[0])


def answer(representation, labels, spacing) -> np.ndarray:
    """Returns the raw output (*S, C) that says the target of one label map."""
    target = targets(representation, labels[None], np.asarray(spacing, np.float32))
    return np.array(perfect(representation, target)[0])


def decoded(representation, labels, spacing) -> np.ndarray:
    """Returns what the labels' own target decodes to."""
    return representation.decode(answer(representation, labels, spacing), spacing)
