"""Kinetochores as instances: stars, votes, clusters of embeddings, balls, phases of plane waves.

    python -m launch.train --config=configs/kinetochores/instances.py:sd_96 --workdir=runs/star \
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test
    python -m launch.sweep --config=configs/kinetochores/instances.py --workdir=runs/instances \
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test

Data as of `points.py`; each is `points.py:modern` with another representation, and learns from the same points.

| argument | what | docs/originals.md |
|---|---|---|
| sd_48, sd_64, sd_96, sd_1024 | star-convex cells with so many rays | 2.8 |
| sd_grid | 96 rays at every second voxel of y and x | 2.8 |
| ctr_offset | each voxel votes for the nearest point | 2.9 A |
| ctr_embedseg | EmbedSeg | 2.9 B |
| ctr_ball | balls of a predicted radius | 2.9 C |
| harm_phase, harm_meanshift | harmonic embeddings, read by phase and by mean shift | 2.10 |
| <any>_small, tiny | a sixteenth of the work per step; what the tests train | |
"""

from typing import Any

from ml_collections import ConfigDict

from configs.kinetochores import points

ARMS = (
    *("sd_48", "sd_64", "sd_96", "sd_1024", "sd_grid"),
    *("ctr_offset", "ctr_embedseg", "ctr_ball", "harm_phase", "harm_meanshift"),
)
ARGUMENTS = (*ARMS, *(f"{arm}_small" for arm in ARMS), "tiny")
# Fitted by `ops.guides.fit` to synthetic movies: kinetochores less than 3 µm apart differ by a squared distance of 6.0 or
# more; octaves of 2.4 µm along the axes give 0.35. Cycles per µm along z, y, x.
GUIDES = (
    *((0.417, 0.0, 0.0), (0.0, 0.417, 0.0), (0.0, 0.0, 0.417)),
    *((-0.22, -0.134, 0.622), (0.255, -0.671, 0.508), (0.323, 0.32, -0.758)),
    *((-0.95, 0.005, 0.281), (-0.738, 0.435, -0.607), (-0.69, -0.813, 0.1)),
)


def get_config(arg: str = "sd_96") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/kinetochores/instances.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    small = arg.endswith("_small")
    config: Any = points.get_config("tiny" if arg == "tiny" else "modern_small" if small else "modern")
    arm = "ctr_offset" if arg == "tiny" else arg.removesuffix("_small")
    settings = {"axes": 3, "max_cells": config.data.get_ref("max_cells")} | _settings(arm)
    config.representation = ConfigDict(settings)
    config.inference.average = "none"
    if arg != "tiny":
        # What is read as a cell below .1 are a network's background: ten thousand stars, which take minutes to thin.
        config.evaluation.calibrate, config.evaluation.thresholds = 4, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    return config


def sweep(add) -> None:
    """Which instances? Every arm on small volumes."""
    for arm in ARMS:
        if arm != "sd_1024":
            add(arm, argument=f"{arm}_small")


def _settings(arm: str) -> dict[str, Any]:
    """Of the representation; lengths in µm."""
    votes = {"bins": 2, "vote_blur": 0.08, "min_votes": 0.3, "min_distance": 0.25, "capture": 0.25}
    votes |= {"max_peaks": 256, "threshold": 0.3, "foreground_threshold": 0.5}
    focal = {"focal_alpha": 2.0, "focal_beta": 4.0, "prior": 0.01}
    if arm.startswith("sd"):
        return {
            "name": "star",
            "rays": 96 if arm == "sd_grid" else int(arm.removeprefix("sd_")),
            "grid": (1, 2, 2) if arm == "sd_grid" else (1, 1, 1),
            "max_length": 1.2,
            "radius": 0.4,
            "prior": 0.01,
            "neighbours": 0,
            # As published but for the length's, 0.2 and 2e-5 per voxel of 0.13 µm.
            "bce_weight": 1.0,
            "length_weight": 1.5,
            "background_weight": 1.5e-4,
            "threshold": 0.5,
            "candidates": "all",
            "max_candidates": 16384,
            "overlap": "ball",
            "max_overlap": 0.5,
        }
    if arm == "ctr_offset":
        shape = {"evidence": "centre", "radius": 0.4, "sigma": 0.15, "marker_radius": 0.26}
        loss = {"offset_loss": "nll", "offset_scale": 0.05, "offset_weight": 0.1}
        return {"name": "offset", **shape, **loss, **focal, **votes}
    if arm == "ctr_embedseg":
        return {
            "name": "embedseg",
            "centre": "medoid",
            "radius": 0.4,
            "scale": 0.8,
            "margin": 0.25,
            "window": (8, 16, 16),
            "variance_weight": 10.0,
            "seed_weight": 1.0,
            "prior": 0.01,
            "foreground_weight": 10.0,
            "foreground_threshold": 0.5,
            "threshold": 0.6,
            "min_size": 4,
            "max_found": 512,
        }
    if arm == "ctr_ball":
        shape = {"form": "ball", "radius": 0.26, "core": 0.2, "sigma": 0.15}
        loss = {"offset_weight": 0.1, "radius_weight": 0.1, "threshold": 0.3}
        return {
            "name": "ball",
            **shape,
            **loss,
            **focal,
            "min_distance": 0.2,
            "max_overlap": 0.5,
            "max_peaks": 256,
        }
    return {
        "name": "harmonic",
        "frequencies": GUIDES,
        "ball_radius": 0.2,
        "radius": 0.26,
        "max_offset": 0.4,
        "prior": 0.01,
        "balance": "cell",
        "embedding_weight": 1.0,
        "decoder": {"harm_phase": "phase", "harm_meanshift": "mean_shift"}[arm],
        "bandwidth": 1.2,
        "iterations": 5,
        "max_voters": 4096,
        **votes,
    }
