"""Mouse muscle stem cells in bright field: U-Net and ConvLSTM U-Net, resized frames and crops at full resolution.

    python -m launch.simulate --kind=bright_field --output=musc          # or the real BF-C2DL-MuSC
    python -m launch.prepare  --source=musc --store=stores/musc
    python -m launch.train    --config=configs/musc/segment.py:modern --workdir=runs/musc \
        --config.data.store=stores/musc
    python -m launch.predict  --segmenter=runs/musc --images=musc/02 --output=02_RES
    python -m launch.sweep    --config=configs/musc/segment.py --workdir=runs/arms --config.data.store=stores/musc

| argument | what | steps, time on 2 cores | SIM+/01, frames 55-64: P R at IoU .5, .75 |
|---|---|---|---|
| unet256 | experiment 1: U-Net, whole frames at 256x256 | 2,000; for a GPU | small: .93 .84, .76 .69 |
| lstm160full | experiment 2: ConvLSTM U-Net, whole frames at 160x160, clips of 5 | likewise | small: .90 .83, .76 .70 |
| lstm_crop | experiment 3: ConvLSTM U-Net, 160x160 crops, disjoint patches | likewise | small: .50 .52, .44 .46 |
| unet_crop | the control that was missing: U-Net on these crops | likewise | small: .96 .91, .71 .68 |
| cls3 | `lstm_crop` with background, cell and border, read over whole frames with context | likewise | not trained |
| ws | `unet_crop` read by a watershed of the distance to the background | likewise | small: .95 .93, .77 .75 |
| modern | ours: recurrence at the coarse levels in both directions, distance maps | likewise | small: .97 .96, .88 .87 |
| <any>_small | the same with a quarter of the width and fewer levels | 300; 5 to 12 min, busy | as above |
| tiny | what the tests train | 20; seconds | |

A step of `lstm_crop` is 2.0 TFLOP and takes 5 GB; of `lstm_crop_small`, 1 to 2 s on 2 cores, 20 GFLOP and 0.2 GiB.
The other data set, and what the table says: docs/results.md; of the experiments: docs/originals.md, 4.
"""

from typing import Any

from ml_collections import ConfigDict

ARMS = ("unet256", "lstm160full", "lstm_crop", "unet_crop", "cls3", "ws", "modern")
ARGUMENTS = (*ARMS, *(f"{arm}_small" for arm in ARMS), "tiny")


def get_config(arg: str = "modern") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/musc/segment.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    arm = arg.removesuffix("_small")
    config = _base()
    if arm in ("unet256", "unet_crop", "ws"):
        config.model = _unet()
        config.clips.frames = config.clips.block = 1
        config.data.batch_size = 16
    if arm == "unet256":
        config.data.whole_frames, config.data.crop = True, (256, 256)
    if arm == "lstm160full":
        config.data.whole_frames = True
    if arm in ("unet256", "lstm160full", "lstm_crop", "unet_crop"):
        _original_augmentation(config)
    if arm in ("lstm_crop", "unet_crop"):
        config.evaluation.patches = "disjoint"
    if arm == "ws":
        config.representation.split = "distance"
    if arm in ("cls3", "tiny"):
        config.representation = _three_classes()
    if arm in ("cls3", "modern", "tiny"):
        # Clips of a movie follow each other with what the network remembers: four frames before each block.
        config.clips.block, config.clips.before = 8, 4
        config.clips.reverse_probability, config.clips.max_skip = 0.5, 3
    if arm == "modern":
        config.model.recurrent = (False, False, True, True, True)
        config.model.direction, config.clips.after = "both", 4
        config.representation = _distance(config)
    if arg.endswith("_small"):
        _shrink(config)
    if arg == "tiny":
        _make_tiny(config)
    return config


def sweep(add) -> None:
    """The original's three experiments, and the one that tells time from resolution."""
    for arm in ("lstm_crop", "unet_crop", "lstm160full", "unet256", "cls3", "ws", "modern"):
        add(arm, argument=f"{arm}_small")


def _base() -> ConfigDict:
    config = ConfigDict()
    config.task = "clips"
    config.seed = 0
    config.ema_decay = 0.99
    config.mesh = ConfigDict({"space": 1, "parameters": ((".*", "replicated"),)})
    config.clips = ConfigDict(
        {
            "frames": 5,
            # Every k-th frame, k up to this; clips played backwards.
            "max_skip": 1,
            "reverse_probability": 0.0,
            # Movies are predicted in blocks of so many frames, with others before and behind as context: 5 and none as
            # the original; as long as the movie, and the state is carried through all of it.
            "block": 5,
            "before": 0,
            "after": 0,
        }
    )
    config.data = ConfigDict(
        {
            "store": "",
            "channels": 1,
            "crop": (160, 160),
            "margin": (0, 0),
            # Whether frames are resized to `crop` instead of being cut.
            "whole_frames": False,
            "batch_size": 3,
            "foreground_probability": 0.7,
            "silver": True,
            "unknown_diameters": 0.6,
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
            "zoom": 0.2,
            "shear": 0.08,
            "elastic_probability": 0.3,
            "elastic_px": 4.0,
            "elastic_spacing_px": 32,
            "gamma_probability": 0.3,
            "gamma_octaves": 0.3,
            "blur_probability": 0.2,
            "blur_px": 1.0,
            "contrast_probability": 0.5,
            "contrast_down_octaves": 1.0,
            "contrast_up_octaves": 0.6,
            "noise_probability": 0.5,
            "noise_std": 0.03,
            "shot_noise_std": 0.03,
            "renormalise_probability": 0.8,
            "brightness_probability": 0.5,
            "brightness_offset": 0.1,
            "brightness_gain_octaves": 0.3,
        }
    )
    levels = 5
    config.model = ConfigDict(
        {
            "name": "convlstm_unet",
            "widths": (64, 128, 256, 512, 1024),
            "kernels": ((3, 3),) * levels,
            "pools": ((2, 2),) * (levels - 1),
            "stem": (1, 1),
            # "czifan": no tanh at the candidate, no bias; "standard" as Flax has it.
            "cell": "czifan",
            "recurrent": (True,) * levels,
            "direction": "forward",
            "norm": "batch",
            "groups": 8,
            "activation": "leaky_relu",
            # Gradients stop every so many frames; 0 never.
            "truncate": 0,
            "remat": (True, True, False, False, False),
            "upsample": "bilinear",
            "up_channels": "keep",
            "dtype": "auto",
        }
    )
    config.representation = ConfigDict(
        {
            "name": "mask",
            "arm": "foreground",
            "bce_weight": 1.0,
            "dice_weight": 1.0,
            "foreground_threshold": 0.5,
            # On training frames of the synthetic bright field closing by 0 to 5 pixels and dropping cells of up to 16,
            # 64 or 150 changes SEG by less than .02 (`unet_crop_small`).
            "closing_radius": 2.0,
            "split": "components",
            # Of "distance", which is best with these and adds .03 there.
            "smoothing": 3.0,
            "prominence": 0.5,
            "min_size": 64,
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": 1e-3,
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
            "steps": 2000,
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
            "max_frames": 10,
            "window": (1200, 1200),
            "contrasts": (1.0,),
            # "disjoint" patches as large as the crop, as the original; or the "whole" window.
            "patches": "whole",
        }
    )
    config.inference = ConfigDict({"tile": (1200, 1200), "batch": 1, "average": "none"})
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


def _unet() -> ConfigDict:
    levels = 5
    return ConfigDict(
        {
            "name": "unet",
            "widths": (64, 128, 256, 512, 1024),
            "kernels": ((3, 3),) * levels,
            "pools": ((2, 2),) * (levels - 1),
            "stem": (1, 1),
            "convs": 2,
            "narrow_first": False,
            "bias": True,
            "norm": "none",
            "groups": 8,
            "affine": True,
            "activation": "relu",
            "order": "ca",
            "join": "concat",
            "upsample": "transposed",
            "up_channels": "keep",
            "dropout": 0.3,
            "remat": (False,) * levels,
            "dtype": "auto",
        }
    )


def _three_classes() -> ConfigDict:
    return ConfigDict(
        {
            "name": "mask",
            "arm": "border",
            "border": "outline",
            "width": 1.5,
            "class_weights": (0.15, 0.25, 0.6),
            "min_core": 10,
            "min_size": 64,
        }
    )


def _distance(config: ConfigDict) -> ConfigDict:
    return ConfigDict(
        {
            "name": "distance",
            "scale": "cell",
            "max_distance": 40.0,
            "max_cells": config.data.get_ref("max_cells"),
            "bce_weight": 1.0,
            "dice_weight": 1.0,
            "distance_weight": 4.0,
            "distance_loss": "smooth_l1",
            "smooth_l1_beta": 0.1,
            "foreground_threshold": 0.5,
            "smoothing": 2.0,
            "prominence": 0.1,
            "min_size": 64,
            "fill_holes": True,
        }
    )


def _original_augmentation(config: Any) -> None:
    """Rotation and translation: crops lie anywhere, whole frames are turned."""
    for name in config.augment:
        if name.endswith("_probability"):
            config.augment[name] = 0.0
    config.augment.affine_probability, config.augment.rotation_deg = 1.0, 180.0
    config.augment.zoom = config.augment.shear = 0.0


def _shrink(config: Any) -> None:
    levels = 4
    config.model.stem, config.model.widths = (2, 2), (16, 32, 64, 64)
    config.model.kernels, config.model.pools = config.model.kernels[:levels], config.model.pools[: levels - 1]
    config.model.remat = config.model.remat[:levels]
    if "recurrent" in config.model:
        config.model.recurrent = config.model.recurrent[-levels:]
    if "dropout" in config.model:
        config.model.dropout = 0.1
    config.train.steps, config.train.evaluate_every, config.train.save_every = 300, 150, 150


def _make_tiny(config: Any) -> None:
    _shrink(config)
    config.data.crop, config.data.batch_size, config.data.max_cells = (32, 32), 2, 32
    config.model.widths, config.model.kernels = (4, 8), config.model.kernels[:2]
    config.model.pools, config.model.remat = config.model.pools[:1], (False, True)
    config.model.stem = (1, 1)
    config.model.recurrent = (False, True)
    config.clips.frames, config.clips.block, config.clips.before = 3, 3, 1
    config.train.steps, config.optimizer.warmup_steps = 20, 4
    config.train.log_every, config.train.evaluate_every, config.train.save_every = 5, 10, 10
    config.evaluation.max_frames = 2
