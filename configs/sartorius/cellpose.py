"""Cellpose: cells as flows to their centres, by a residual U-Net that knows the image's style (docs/originals.md, 3.4).

    python -m launch.prepare --format=sartorius --source=<competition's folder> --store=stores/sartorius
    python -m launch.train   --config=configs/sartorius/cellpose.py:v3 --workdir=runs/cellpose \
        --config.data.store=stores/sartorius --config.evaluation.fold=0
    python -m launch.prepare --format=dsb --source=<DSB2018-fluo> --store=stores/dsb
    python -m launch.train   --config=configs/sartorius/cellpose.py:dsb --workdir=runs/dsb --config.data.store=stores/dsb
    python -m launch.predict --segmenter=runs/dsb --images=<folder of images> --output=labels --submission=submission.csv

| argument | what | data |
|---|---|---|
| v3 | as published, version 3: 224 pixels, batches of 8, 2,000 epochs | Sartorius, fold 0 of 5 |
| dsb | the same network, on two CPU cores | Data Science Bowl 2018, fluorescence; the last 50 images are held out |
| tiny | what the tests train | |

Measured: `dsb`, 64 minutes of one core and 7 for each evaluation, on the 50 images: AP at IoU .5 .862, .75 .740, .9 .458,
mAP .677 with diameters of the size model (6.7 % off), .861 and .679 with the true ones. After 1,000 steps .858, .725,
.444, .672. docs/results.md has what the flow threshold and other diameters do.

Cells are brought to a diameter of 30 pixels, nuclei (`dsb`) to 17, by that of their image. What is published else and
here is not: the second input channel, which is empty in grey images, and images with fewer than 5 cells, which were left
out. What diameter the cells of a predicted image have says the size model, which launch.train fits to the weights that it
ends with, or --diameter_px.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.ctc import segment

ARGUMENTS = ("v3", "dsb", "tiny")
_CATEGORIES = ("astro", "cort", "shsy5y")


def get_config(arg: str = "v3") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/sartorius/cellpose.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    config: Any = segment.get_config("dsb")
    config.task = "images"
    config.data.update(_data())
    for name in config.augment:
        if name.endswith("_probability"):
            config.augment[name] = 0.0
    config.augment.flip_probability, config.augment.affine_probability = 0.5, 1.0
    config.augment.rotation_deg, config.augment.zoom, config.augment.shear = 180.0, 0.25, 0.0
    config.model = ConfigDict(_model(widths=(32, 64, 128, 256)))
    config.representation = ConfigDict(
        {
            "name": "flow",
            "axes": 2,
            "max_cells": config.data.get_ref("max_cells"),
            "logarithm": False,
            "flow_scale": 5.0,
            "flow_weight": 0.5,
            "cellprob_threshold": 0.0,
            "steps": 200,
            "flow_threshold": 0.4,
            "max_fraction": 0.4,
            "min_size": 15,
            "fill_holes": True,
        }
    )
    config.optimizer.learning_rate, config.optimizer.clip_norm = 5e-3, 1e9
    config.optimizer.weight_decay_rules = ((".*", 1e-5),)
    config.train.initial_rules = ((".*", "taken"),)
    # 485 images in batches of 8; the first 10 epochs warm up.
    config.train.steps, config.optimizer.warmup_steps = 121_000, 600
    config.train.evaluate_every = config.train.save_every = 6000
    config.evaluation = ConfigDict(
        {
            "store": "",
            # Above 0, images are dealt to so many folds, category by category, and `fold` is held out; else the last are.
            "folds": 5,
            "fold": 0,
            "holdout": 0.2,
            "max_frames": 64,
            "window": (2048, 2048),
            # Diameters of the images that are judged: what the "size model" says, the "median" of the others', or "known"
            # from their own outlines, which flatters.
            "diameters": "size model",
        }
    )
    # Diameters by styles: fitted to the weights that a run ends with, for launch.predict, and to those that are judged.
    config.size_model = ConfigDict(
        {"samples": 4850, "tile": (512, 512), "scales": (0.5, 1.5), "penalty": 1.0}  # 10 views of each image
    )
    config.inference.tile, config.inference.average = (512, 512), "none"
    if arg != "v3":
        config.data.categories = ()
        # 50 of 260 images.
        config.evaluation.folds, config.evaluation.holdout = 0, 0.1924
        # By the median AP at IoU .5 is .07 lower.
        config.evaluation.diameters = "median" if arg == "tiny" else "size model"
        # As much of a penalty per view.
        config.size_model.samples, config.size_model.penalty = 420, 0.1
        # What Cellpose's network for nuclei was taught at: a third of the pixels of 30.
        config.data.diameter_px = 17.0
        config.data.crop, config.data.margin, config.data.batch_size = (128, 128), (28, 28), 4
        config.optimizer.learning_rate, config.optimizer.clip_norm = 2e-3, 1.0
        config.train.steps, config.optimizer.warmup_steps = 2000, 100
        # Chosen on a fifth of the images that are trained on, after 1,000 steps: AP at IoU .5 .891, by .4 it is .850.
        config.representation.flow_threshold = 0.8
        config.train.evaluate_every = config.train.save_every = 1000
    if arg == "tiny":
        config.data.crop, config.data.margin, config.data.batch_size = (48, 48), (8, 8), 2
        config.model = ConfigDict(_model(widths=(4, 8)))
        config.train.steps, config.optimizer.warmup_steps = 20, 4
        config.train.log_every, config.train.evaluate_every, config.train.save_every = 5, 10, 10
        config.evaluation.max_frames = 2
        config.size_model.samples, config.size_model.tile = 8, (64, 64)
    return config


def sweep(add) -> None:
    """What the parts of Cellpose are worth."""
    add("baseline")
    add("style=none", overrides={"model.style": False})
    add("norm=group", overrides={"model.norm": "group"})
    add("logarithm", overrides={"representation.logarithm": True})
    add("diameter=median", overrides={"evaluation.diameters": "median"})
    add("diameter=own", overrides={"data.diameter_px": 0.0})


def _data() -> dict:
    return {
        "categories": _CATEGORIES,
        # More stores, all of whose images are trained on.
        "more": (),
        "crop": (224, 224),
        # Corners of a turned crop.
        "margin": (48, 48),
        "batch_size": 8,
        "foreground_probability": 0.5,
        "diameter_px": 30.0,
        "max_cells": 1024,
    }


def _model(widths: tuple[int, ...]) -> dict:
    return {
        "name": "cpnet",
        "widths": widths,
        "kernels": ((3, 3),) * len(widths),
        "pools": ((2, 2),) * (len(widths) - 1),
        "norm": "batch",
        "groups": 8,
        "style": True,
        "dtype": "auto",
    }
