"""Nuclei in stacks as instances: stars, votes, clusters of embeddings, ellipsoids, phases of plane waves, distances.

    python -m launch.simulate --kind=nuclei3d --output=nuclei             # or a CTC data set of stacks
    python -m launch.prepare  --source=nuclei --sequences=01 --store=stores/nuclei --spacing=1,0.5,0.5
    python -m launch.train    --config=configs/nuclei/instances.py:star --workdir=runs/star \
        --config.data.store=stores/nuclei
    python -m launch.sweep    --config=configs/nuclei/instances.py:star --workdir=runs/heads \
        --config.data.store=stores/nuclei

| argument | what |
|---|---|
| distance | foreground and distance to the own edge, cells by watershed: what `ctc/segment.py` has |
| star | star-convex cells of 96 rays |
| offset | each voxel votes for its cell's centre |
| embedseg | EmbedSeg |
| harmonic | phases of plane waves relative to the voxel |
| ball | axis-aligned ellipsoids |
| tiny | what the tests train |

Lengths in the smallest edge of a voxel, for nuclei of 6 to 10 of them in radius; 400 steps. AP at
IoU .5 on another movie then: `offset` .96, `embedseg` .92, `harmonic` .11, `star` 0, and .89 after 800 more.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.ctc import segment

ARMS = ("distance", "star", "offset", "embedseg", "harmonic", "ball")
ARGUMENTS = (*ARMS, "tiny")
_OCTAVES = (48.0, 24.0, 12.0)
"""Longest wavelengths of the guides along each axis."""


def get_config(arg: str = "star") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/nuclei/instances.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    config: Any = segment.get_config("tiny3d" if arg == "tiny" else "demo3d")
    if arg != "distance":
        settings = {"axes": 3, "max_cells": config.data.get_ref("max_cells")}
        config.representation = ConfigDict(settings | _settings("star" if arg == "tiny" else arg))
    if arg != "tiny":
        config.data.crop, config.data.margin, config.data.max_cells = (16, 64, 64), (0, 8, 8), 64
        config.model.widths = (16, 32, 64)
        config.model.kernels = ((1, 3, 3), (3, 3, 3), (3, 3, 3))
        config.model.pools, config.model.remat = ((1, 2, 2), (2, 2, 2)), (False,) * 3
        # Cells that elastic waves bend in the plane alone are none that the stack shows.
        config.augment.elastic_probability = 0.0
    # What has directions would have to be turned with the image.
    config.inference.average = "none"
    return config


def sweep(add) -> None:
    for arm in ARMS:
        add(arm, argument=arm)


def _settings(arm: str) -> dict[str, Any]:
    votes = {"bins": 1, "vote_blur": 1.0, "min_votes": 10.0, "min_distance": 3.0, "capture": 6.0}
    votes |= {"max_peaks": 512, "threshold": 0.3, "foreground_threshold": 0.5}
    focal = {"focal_alpha": 2.0, "focal_beta": 4.0, "prior": 0.1}
    if arm == "star":
        return {
            "name": "star",
            "rays": 96,
            "grid": (1, 1, 1),
            "max_length": 24.0,
            "radius": 8.0,
            "prior": 0.1,
            "neighbours": 4,
            "bce_weight": 1.0,
            "length_weight": 0.2,
            "background_weight": 2e-5,
            "threshold": 0.5,
            "candidates": "maxima",
            "max_candidates": 16384,
            "overlap": "exact",
            "max_overlap": 0.4,
        }
    if arm == "offset":
        shape = {"evidence": "foreground", "radius": 4.0, "sigma": 2.0, "marker_radius": 3.0}
        loss = {"offset_loss": "smooth_l1", "offset_scale": 1.0, "offset_weight": 1.0}
        return {"name": "offset", **shape, **loss, **focal, **votes}
    if arm == "embedseg":
        return {
            "name": "embedseg",
            "centre": "medoid",
            "radius": 8.0,
            "scale": 16.0,
            "margin": 6.0,
            "window": (14, 32, 32),
            "variance_weight": 10.0,
            "seed_weight": 1.0,
            "prior": 0.1,
            "foreground_weight": 10.0,
            "foreground_threshold": 0.5,
            "threshold": 0.9,
            "min_size": 40,
            "max_found": 4096,
        }
    if arm == "ball":
        shape = {"form": "ellipsoid", "radius": 8.0, "core": 1.5, "sigma": 2.0}
        loss = {"offset_weight": 1.0, "radius_weight": 1.0, "threshold": 0.3}
        return {
            "name": "ball",
            **shape,
            **loss,
            **focal,
            "min_distance": 2.0,
            "max_overlap": 0.5,
            "max_peaks": 512,
        }
    guides = tuple(
        tuple(float(k == axis) / length for k in range(3)) for length in _OCTAVES for axis in range(3)
    )
    return {
        "name": "harmonic",
        "frequencies": guides,
        "ball_radius": 0.0,
        "radius": 4.0,
        "max_offset": 22.0,
        "prior": 0.1,
        "balance": "cell",
        "embedding_weight": 1.0,
        "decoder": "phase",
        "bandwidth": 1.2,
        "iterations": 5,
        "max_voters": 4096,
        **votes,
    }
