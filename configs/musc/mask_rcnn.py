"""Mouse muscle stem cells in bright field: Mask R-CNN on single frames, which a U-Net with components is compared with.

    python -m launch.simulate --kind=bright_field --output=musc          # or the real BF-C2DL-MuSC
    python -m launch.prepare  --source=musc --store=stores/musc
    python -m launch.train    --config=configs/musc/mask_rcnn.py:small --workdir=runs/musc_boxes \
        --config.data.store=stores/musc

| argument | what | steps |
|---|---|---|
| r50 | ResNet-50, as `configs/sartorius/mask_rcnn.py:r50`, on crops of 512x512 | 20,000; for a GPU |
| small | as its `dsb_small`, with one pixel for 4x4 at the finest level | 3,600; not trained yet |

It learns from computed (silver) outlines, as the other networks of these cells, and is judged on frames whose cells are
all outlined by people; where there is none, the last checkpoint serves.
"""

from ml_collections import ConfigDict

from configs.sartorius import mask_rcnn

ARGUMENTS = ("r50", "small")


def get_config(arg: str = "small") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/musc/mask_rcnn.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    config = mask_rcnn.get_config("dsb_small" if arg == "small" else arg)
    config.data.categories, config.data.silver = (), True
    config.data.foreground_probability, config.data.max_cells = 0.7, 256
    # Cells are some 20 to 100 pixels long, few in a frame, and slivers when they spread.
    config.model.stem_strides, config.model.samples = (2, 2), 2
    config.model.finest_px = 64.0 if arg == "small" else 112.0
    config.proposals.sizes = ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))
    config.proposals.before = config.proposals.count = 500
    config.detection.update({"count": 200, "one_class": False})
    reading = {
        "score": 0.5,
        "nms_iou": 0.5,
        "pixel": 0.5,
        "min_area": 64.0,
        "max_area": 100_000.0,
        "min_pixels": 64,
    }
    config.detection.per_class = ConfigDict({"cell": reading})
    if arg == "r50":
        config.data.crop, config.data.margin, config.data.batch_size = (512, 512), (32, 32), 4
        config.train.steps = 20_000
    # Frames of one movie are alike: its end is held out, not some of its frames.
    config.evaluation.folds, config.evaluation.holdout = 0, 0.2
    config.evaluation.window = (2048, 2048)
    return config
