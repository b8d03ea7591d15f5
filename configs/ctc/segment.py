"""A U-Net that segments Cell Tracking Challenge data: foreground and distance, cells by seeded watershed.

    python -m launch.prepare --source=<data set folder> --sequences=01 --store=stores/sim
    python -m launch.train --config=configs/ctc/segment.py:sim --workdir=runs/sim --config.data.store=stores/sim
    python -m launch.sweep --config=configs/ctc/segment.py:sim --workdir=runs/sweep --config.data.store=stores/sim

| argument | data | steps, time on two CPU cores | measured on held-out frames |
|---|---|---|---|
| sim | Fluo-N2DH-SIM+/01 | 2,000; 37 min, busy with other work | SEG .86 TRA .99 |
| gowt1 | Fluo-N2DH-GOWT1/01 | 2,000; 32 min, likewise | SEG .91 TRA .98 |
| hela | Fluo-N2DL-HeLa, silver truth; prepared with --allow_gaps if frames lack | 2,000 | not trained yet |
| dsb | Data Science Bowl 2018, fluorescence | 2,000 | not trained yet |
| demo, demo3d | what `make demo` trains | 400; 5 min in 2D | SEG .89 TRA .99, synthetic 2D |
| tiny, tiny3d | what the tests train | 20; seconds | |
"""

from ml_collections import ConfigDict

ARGUMENTS = ("sim", "gowt1", "hela", "dsb", "demo", "demo3d", "tiny", "tiny3d")


def get_config(arg: str = "sim") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/ctc/segment.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    config = _base(ndim=3 if arg.endswith("3d") else 2)
    if arg in ("sim", "gowt1"):
        # Other movies of these data sets have several times less contrast: it is simulated, often.
        config.augment.contrast_probability = 0.8
        config.augment.contrast_down_octaves = 3.0
        config.augment.noise_probability = 0.8
        config.augment.noise_std = 0.06
    if arg == "sim":
        config.model.norm = "group"  # as measured: here cells cover a fifth of a frame and of a crop alike
        config.representation.smoothing, config.representation.prominence = 2.0, 0.1
    if arg == "gowt1":
        # Large nuclei with bright nucleoli.
        config.representation.smoothing, config.representation.prominence = 2.0, 0.1
        config.representation.min_size = 100
    if arg in ("gowt1", "hela"):
        config.data.foreground_probability = 0.8
    if arg == "hela":
        config.data.silver = True
        config.representation.min_size = 40
        config.representation.max_distance = 20.0
        config.representation.smoothing = 1.0
    if arg.startswith("demo"):
        config.train.steps, config.optimizer.warmup_steps = 400, 40
        config.train.evaluate_every = config.train.save_every = 200
        # So few steps do not teach dim movies, which would then choose the checkpoint.
        config.evaluation.contrasts = (1.0,)
    if arg.startswith("tiny"):
        _shrink(config)
    return config


def sweep(add) -> None:
    add("baseline")
    for norm in ("group", "batch"):
        add(f"norm={norm}", overrides={"model.norm": norm})
    add("scale=absolute", overrides={"representation.scale": "absolute"})
    foreground = {"name": "mask", "arm": "foreground", "bce_weight": 1.0, "dice_weight": 1.0}
    reading = {"foreground_threshold": 0.5, "closing_radius": 0.0, "min_size": 20}
    components = {"split": "components", "smoothing": 1.5, "prominence": 0.5}
    add("mask", overrides={"representation": {**foreground, **reading, **components}})
    moves = ("flip", "rot90", "affine", "elastic")
    looks = ("gamma", "blur", "contrast", "noise", "renormalise", "brightness")
    for name, parts in (("augment=none", moves + looks), ("augment=moves", looks), ("augment=looks", moves)):
        add(name, overrides={f"augment.{part}_probability": 0.0 for part in parts})


def _base(ndim: int) -> ConfigDict:
    flat = ndim == 2
    levels = 4
    config = ConfigDict()
    config.task = "dense"
    config.seed = 0
    config.ema_decay = 0.998
    config.mesh = ConfigDict(
        {
            # Devices that share one sample.
            "space": 1,
            # First match wins: "replicated", "fsdp" (split over the devices, gathered when used), or mesh axes.
            "parameters": ((".*", "replicated"),),
        }
    )
    config.data = ConfigDict(
        {
            "store": "",
            "channels": 1,
            "crop": (256, 256) if flat else (32, 96, 96),
            "margin": (32, 32) if flat else (0, 16, 16),
            "batch_size": 4 if flat else 2,
            "foreground_probability": 0.9,
            # Whether outlines that a computer made serve where no person drew one.
            "silver": False,
            # Around a marker whose outline nobody drew, pixels within this many diameters of the drawn cells are unknown.
            "unknown_diameters": 0.6,
            # A cell's diameter; 0 measures the outlined cells.
            "diameter_um": 0.0,
            "max_cells": 256,
            "threads": 2,
            "prefetch": 4,
        }
    )
    config.augment = ConfigDict(
        {
            "flip_probability": 0.5,
            "rot90_probability": 1.0,
            "affine_probability": 0.7,
            "rotation_deg": 45.0,
            "zoom": 0.25,
            "shear": 0.1,
            "elastic_probability": 0.5,
            "elastic_px": 6.0,
            "elastic_spacing_px": 48,
            "gamma_probability": 0.5,
            "gamma_octaves": 0.5,
            "blur_probability": 0.3,
            "blur_px": 1.5,
            "contrast_probability": 0.5,
            "contrast_down_octaves": 2.0,
            "contrast_up_octaves": 0.5,
            "noise_probability": 0.5,
            "noise_std": 0.04,
            "shot_noise_std": 0.05,
            "renormalise_probability": 0.8,
            "brightness_probability": 0.5,
            "brightness_offset": 0.1,
            "brightness_gain_octaves": 0.5,
        }
    )
    config.model = ConfigDict(
        {
            "name": "unet",
            "widths": (32, 64, 128, 128) if flat else (16, 32, 64, 128),
            # Stacks are coarse in z, so the first 3D level works in the plane.
            "kernels": ((3, 3),) * levels if flat else ((1, 3, 3), *((3, 3, 3),) * (levels - 1)),
            "pools": ((2, 2),) * (levels - 1) if flat else ((1, 2, 2), *((2, 2, 2),) * (levels - 2)),
            # The finest level works on blocks of 2x2 pixels: nuclei are tens of pixels wide.
            "stem": (2, 2) if flat else (1, 1, 1),
            "convs": 2,
            "narrow_first": False,
            "bias": True,
            # Cells may cover 4 % of a frame and far more of a crop around one. Statistics of the input (group norm) then
            # differ between training and inference: on Fluo-N2DH-GOWT1 SEG was 0.84 with them and 0.89 with these.
            "norm": "batch",
            "groups": 8,
            "affine": True,
            "activation": "relu",
            "order": "cna",
            "dropout": 0.0,
            "upsample": "transposed",
            "up_channels": "halve",
            "join": "concat",
            "remat": (False,) * levels,
            "dtype": "auto",
        }
    )
    config.representation = ConfigDict(
        {
            "name": "distance",
            "scale": "cell",
            "max_distance": 40.0 if flat else 24.0,
            "max_cells": config.data.get_ref("max_cells"),
            "bce_weight": 1.0,
            "dice_weight": 1.0,
            "distance_weight": 4.0,
            "distance_loss": "smooth_l1",
            "smooth_l1_beta": 0.1,
            "foreground_threshold": 0.5,
            # Chosen on a synthetic movie that is neither trained on nor reported: a cell merged with its neighbour costs
            # more than one that is split (TRA .989; .982 with smoothing 2 and prominence 0.1).
            "smoothing": 1.5,
            "prominence": 0.05,
            "min_size": 20,
            "fill_holes": True,
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": 2e-3,
            "warmup_steps": 100,
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
            "steps": 2000,
            # Parts of a batch that are computed one after the other: memory of a part, gradients of the whole.
            "accumulate": 1,
            "log_every": 20,
            "evaluate_every": 500,
            "save_every": 250,
            "keep_latest": 2,
            "best_metric": "score",
            # Work folder of a run whose weights this one starts with; "" for none.
            "initial": "",
            # What of them, first match wins: "taken" has to fit, "fitting" is taken if it does, "anew" is not taken.
            "initial_rules": ((".*", "fitting"),),
        }
    )
    config.evaluation = ConfigDict(
        {
            # Another store whose frames are all judged; else the last `holdout` of each movie's frames.
            "store": "",
            "holdout": 0.15,
            "max_frames": 8,
            "window": (1024, 1024) if flat else (64, 256, 256),
            # Scored as they are, and with the signal scaled down at constant noise.
            "contrasts": (1.0, 0.25),
        }
    )
    config.inference = ConfigDict(
        {"tile": (1024, 1024) if flat else (32, 512, 512), "batch": 1, "average": "flips"}
    )
    # Lengths in diameters of the movie's median cell, volumes as ratios; launch.track links with the same,
    # celltrack_jax.tracking.links.HUNGARIAN.
    config.tracking = ConfigDict(
        {
            "max_distance": 1.2,
            "division_distance": 1.3,
            "min_sibling_ratio": 0.3,
            "max_daughter_ratio": 1.3,
            "max_gap": 1,
        }
    )
    return config


def _shrink(config: ConfigDict) -> None:
    """Seconds on two cores: small crops, a small network, few steps."""
    flat = len(config.data.crop) == 2
    config.data.crop = (64, 64) if flat else (8, 32, 32)
    config.data.margin = (8, 8) if flat else (0, 4, 4)
    config.data.batch_size = 8
    config.data.max_cells = 64
    config.representation.max_distance = 16.0
    config.representation.min_size = 10
    config.model.widths = (8, 16)
    config.model.kernels = config.model.kernels[:2]
    config.model.pools = config.model.pools[:1]
    config.model.remat = (False, False)
    config.train.steps, config.optimizer.warmup_steps = 20, 4
    config.train.log_every, config.train.evaluate_every, config.train.save_every = 5, 10, 10
    config.evaluation.max_frames = 2
    config.inference.tile = (128, 128) if flat else (16, 64, 64)
