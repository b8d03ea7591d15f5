"""Mask R-CNN for images of cells: boxes, classes and masks in one network (docs/originals.md, 3.3 and 3.6).

    python -m launch.prepare --format=dsb --source=<DSB2018-fluo> --store=stores/dsb
    python -m launch.train   --config=configs/sartorius/mask_rcnn.py:dsb_small --workdir=runs/dsb \
        --config.data.store=stores/dsb
    python -m launch.predict --segmenter=runs/dsb --images=<folder of images> --output=labels --submission=submission.csv
    python -m launch.track   --masks=labels --output=01_RES     # where these are frames, t000.tif, ...
    python -m launch.tune    --workdir=runs/dsb
    python -m launch.compare --configs=configs/sartorius/mask_rcnn.py:r50,configs/sartorius/cellpose.py:v3 --tune \
        --workdir=runs/compare --config.data.store=stores/sartorius --config.evaluation.fold=0

| argument | what | data |
|---|---|---|
| r50 | ResNet-50; sizes, counts and thresholds of the original; from random weights, so with group norm | Sartorius |
| dsb_small | a small network at twice the usual resolution, for two CPU cores | Data Science Bowl 2018, fluorescence |
| tiny | what the tests train | |

What the original had and this has not: weights from COCO (`train.initial` takes those of another run), SGD, and 150
pixels as the least size of every class, which removed a third of the shsy5y cells; here it is each class's own.
"""

from ml_collections import ConfigDict

from configs.ctc import segment

ARGUMENTS = ("r50", "dsb_small", "tiny")
HEADS = "^(logits|box_deltas|masks)/"
"""Parameters that there are for each class."""


def get_config(arg: str = "r50") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/sartorius/mask_rcnn.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    config = segment.get_config("dsb")
    del config.representation, config.tracking
    config.task = "mask_rcnn"
    config.data.update(_data())
    config.model = ConfigDict(_model())
    config.proposals = ConfigDict(_proposals())
    config.regions = ConfigDict(
        {
            "samples": 128,
            "positive_share": 0.25,
            "positive_iou": 0.5,
            "weights": (10.0, 10.0, 5.0, 5.0),
        }
    )
    config.detection = ConfigDict(
        {
            # Detections of an image; more are lost, those with the lowest scores first.
            "count": 1000,
            "min_score": 0.05,
            # Of an image all cells are of one class, that of most detections.
            "one_class": True,
            "per_class": {
                "astro": of_class(score=0.40, nms_iou=0.40, pixel=0.45, area=(150, 10_000)),
                "cort": of_class(score=0.55, nms_iou=0.70, pixel=0.45, area=(77, 470)),
                "shsy5y": of_class(score=0.15, nms_iou=0.25, pixel=0.50, area=(80, 600)),
            },
        }
    )
    config.loss = ConfigDict({"objectness": 1.0, "anchors": 1.0, "classes": 1.0, "boxes": 1.0, "masks": 1.0})
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 2e-4, 1000
    config.train.initial_rules = ((HEADS, "fitting"), (".*", "taken"))
    # 50 epochs of 485 images, in batches of 2.
    config.train.steps = 12_000
    config.train.evaluate_every = config.train.save_every = 1000
    config.evaluation = ConfigDict(
        {
            "store": "",
            # Above 0, images are dealt to so many folds, category by category, and `fold` is held out.
            "folds": 5,
            "fold": 0,
            # Else the last ones are.
            "holdout": 0.2,
            "max_frames": 64,
            "window": (2048, 2048),
        }
    )
    # Images are padded to multiples of it, so that a few programs serve all sizes.
    config.inference = ConfigDict({"multiple": 32})
    if arg != "r50":
        _shrink(config)
    if arg == "tiny":
        _shrink_more(config)
    return config


def _data() -> dict:
    return {
        # Of the classes; () where all cells are of one.
        "categories": ("astro", "cort", "shsy5y"),
        # More stores, all of whose images are trained on.
        "more": (),
        # Whole images: 520x704, up to the next multiple of 32.
        "crop": (544, 704),
        "margin": (0, 0),
        "batch_size": 2,
        "foreground_probability": 0.0,
        "max_cells": 1024,
    }


def _model() -> dict:
    return {
        "name": "mask_rcnn",
        "depth": 50,
        "widths": (64, 128, 256, 512),
        "channels": 256,
        "stem_kernel": 7,
        # Of the first convolution and the pooling behind it: the finest level has one pixel for 4x4.
        "stem_strides": (2, 2),
        "norm": "group",
        "groups": 32,
        "hidden": 1024,
        "mask_convs": 4,
        "samples": 2,
        "finest_px": 112.0,
        "prior": 0.05,
        "dtype": "auto",
    }


def _proposals() -> dict:
    return {
        # 16 to 256 on images that were enlarged to 600x800.
        "sizes": ((14.0,), (28.0,), (56.0,), (112.0,), (224.0,)),
        "ratios": (0.5, 1.0, 2.0),
        "before": 2000,
        "count": 1000,
        "nms_iou": 0.7,
        "positive_iou": 0.7,
        "negative_iou": 0.3,
        "samples": 256,
        "positive_share": 0.5,
        "max_unknown": 0.3,
    }


def of_class(score: float, nms_iou: float, pixel: float, area: tuple[int, int]) -> dict:
    """How detections of a class are read; its least area counts in the map that is made of them too."""
    low, high = area
    limits = {"min_area": float(low), "max_area": float(high), "min_pixels": low}
    return {"score": score, "nms_iou": nms_iou, "pixel": pixel, **limits}


def _shrink(config: ConfigDict) -> None:
    """One class, crops, a finest level with one pixel for 2x2, a tenth of the layers."""
    config.data.categories = ()
    config.data.crop, config.data.margin = (192, 192), (16, 16)
    config.data.batch_size, config.data.max_cells = 4, 256
    config.data.foreground_probability = 0.9
    # Batch norm of a stage sees 9,000 pixels and more, and frames hold fewer cells than the crops around them.
    config.model.update({"depth": 18, "widths": (32, 64, 96, 128), "channels": 64, "norm": "batch"})
    config.model.update({"stem_kernel": 3, "stem_strides": (2, 1), "hidden": 256, "mask_convs": 2})
    # A made pixel of the smallest boxes is no larger than one of the finest level: one sample tells it.
    config.model.finest_px, config.model.samples = 32.0, 1
    config.proposals.sizes = ((10.0,), (20.0,), (40.0,), (80.0,), (160.0,))
    # Frames of a thousand pixels a side have 300 cells.
    config.proposals.before, config.proposals.count = 1000, 1000
    config.regions.samples = 96
    config.detection.update({"count": 500, "one_class": False})
    config.detection.per_class = ConfigDict(
        {"cell": of_class(score=0.5, nms_iou=0.4, pixel=0.5, area=(15, 100_000))}
    )
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-3, 200
    # 1.6 to 1.9 s of a core each: some 65 minutes of two cores. A run of 1,200 had AP .80 at IoU .5 (docs/results.md).
    config.train.steps = 3600
    config.train.evaluate_every = config.train.save_every = 1200
    # The last 50 of 260 images.
    config.evaluation.folds, config.evaluation.holdout = 0, 0.1924
    config.inference.multiple = 128


def _shrink_more(config: ConfigDict) -> None:
    """Seconds on two cores."""
    config.data.crop, config.data.margin, config.data.max_cells = (64, 64), (8, 8), 64
    config.model.update({"depth": 10, "widths": (8, 8, 16, 16), "channels": 16, "hidden": 32})
    config.model.mask_convs = 1
    config.proposals.before, config.proposals.count, config.proposals.samples = 64, 64, 64
    config.regions.samples, config.detection.count = 32, 64
    config.train.steps, config.optimizer.warmup_steps = 20, 4
    config.train.log_every, config.train.evaluate_every, config.train.save_every = 5, 10, 10
    config.evaluation.max_frames = 2
    config.inference.multiple = 64
