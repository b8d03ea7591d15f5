"""An embedder that tells cells apart: unit vectors of crops, by metric learning on tracks.

    python -m launch.prepare --source=<data set folder> --sequences=01 --store=stores/sim
    python -m launch.train --config=configs/ctc/embed.py:2d --workdir=runs/embed --config.data.store=stores/sim

| argument | data | steps, time on two CPU cores | MAP@R, precision@1 on held-out tracks: before, after |
|---|---|---|---|
| 2d | Fluo-N2DH-SIM+/01 | 300; 9 min, busy with other work | .17 .65, .32 .86 |
| 3d | stacks with TRA markers that are whole cells | not trained yet | |
| patch | windows that are not masked, for markers that are not whole cells | not trained yet | |
| tiny | what the tests train | 20; seconds | |

Before are random weights whose batch norm has the crops' own statistics. So few steps are not enough: scores still
rose (.29 after 100, .31 after 200), and cosines of the crops' pixels give .37 .92, random weights whose batch norm has
its initial statistics, which normalise nothing, .34 .89. With the original's rates, a tenth of these, 150 steps made .21.
"""

from ml_collections import ConfigDict

ARGUMENTS = ("2d", "3d", "patch", "tiny")


def get_config(arg: str = "2d") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/ctc/embed.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    config = _base()
    if arg == "3d":
        config.crops.size = (24, 64, 64)
    if arg == "patch":
        config.crops.kind = "patch"
    if arg == "tiny":
        config.crops.size = (32, 32)
        config.data.classes, config.data.per_class, config.data.batch_size = 3, 2, 6
        config.model.widths, config.model.outputs = (8, 8, 8, 8), 8
        config.train.steps, config.train.log_every = 20, 5
        config.train.evaluate_every = config.train.save_every = 10
        config.optimizer.warmup_steps = 2
    return config


def sweep(add) -> None:
    add("baseline")
    add("loss=circle", overrides={"loss": {"name": "circle", "margin": 0.25, "gamma": 128.0}})
    add("loss=triplet", overrides={"loss": {"name": "triplet", "margin": 0.2}})
    add("depth=34", overrides={"model.depth": 34})
    for share in (0.0, 0.25, 0.75):
        add(f"far_share={share:g}", overrides={"data.far_share": share})
    add("mlp", overrides={"model.hidden": (256,)})
    add("augment=none", overrides={f"augment.{kind}_probability": 0.0 for kind in _AUGMENTED})
    add("scale=movie", overrides={"crops.scale": "movie"})


_AUGMENTED = ("flip", "rot90", "contrast", "noise", "brightness")


def _base() -> ConfigDict:
    config = ConfigDict()
    config.task = "embed"
    config.seed = 0
    config.ema_decay = 0.99
    config.mesh = ConfigDict({"space": 1, "parameters": ((".*", "replicated"),)})
    # How cells are shown; see `data.cell_crops.CropSpec`. Voxels: movies of another spacing look different.
    config.crops = ConfigDict(
        {"size": (64, 64), "kind": "masked", "light": True, "scale": "percentiles", "fixed_range": ()}
    )
    config.data = ConfigDict(
        {
            "store": "",
            # The masks: "markers" where they are whole cells, else "segmentation" or "silver".
            "labels": "markers",
            "classes": 8,
            "per_class": 4,
            "batch_size": 32,
            # Of a track's samples so many are from anywhere in it; the others are consecutive frames.
            "far_share": 0.5,
            "threads": 2,
            "prefetch": 4,
        }
    )
    config.augment = ConfigDict(
        {
            "flip_probability": 0.5,
            "rot90_probability": 1.0,
            "affine_probability": 0.0,
            "rotation_deg": 0.0,
            "zoom": 0.0,
            "shear": 0.0,
            "elastic_probability": 0.0,
            "elastic_px": 0.0,
            "elastic_spacing_px": 0,
            "gamma_probability": 0.0,
            "gamma_octaves": 0.0,
            "blur_probability": 0.0,
            "blur_px": 0.0,
            "contrast_probability": 0.5,
            "contrast_down_octaves": 0.3,
            "contrast_up_octaves": 0.3,
            "noise_probability": 0.5,
            "noise_std": 0.03,
            "shot_noise_std": 0.0,
            "renormalise_probability": 0.0,
            "brightness_probability": 0.5,
            "brightness_offset": 0.05,
            "brightness_gain_octaves": 0.0,
        }
    )
    config.loss = ConfigDict(
        {"name": "multi_similarity", "alpha": 2.0, "beta": 50.0, "base": 0.5, "epsilon": 0.1}
    )
    config.model = ConfigDict(
        {
            "name": "embedder",
            "depth": 18,
            "widths": (64, 128, 256, 512),
            "hidden": (),
            "outputs": 128,
            "dtype": "auto",
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": 1e-3,
            "warmup_steps": 20,
            "final_fraction": 0.1,
            "b1": 0.9,
            "b2": 0.999,
            "clip_norm": 1.0,
            "weight_decay_rules": ((".*", 1e-4),),
            "decay": "in_gradient",
            # The trunk learns at a tenth of it. So did the original, at a tenth of these rates (docs/originals.md, 5.3).
            "learning_rate_rules": (("trunk", 0.1), (".*", 1.0)),
        }
    )
    config.train = ConfigDict(
        {
            "steps": 300,
            "accumulate": 1,
            "log_every": 20,
            "evaluate_every": 100,
            "save_every": 100,
            "keep_latest": 2,
            "best_metric": "score",
            # Work folder of a run whose weights this one starts with; "" for none.
            "initial": "",
            # What of them, first match wins: "taken" has to fit, "fitting" is taken if it does, "anew" is not taken.
            "initial_rules": ((".*", "fitting"),),
        }
    )
    # Not learned from: every fifth track, and the last part of each movie. A linker is judged with at least a window:
    # hold out as many frames of short movies, or it is judged with cells that the embedder knows.
    config.evaluation = ConfigDict({"holdout_tracks": 0.2, "holdout_frames": 0.15, "max_crops": 2000})
    return config
