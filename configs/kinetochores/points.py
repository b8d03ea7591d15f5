"""Kinetochores in anisotropic volumes as points: networks, inputs, labels and losses.

    python -m launch.simulate --kind=kinetochores --output=kin            # or the real movies
    python -m launch.prepare  --format=kinetochores --source=kin/train --store=stores/kin --spacing=0.3,0.13,0.13
    python -m launch.prepare  --format=kinetochores --source=kin/test --store=stores/kin_test --spacing=0.3,0.13,0.13
    python -m launch.train    --config=configs/kinetochores/points.py:modern --workdir=runs/kin \
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test
    python -m launch.sweep    --config=configs/kinetochores/points.py:losses ...

"""

from ml_collections import ConfigDict

ARGUMENTS = ("modern", "tiny")
SPACING = (0.3, 0.13, 0.13)


def get_config(arg: str = "modern") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/kinetochores/points.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    config = _base()
    return config


def _base() -> ConfigDict:
    levels = 3
    config = ConfigDict()
    config.task = "detect"
    config.seed = 0
    config.ema_decay = 0.99
    config.mesh = ConfigDict({"space": 1, "parameters": ((".*", "replicated"),)})
    config.data = ConfigDict(
        {
            "store": "",
            "channels": 2,
            "inputs": ((0, 0),),
            "crop": (24, 48, 48),
            "margin": (0, 8, 8),
            "batch_size": 4,
            "foreground_probability": 0.9,
            "cut_px": 0,
            "max_cells": 96,
            "unit": "um",
            "fraction": 1.0,
            "threads": 2,
            "prefetch": 4,
        }
    )
    config.augment = ConfigDict(
        {
            "flip_probability": 0.5,
            "rot90_probability": 1.0,
            "affine_probability": 0.5,
            "rotation_deg": 45.0,
            "zoom": 0.1,
            "shear": 0.0,
            "elastic_probability": 0.0,
            "elastic_px": 0.0,
            "elastic_spacing_px": 48,
            "gamma_probability": 0.3,
            "gamma_octaves": 0.3,
            "blur_probability": 0.0,
            "blur_px": 0.0,
            "contrast_probability": 0.3,
            "contrast_down_octaves": 1.0,
            "contrast_up_octaves": 0.3,
            "noise_probability": 0.5,
            "noise_std": 0.05,
            "shot_noise_std": 0.05,
            "renormalise_probability": 0.0,
            "brightness_probability": 0.5,
            "brightness_offset": 0.1,
            "brightness_gain_octaves": 0.3,
        }
    )
    config.model = ConfigDict(
        {
            "name": "unet",
            "widths": (16, 32, 64),
            "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
            "pools": ((1, 2, 2), (2, 2, 2)),
            "stem": (1, 1, 1),
            "convs": 2,
            "norm": "group",
            "groups": 8,
            "affine": True,
            "activation": "relu",
            "order": "cna",
            "join": "concat",
            "upsample": "transposed",
            "up_channels": "halve",
            "dropout": 0.0,
            "remat": (False,) * levels,
            "dtype": "auto",
        }
    )
    config.representation = ConfigDict(
        {
            "name": "heatmap",
            "axes": 3,
            "sigma": 0.2,
            "compose": "max",
            "max_cells": config.data.get_ref("max_cells"),
            "loss_name": "focal",
            "peak_weight": 10.0,
            "focal_alpha": 2.0,
            "focal_beta": 4.0,
            "focal_prior": 0.01,
            "offset_weight": 0.1,
            "step_weight": 0.0,
            "decoder": "maxima",
            "threshold": 0.3,
            "min_distance": 0.2,
            "log_sigma": 10.0,
            "log_scales": 10,
            "log_overlap": 0.1,
            "window_size": 20,
            "window_distance": 30,
            "max_peaks": 256,
            "marker_radius": 0.35,
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": 2e-3,
            "warmup_steps": 50,
            "final_fraction": 0.01,
            "b1": 0.9,
            "b2": 0.999,
            "clip_norm": 1.0,
            "weight_decay_rules": (("kernel", 1e-4), (".*", 0.0)),
            "decay": "decoupled",
            "learning_rate_rules": ((".*", 1.0),),
        }
    )
    config.train = ConfigDict(
        {
            "steps": 600,
            "accumulate": 1,
            "log_every": 20,
            "evaluate_every": 300,
            "save_every": 300,
            "keep_latest": 2,
            "best_metric": "score",
            # Work folder of a run whose weights this one starts with, where names and shapes agree; "" for none.
            "initial": "",
        }
    )
    config.evaluation = ConfigDict(
        {
            "store": "",
            "holdout": 0.15,
            "max_frames": 6,
            "max_sequences": 1000,
            "window": (64, 256, 256),
            "radii": (0.25, 0.4, 0.5, 0.75, 1.0),
            "radius": 0.5,
            # Errors of matched points: error_median_<r>, error_mean_, error_z_, error_xy_, in µm.
            "localisation": True,
            # Distances to the nearest neighbour, in µm, that part recall_<r>_nn<a>-<b>, precision_ and F1_ of the one
            # `radius`: a quarter and three quarters of the original's labels lie nearer than 0.85 and 1.2.
            "density_edges": (0.6, 0.85, 1.2),
            # The rules by which the original was judged, for comparison: seuc6/F1, edt8/recall, ...
            "original_rules": True,
            "decoders": {},
            "oracle": False,
            "calibrate": 0,
            "thresholds": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7),
            "linkers": ("hungarian",),
            # What sisters are like (`tracking.sisters.Sisters`, in µm), by which tracks are paired: pairs_F1.
            "sisters": {
                "gate_um": (0.4, 1.6),
                "max_spread_um": 0.4,
                "min_frames": 3,
                "typical_um": 0.9,
                "tolerance_um": 0.15,
                "steady_um": 0.1,
                "alone": 10.0,
            },
            "helalab_cost": False,
        }
    )
    config.inference = ConfigDict({"tile": (64, 256, 256), "batch": 1, "average": "none"})
    config.tracking = ConfigDict(
        {
            "max_distance": 1.2,
            "division_distance": 0.0,
            "min_sibling_ratio": 0.3,
            "max_daughter_ratio": 1.3,
            "max_gap": 1,
        }
    )
    return config
