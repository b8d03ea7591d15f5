"""Centroids of nuclei as a heat map, learned from boxes or markers (`helalab` and what came after it).

    python -m launch.simulate --kind=bursts --output=bursts               # or the real <root>/train, <root>/test
    python -m launch.prepare  --format=bursts --source=bursts/train --store=stores/bursts
    python -m launch.prepare  --format=bursts --source=bursts/test --store=stores/bursts_test
    python -m launch.train    --config=configs/hela/centroids.py:modern --workdir=runs/hela \
        --config.data.store=stores/bursts --config.evaluation.store=stores/bursts_test
    python -m launch.predict  --segmenter=runs/hela --linker=nearest --images=<burst>/img1 --output=04_RES
    python -m launch.evaluate --truth=<burst>/gt/gt.txt --result=04_RES   # F1, AOGM, ... of points
    python -m launch.evaluate --workdir=runs/hela --checkpoints=all       # the same over the steps
    python -m launch.sweep    --config=configs/hela/centroids.py:small --workdir=runs/sigma --seeds=0,1,2 ...

| argument | what | steps, time on two CPU cores | F1 within 5 px of synthetic bursts |
|---|---|---|---|
| unet_mse_s2 | the original: torch-em's U-Net, MSE, sigma 2, its filter and peaks | 4,000; for a GPU | after 150: .02 |
| l1 | the same with its L1 loss | likewise | not trained |
| decode_orig | another name of `unet_mse_s2`, which is read as the original | | |
| decode_log | `unet_mse_s2` read by blobs, as the later version | likewise | |
| eval_curve | `unet_mse_s2` that keeps every checkpoint | likewise | |
| modern | focal loss, offsets between pixels, local maxima | 1,000; 9 min, busy | .980; DET .986 TRA .983 |
| direction | `modern`, and each cell's step to the next frame | 1,000; 13 min, busy | .979 |
| frac | `modern` on a tenth of the frames | 500 of 1,000; 8 min, busy | .967 |
| vit | `modern` with a vision transformer as encoder (UNETR) | for a GPU: 3.5 s a step | not trained |
| partial | CTC data, prepared with --allow_gaps where frames lack | 300 of 600; 8 min | .950 inside GOWT1's markers |
| small | a network for the sweep of sigma, loss and decoder | 300; 2 min, busy | .95 |
| tiny | what the tests train | 20; seconds, and a minute to compile | |

Bursts as of `launch.simulate --sequences=9 --frames=30 --seed=1`; GOWT1 with sigma 6 and peaks 15 px apart.
More: docs/results.md; of the original: docs/originals.md, 1.
"""

from typing import Any

from ml_collections import ConfigDict

ARGUMENTS = (
    *("unet_mse_s2", "l1", "decode_orig", "decode_log", "eval_curve"),
    *("modern", "direction", "frac", "vit", "partial", "small", "tiny"),
)
SIGMAS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LOSSES = ("mse", "weighted_mse", "focal")


def get_config(arg: str = "modern") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/hela/centroids.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    config = _base()
    if arg in ("unet_mse_s2", "l1", "decode_orig", "decode_log", "eval_curve"):
        _original(config)
    if arg == "l1":
        config.representation.loss_name = "l1"
    if arg == "decode_log":
        config.representation.decoder, config.representation.threshold = "log", 0.2
    if arg == "eval_curve":
        config.train.keep_latest = 1000
    if arg == "direction":
        config.representation.step_weight = 0.1
        config.evaluation.linkers = ("hungarian", "nearest", "steps")
    if arg == "frac":
        config.data.fraction = 0.1
    if arg == "vit":
        config.model = _vit()
    if arg == "partial":
        # Large bright nuclei among dim ones; frames of 700x1100 with 30 to 50 cells.
        config.data.crop, config.data.batch_size = (192, 192), 8
        config.representation.sigma, config.representation.min_distance = 3.0, 6.0
        config.evaluation.holdout = 0.25
        config.train.steps = 600
    if arg in ("small", "tiny"):
        _shrink(config)
    if arg == "tiny":
        config.data.crop, config.data.batch_size, config.data.max_cells = (64, 64), 4, 32
        config.model.widths = (8, 16, 16)
        config.train.steps, config.optimizer.warmup_steps = 20, 4
        config.train.log_every, config.train.evaluate_every, config.train.save_every = 5, 10, 10
        config.evaluation.max_frames, config.evaluation.max_sequences = 2, 1
        config.evaluation.decoders = {}
        config.evaluation.calibrate, config.evaluation.oracle = 0, False
    return config


def sweep(add) -> None:
    """Could detection be improved with smaller centroids? Every arm is read by every decoder, the true map too."""
    for sigma in (2.0, *(sigma for sigma in SIGMAS if sigma != 2.0)):
        for loss in LOSSES:
            add(
                f"sigma={sigma:g}_{loss}",
                argument="small",
                overrides={"representation.sigma": sigma, "representation.loss_name": loss},
            )


def _base() -> ConfigDict:
    levels = 4
    config = ConfigDict()
    config.task = "detect"
    config.seed = 0
    config.ema_decay = 0.99
    config.mesh = ConfigDict({"space": 1, "parameters": ((".*", "replicated"),)})
    config.data = ConfigDict(
        {
            "store": "",
            "channels": 1,
            # (channel, frame) of what the network sees, frame -1 being the one before; () for all channels of the frame.
            "inputs": (),
            "crop": (128, 128),
            "margin": (32, 32),
            "batch_size": 8,
            "foreground_probability": 0.9,
            # Pixels along the edges of a crop in which cells are unknown, except where the edge is the frame's: about a
            # cell's radius, for boxes tell the middle of what the frame shows of a cell. It needs a margin; 0: none.
            "cut_px": 12,
            # Cells of a crop, at most.
            "max_cells": 64,
            # What lengths count in: "px", or "um" where movies of several magnifications meet.
            "unit": "px",
            # Share of the frames that is trained on.
            "fraction": 1.0,
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
            "zoom": 0.15,
            "shear": 0.05,
            "elastic_probability": 0.0,
            "elastic_px": 0.0,
            "elastic_spacing_px": 48,
            "gamma_probability": 0.5,
            "gamma_octaves": 0.4,
            "blur_probability": 0.3,
            "blur_px": 1.0,
            "contrast_probability": 0.3,
            "contrast_down_octaves": 1.0,
            "contrast_up_octaves": 0.3,
            "noise_probability": 0.5,
            "noise_std": 0.03,
            "shot_noise_std": 0.03,
            "renormalise_probability": 0.8,
            "brightness_probability": 0.5,
            "brightness_offset": 0.1,
            "brightness_gain_octaves": 0.3,
        }
    )
    config.model = ConfigDict(
        {
            "name": "unet",
            "widths": (32, 64, 128, 128),
            "kernels": ((3, 3),) * levels,
            "pools": ((2, 2),) * (levels - 1),
            # The finest level works on blocks of 2x2 pixels: nuclei are tens of pixels wide.
            "stem": (2, 2),
            "convs": 2,
            "narrow_first": False,
            "bias": True,
            "norm": "batch",
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
            "axes": 2,
            "sigma": 2.0,
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
            # F1 within 5 px on 12 training frames: .974 with .15, .977 with .2 and .25, .954 with .1 and .4.
            "threshold": 0.15,
            # 0.3 of the median distance to the nearest neighbour in the synthetic bursts.
            "min_distance": 7.0,
            # The later version's blob detection: standard deviations 1..10, a tenth of a disc may be covered.
            "log_sigma": 10.0,
            "log_scales": 10,
            "log_overlap": 0.1,
            # The original's filter and distance of peaks.
            "window_size": 20,
            "window_distance": 30,
            "max_peaks": 512,
            "marker_radius": 4.0,
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
            "steps": 1000,
            "accumulate": 1,
            "log_every": 20,
            "evaluate_every": 250,
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
            "max_frames": 50,
            # The original scores the first burst, or all.
            "max_sequences": 1000,
            "window": (1024, 1280),
            # Pairs lie within these; the score, and the lineage's matching, take the one `radius`.
            "radii": (3.0, 5.0, 8.0),
            "radius": 5.0,
            # Whether errors of matched points are scored too: error_median_<r>, error_mean_, error_xy_, in 3D error_z_.
            "localisation": False,
            # Distances of a cell to its nearest neighbour that part recall_<r>_nn<a>-<b>, precision_ and F1_ of the one
            # `radius`; (): none.
            "density_edges": (),
            # Whether stacks are scored by the rules of the first kinetochore detectors too: seuc6/F1, edt8/recall, ...
            "original_rules": False,
            # What sisters are like (`tracking.sisters.Sisters`), by which tracks are paired: pairs_F1; {}: none are.
            "sisters": {},
            # Other ways to read the same map, by what they change.
            "decoders": {},
            # Whether decoders read the true map too: what no training can exceed.
            "oracle": False,
            # Training frames on which each decoder's threshold is chosen among these; 0 keeps the config's.
            "calibrate": 0,
            "thresholds": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7),
            # "hungarian", "nearest" (neither divisions nor gaps), "steps" (from where the step leads).
            "linkers": ("hungarian",),
            # The original's own score, which takes a dense assignment of all cells of a burst.
            "helalab_cost": False,
        }
    )
    config.inference = ConfigDict({"tile": (1024, 1024), "batch": 1, "average": "none"})
    config.tracking = ConfigDict(
        {
            "max_distance": 1.2,
            # Points have no size, which would tell daughters from neighbours: only what lies very near has divided. On
            # training bursts with 1.5 % of the points lost: LNK .986, with 1.3 as for outlined cells .972.
            "division_distance": 0.6,
            "min_sibling_ratio": 0.3,
            "max_daughter_ratio": 1.3,
            "max_gap": 1,
        }
    )
    return config


def _original(config: Any) -> None:
    """As published, but that each sample of a batch is cut and turned on its own, linearly interpolated."""
    levels = 5
    config.ema_decay = 0.0
    for name in config.augment:
        if name.endswith("_probability"):
            config.augment[name] = 0.0
    config.augment.affine_probability, config.augment.rotation_deg = 1.0, 180.0
    config.augment.zoom = config.augment.shear = 0.0
    config.data.foreground_probability, config.data.batch_size, config.data.cut_px = 0.0, 16, 0
    config.model.stem = (1, 1)
    config.model.widths = (32, 64, 128, 256, 512)
    config.model.kernels, config.model.pools = ((3, 3),) * levels, ((2, 2),) * (levels - 1)
    config.model.remat = (False,) * levels
    config.model.norm, config.model.affine, config.model.order = "instance", False, "nca"
    config.model.upsample = "bilinear"
    config.representation.loss_name, config.representation.offset_weight = "mse", 0.0
    config.representation.decoder = "windowed"
    config.evaluation.helalab_cost, config.evaluation.linkers = True, ("nearest",)
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 3e-4, 0
    config.optimizer.final_fraction = 1.0
    config.optimizer.weight_decay_rules = ((".*", 0.0),)
    config.optimizer.clip_norm = 1e9
    # 1,400 epochs of 466 steps were run; these are eight.
    config.train.steps = 4000
    config.train.evaluate_every = config.train.save_every = 466


def _vit() -> ConfigDict:
    return ConfigDict(
        {
            "name": "unetr",
            "patch": (16, 16),
            "size": (128, 128),
            "depth": 12,
            "width": 384,
            "heads_count": 6,
            "mlp_ratio": 4,
            "widths": (32, 64, 128, 256),
            "taps": (3, 6, 9, 12),
            "norm": "batch",
            "groups": 8,
            "dtype": "auto",
        }
    )


def _shrink(config: ConfigDict) -> None:
    levels = 3
    config.data.crop, config.data.margin, config.data.batch_size = (96, 96), (24, 24), 8
    config.model.widths = (32, 64, 64)
    config.model.kernels, config.model.pools = ((3, 3),) * levels, ((2, 2),) * (levels - 1)
    config.model.remat = (False,) * levels
    config.representation.offset_weight, config.representation.min_distance = 0.0, 3.0
    config.train.steps, config.train.evaluate_every, config.train.save_every = 300, 300, 300
    config.evaluation.max_frames, config.evaluation.max_sequences = 6, 2
    config.evaluation.calibrate, config.evaluation.oracle = 4, True
    config.evaluation.thresholds = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    # The original's peaks lie at the corner of what its filter made flat: 13 pixels off.
    config.evaluation.radii = (3.0, 5.0, 8.0, 20.0)
    config.evaluation.decoders = {
        "original": {"decoder": "windowed"},
        "maxima7": {"decoder": "maxima", "min_distance": 7.0},
        "log": {"decoder": "log"},
    }
