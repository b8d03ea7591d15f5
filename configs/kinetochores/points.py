"""Kinetochores in anisotropic volumes as points: networks, inputs, labels and losses.

    python -m launch.simulate --kind=kinetochores --output=kin            # or the real movies
    python -m launch.prepare  --format=kinetochores --source=kin/train --store=stores/kin --spacing=0.3,0.13,0.13
    python -m launch.prepare  --format=kinetochores --source=kin/test --store=stores/kin_test --spacing=0.3,0.13,0.13
    python -m launch.train    --config=configs/kinetochores/points.py:modern --workdir=runs/kin \
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test
    python -m launch.predict  --segmenter=runs/kin --linker=hungarian --images=kin/test/zygote5 --spacing=0.3,0.13,0.13 \
        --output=05_RES
    python -m launch.evaluate --truth=kin/test/zygote5/centres.csv --result=05_RES --spacing=0.3,0.13,0.13 \
        --matches=matches                    # measures in µm; volumes and a table of what was matched
    python -m launch.sweep    --config=configs/kinetochores/points.py --workdir=runs/losses \
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test    # --arms=focal,dice: these alone

A movie is a folder per channel of HDF5 volumes (`EGFP/t000.h5`, data set `exported_data`, Z Y X and 1), and `centres.csv`
with columns Tags (`<movie>.Kinetochore.Pair3_1`), Time Point and Center of Mass (Intensities), X, Y, Z (px).
`launch.prepare --crop` takes a part of it; a store of EGFP alone is trained on with --config.data.channels=1. The result
has `sisters.csv`, the pairs of tracks; `launch.track --sisters` pairs tracks of other masks.

An argument is words joined by "_", in any order; what is not said is u3d, c1, vox and dice. The sections are those of
docs/originals.md; `original`, here and in names of measures, is the published detector that it describes.

| words | what | docs/originals.md |
|---|---|---|
| modern | our default: an anisotropic U-Net, focal loss, offsets between voxels; 600 steps | 2.3 |
| u3d, res, van, vanfix, aniso | UNet3D, ResidualUNet3D, the own U-Net as published and with its head mended, ours | 2.3 |
| c1, c2, t3, t6 | EGFP; and mCherry; EGFP of frames -1, 0, 1; both of these, by frame | 2.2 |
| vox, dil1, dil2, ball2, ball3, gauss | a voxel, dilated, a ball of 2 or 3 voxels, a Gaussian of 0.2 µm | 2.2 |
| mse, rmse, rmsle, bce, wbce, dice, gdice, bcedice, focal | losses | 2.4 |
| gd31, gd51, gd52, gd72, gd93, gd113, gd144 | GaussianDice with kernel size and sigma in voxels | 2.4 |
| gdstep, gdgeom, gdrandom | (7, 2), (5, 1), (3, 1) in turn; sigma from 0.4 to 0.1 µm; sigma at random | 2.4 |
| targets3, tdice, tdist | the points of three frames; and what ties these, in the mended form | 2.4 |
| reg, regtrunc, regvec | distance maps as published; truncated, in µm; and the way to the point | 2.7 |
| mh | a segmentation and a distance map from two heads | 2.3 d |
| published | of tdice, tdist and mh: with the sign as published | 2.4 |
| small | a sixteenth of the work per step, 400 steps | |
| long | with small: one crop of 12x32x32 per step, learning rate as in the original, 10,000 steps | |
| tiny | what the tests train: 20 steps of 8x32x32, which find nothing | |

Measured on two unseen synthetic movies, 12 volumes, two busy cores: `modern`, 600 steps in 14 min, F1 .982 within 0.5 µm,
median error .08 µm; `aniso_gd51_small`, 400 steps in 3 min, .982 and .06; all of its sweep are in docs/results.md. The
original's arms were not trained at full size.

The original trained on one crop of 48x128x128 at a time with Adam at 2e-4, for 80 to 560 steps; these arms take 10,000.
"""

from typing import Any

from ml_collections import ConfigDict

LOSSES = ("mse", "rmse", "rmsle", "bce", "wbce", "dice", "gdice", "bcedice", "focal")
KERNELS = {
    f"gd{size}{sigma}": (size, sigma)
    for size, sigma in ((3, 1), (5, 1), (5, 2), (7, 2), (9, 3), (11, 3), (14, 4))
}
SCHEDULES = ("gdstep", "gdgeom", "gdrandom")
ARGUMENTS = (
    *("modern", "modern_c2", "modern_t3", "modern_t6", "tiny"),
    *(f"{net}_{loss}" for net in ("van", "vanfix") for loss in ("rmse", "dice", "mse_gauss")),
    *(f"u3d_{loss}" for loss in (*LOSSES, *KERNELS, *SCHEDULES)),
    *("res_dice", "aniso_dice"),
    *(f"c2_{loss}" for loss in ("dice", "gd31", "gd51", "gd52", "gd72", "gd113", "gd144")),
    *(f"t3_{loss}" for loss in ("dice", "gd31", "gd51", "gd72", "gd113")),
    *(f"t6_{loss}" for loss in ("dice", "gd51", "gd52", "gd72", "gd93", "gd113", "gd144")),
    *(f"{labels}_dice" for labels in ("dil1", "dil2", "ball2", "ball3")),
    *("t3_dil1_dice", "t3_ball2_dice"),
    *(
        "t3_targets3_gd51",
        "t3_tdice_gd51",
        "t3_tdist_gd51",
        "t3_tdice_gd51_published",
        "t3_tdist_gd51_published",
    ),
    *(f"{kind}{seen}" for kind in ("reg", "regtrunc", "regvec") for seen in ("", "_c2", "_t3", "_t6")),
    *("mh", "mh_published"),
)
SPACING = (0.3, 0.13, 0.13)
INPUTS = {
    "c1": ((0, 0),),
    "c2": ((0, 0), (1, 0)),
    "t3": ((0, -1), (0, 0), (0, 1)),
    "t6": ((0, -1), (1, -1), (0, 0), (1, 0), (0, 1), (1, 1)),
}
NETWORKS = ("u3d", "res", "van", "vanfix", "aniso")
LABELS = {
    "vox": ("voxel", 0.0),
    "dil1": ("dilated", 1.0),
    "dil2": ("dilated", 2.0),
    "gauss": ("gaussian", 0.2),
}
LABELS |= {"ball2": ("ball_voxels", 2.0), "ball3": ("ball_voxels", 3.0)}
NAMES = {"mse": "l2", "wbce": "weighted_bce", "gdice": "generalised_dice", "bcedice": "bce_dice"}
OTHER = (
    "modern",
    "targets3",
    "tdice",
    "tdist",
    "reg",
    "regtrunc",
    "regvec",
    "mh",
    "published",
    "small",
    "long",
    "tiny",
)
KNOWN = (*NETWORKS, *INPUTS, *LABELS, *LOSSES, *KERNELS, *SCHEDULES, *OTHER)


def get_config(arg: str = "modern") -> ConfigDict:
    words = arg.split("_")
    unknown = [word for word in words if word not in KNOWN]
    if unknown:
        raise ValueError(
            f"configs/kinetochores/points.py knows the words {', '.join(KNOWN)}, not {unknown[0]!r}"
        )
    _refuse_idle(words)
    config = _base()
    config.data.inputs = INPUTS[_one(words, INPUTS, "c1")]
    if not {"modern", "tiny"} & set(words):
        _original(config, words)
    if {"small", "tiny"} & set(words):
        _shrink(config, anisotropic=bool({"aniso", "modern", "tiny"} & set(words)))
    if "long" in words:
        # Ten thousand steps on a core in 7 minutes; crops of 16x48x48 took 26.
        config.data.crop, config.data.batch_size, config.train.steps = (12, 32, 32), 1, 10_000
        # As in the original, whose question of more steps this answers.
        config.optimizer.learning_rate = 2e-4
        config.train.evaluate_every = config.train.save_every = 2500
    if "tiny" in words:
        config.data.crop, config.data.batch_size = (8, 32, 32), 2
        config.model.widths, config.model.groups = (4, 8, 8), 4
        config.train.steps, config.optimizer.warmup_steps = 20, 4
        config.train.log_every, config.train.evaluate_every, config.train.save_every = 5, 10, 10
        config.evaluation.max_frames, config.evaluation.max_sequences, config.evaluation.calibrate = 2, 1, 0
    return config


def sweep(add) -> None:
    """Which loss? Every one on small volumes, read alike, thresholds from training frames."""
    for loss in (
        "focal",
        "mse",
        "rmse",
        "rmsle",
        "bce",
        "wbce",
        "dice",
        "gdice",
        "bcedice",
        *KERNELS,
        *SCHEDULES,
    ):
        add(loss, argument=f"aniso_{loss}_small", overrides={})


def _refuse_idle(words: list[str]) -> None:
    """Raises ValueError for a word that the others leave without effect."""
    maps = {"reg", "regtrunc", "regvec", "mh"} & set(words)
    tied = {"tdice", "tdist"} & set(words)
    ours = {"modern", "tiny"} & set(words)
    heard = {*INPUTS, "small"} | ours | maps | tied
    if not ours:
        heard |= {*NETWORKS}
    if not ours | maps:
        heard |= {"focal"} if "focal" in words else {*LABELS, *LOSSES, *KERNELS, *SCHEDULES, "targets3"}
    if tied or "mh" in words:
        heard |= {"published"}
    if "small" in words:
        heard |= {"long"}
    for word in words:
        if word not in heard:
            raise ValueError(f"{word!r} changes nothing in {'_'.join(words)!r}: leave it out")


def _one(words: list[str], known: Any, default: str) -> str:
    """The word that is one of these."""
    found = [word for word in words if word in known]
    if len(found) > 1:
        raise ValueError(f"{' and '.join(found)} exclude each other: give one of them")
    return found[0] if found else default


def _original(config: Any, words: list[str]) -> None:
    """The arms of the original, on its volumes and with its optimizer, but longer."""
    config.ema_decay = 0.0
    for name in config.augment:
        if name.endswith("_probability"):
            config.augment[name] = 0.0
    config.augment.flip_probability, config.augment.rot90_probability = 0.5, 1.0
    config.augment.affine_probability, config.augment.rotation_deg, config.augment.zoom = 1.0, 35.0, 0.0
    config.augment.contrast_probability = config.augment.noise_probability = 0.1
    config.data.crop, config.data.margin, config.data.batch_size = (48, 128, 128), (0, 0, 0), 1
    config.data.foreground_probability = 0.0
    config.model = _network(_one(words, NETWORKS, "mh" if "mh" in words else "u3d"))
    distances = _one(words, ("reg", "regtrunc", "regvec", "mh"), "")
    if distances:
        config.representation = _distances(config, distances)
    elif "focal" not in words:
        config.representation = _spots(config, words)
    if "published" in words:
        config.representation.published_sign = True
    config.evaluation.calibrate = 4
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 2e-4, 0
    config.optimizer.weight_decay_rules, config.optimizer.decay = ((".*", 1e-4),), "in_gradient"
    config.optimizer.clip_norm = 1e9
    config.train.steps, config.train.evaluate_every, config.train.save_every = 10_000, 1000, 1000


def _kernel(config: Any, name: str) -> ConfigDict:
    """`representations.overlap.Kernel` of a word, or any where the loss has none."""
    kernel: Any = ConfigDict(
        {
            "sizes": (5,),
            "sigmas": (1.0,),
            "spacing": (1.0, 1.0, 1.0),
            "schedule": "constant",
            "starts": (0.0,),
            "steps": config.train.get_ref("steps"),
        }
    )
    if name in KERNELS:
        size, sigma = KERNELS[name]
        kernel.sizes, kernel.sigmas = (size,), (float(sigma),)
    elif name == "gdstep":
        # As published for two epochs each; here for a fifth of the run.
        kernel.sizes, kernel.sigmas = (7, 5, 3), (2.0, 1.0, 1.0)
        kernel.schedule, kernel.starts = "steps", (0.0, 0.2, 0.4)
    elif name in SCHEDULES:
        kernel.sizes, kernel.sigmas, kernel.spacing = (13, 13), (0.4, 0.1), SPACING
        kernel.schedule = {"gdgeom": "geometric", "gdrandom": "random"}[name]
    return kernel


def _spots(config: Any, words: list[str]) -> ConfigDict:
    loss = _one(words, (*LOSSES, *KERNELS, *SCHEDULES), "dice")
    shape, radius = LABELS[_one(words, LABELS, "vox")]
    tied = _one(words, ("tdice", "tdist"), "none")
    return ConfigDict(
        {
            "name": "spots",
            "axes": 3,
            "max_cells": config.data.get_ref("max_cells"),
            "shape": shape,
            "radius": radius,
            "loss_name": NAMES.get(loss, loss if loss in LOSSES else "gaussian_dice"),
            "kernel": _kernel(config, loss),
            "around": (-1, 1) if tied != "none" or "targets3" in words else (),
            "temporal": {"none": "none", "tdice": "dice", "tdist": "distribution"}[tied],
            "temporal_weight": 0.1,
            "published_sign": False,
            "decoder": "maxima",
            # A voxel of probability 1 is smoothed to 0.26.
            "threshold": 0.15,
            # Flat tops and single voxels alike get one maximum.
            "smoothing": 0.1,
            # Median error on training volumes: BCE and Dice .049 µm, .056 with "parabola"; Dice alone .081, .086.
            "refine": "centroid",
            "min_distance": 0.25,
            "max_peaks": 256,
            "marker_radius": 0.35,
        }
    )


def _distances(config: Any, word: str) -> ConfigDict:
    published = word in ("reg", "mh")
    return ConfigDict(
        {
            "name": "point_distance",
            "axes": 3,
            "max_cells": config.data.get_ref("max_cells"),
            "form": "minmax" if published else "truncated",
            # 60 % of the median distance of neighbours.
            "reach": 0.6,
            "vectors": word == "regvec",
            "around": (),
            "loss_name": "smooth_l1" if published else "mse",
            "segment": 1.0 if word == "mh" else 0.0,
            "segment_radius": 0.3,
            "kernel": _kernel(config, "gd72"),
            "published_sign": False,
            "threshold": 0.3,
            "smoothing": 0.1,
            "min_distance": 0.25,
            "max_peaks": 256,
            "marker_radius": 0.35,
        }
    )


def _network(word: str) -> Any:
    if word == "aniso":
        return _base().model
    levels = 5 if word == "res" else 4
    shared = {
        "widths": (32, 64, 128, 256, 512)[:levels],
        "kernels": ((3, 3, 3),) * levels,
        "pools": ((2, 2, 2),) * (levels - 1),
        "remat": (False,) * levels,
        "dtype": "auto",
    }
    if word in ("van", "vanfix"):
        own = {"name": "vanilla_unet", "join": "concat", "head": "block" if word == "van" else "conv"}
        return ConfigDict(shared | own | {"widths": (64, 128, 256, 512)})
    if word == "res":
        return ConfigDict(
            shared | {"name": "residual_unet", "norm": "group", "groups": 8, "activation": "elu"}
        )
    unet3d = {
        **{"name": "unet", "stem": (1, 1, 1), "convs": 2, "narrow_first": True, "bias": False},
        **{"norm": "group", "groups": 8, "affine": True, "activation": "relu", "order": "nca"},
        **{"join": "concat", "upsample": "nearest", "up_channels": "keep", "dropout": 0.0},
    }
    if word == "mh":
        heads = {"name": "multihead_unet", "split": (1, 1), "head_widths": (8, 4), "head_activation": "none"}
        return ConfigDict(shared | unet3d | heads)
    return ConfigDict(shared | unet3d)


def _shrink(config: Any, *, anisotropic: bool) -> None:
    levels = 3
    config.data.crop, config.data.margin, config.data.batch_size = (16, 48, 48), (0, 8, 8), 4
    config.data.foreground_probability = 0.9
    config.model.widths = (8, 16, 32)
    config.model.kernels = ((1, 3, 3) if anisotropic else (3, 3, 3), *((3, 3, 3),) * (levels - 1))
    config.model.pools = ((1, 2, 2) if anisotropic else (2, 2, 2), (2, 2, 2))
    config.model.remat = (False,) * levels
    config.optimizer.learning_rate, config.optimizer.warmup_steps, config.optimizer.clip_norm = 2e-3, 20, 1.0
    config.ema_decay = 0.99
    config.train.steps, config.train.evaluate_every, config.train.save_every = 400, 400, 400
    config.evaluation.max_frames = 4


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
            "narrow_first": False,
            "bias": True,
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
            # Work folder of a run whose weights this one starts with; "" for none.
            "initial": "",
            # What of them, first match wins: "taken" has to fit, "fitting" is taken if it does, "anew" is not taken.
            "initial_rules": ((".*", "fitting"),),
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
            # Wide kernels of GaussianDice spread a point over probabilities below .05.
            "thresholds": (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7),
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
