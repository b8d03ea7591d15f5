"""What are images without annotation worth, beside 5, 25 and 100 % of the annotated ones (docs/originals.md, 3.7)?

    python -m launch.prepare --format=sartorius --source=<competition's folder> --store=stores/sartorius
    python -m launch.train --config=configs/sartorius/semi.py:cellpose_5 --workdir=runs/cellpose_5 \
        --config.data.store=stores/sartorius
    python -m launch.train --config=configs/sartorius/semi.py:cellpose_5 --workdir=runs/cellpose_5_alone \
        --config.data.store=stores/sartorius --config.semi.weight=0.0

    python -m launch.simulate --kind=sartorius --output=sartorius --shape=192,256    # the same without the data set
    python -m launch.sweep --config=configs/sartorius/semi.py --workdir=runs/semi --config.data.store=stores/sartorius

| argument | what |
|---|---|
| cellpose_5, cellpose_25, cellpose_100 | Cellpose, 5, 25 or 100 % of the annotation of each type |
| mask_rcnn_5, mask_rcnn_25, mask_rcnn_100 | Mask R-CNN, likewise |
| <any>_small | small networks and few steps, for two cores and simulated images |

The images of train_semi_supervised/, and those whose annotation is not used, are told by the average of the weights so
far (decay .999): cells whose flows fit their shape, averaged over flips, or detections of a high score; what is doubtful
is unknown to the loss. All images are augmented strongly. The unlabelled ones count by a weight that grows.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.sartorius import transfer

BUDGETS = (5, 25, 100)
ARGUMENTS = tuple(
    f"{network}_{budget}{size}"
    for network in transfer.NETWORKS
    for budget in BUDGETS
    for size in ("", "_small")
)


def get_config(arg: str = "cellpose_5") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/sartorius/semi.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    network, _, budget = arg.removesuffix("_small").rpartition("_")
    config: Any = transfer.NETWORKS[network].get_config()
    if arg.endswith("_small"):
        transfer.shrink(config)
    dense = config.task == "images"
    config.semi = ConfigDict(
        {
            "task": config.task,
            # Of the annotated images of each type; the same ones in every run.
            "labels": int(budget) / 100,
            # 0 leaves the others out.
            "weight": 1.0,
            "ramp_steps": config.train.steps // 3,
            "trust": {"flow_error": 0.2, "sure": 0.9, "flips": True}
            if dense
            else {"score": 0.7, "doubt": 0.1},
        }
    )
    config.task = "semi"
    config.ema_decay = 0.999
    _augment_strongly(config.augment)
    return config


def sweep(add) -> None:
    """Each budget alone and with the rest of the images."""
    for network in transfer.NETWORKS:
        for budget in BUDGETS:
            argument = f"{network}_{budget}_small"
            add(f"{network}_{budget}_alone", argument=argument, overrides={"semi.weight": 0.0})
            add(f"{network}_{budget}", argument=argument)


def _augment_strongly(augment: Any) -> None:
    for name in ("flip", "gamma", "contrast", "noise", "brightness"):
        augment[f"{name}_probability"] = 0.5
    augment.blur_probability = 0.3
