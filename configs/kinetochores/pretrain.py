"""What a network can learn of kinetochore volumes before anybody has marked a point, and what that is worth.

    python -m launch.train --config=configs/kinetochores/pretrain.py:blocks --workdir=runs/blocks \
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test
    python -m launch.train --config=configs/kinetochores/points.py:modern --workdir=runs/tuned \
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test --config.train.initial=runs/blocks

| argument | what | docs/originals.md |
|---|---|---|
| ae_l2 | initial experiment 1: autoencoder, L2, plane 15 of 32 hidden | 2.5 |
| unet_l2 | 2: U-Net, L2 | |
| unet_rmsle | 3: U-Net, RMSLE | |
| blocks | blocks of 4x8x8 voxels hidden, a third of all, which alone count; the network of `points.py:modern` | |
| <any>_small, tiny | a sixteenth of the work per step; what the tests train | |

Measured (docs/results.md, kinetochores): worth nothing to `aniso_focal_small` after 100 steps, one seed.

The first three as published but for what could not work: the target is the whole volume and not the input, and outputs
beyond 1 can be told (`representation.output`).
"""

from typing import Any

from ml_collections import ConfigDict

from configs.kinetochores import points

ARMS = ("ae_l2", "unet_l2", "unet_rmsle", "blocks")
ARGUMENTS = (*ARMS, *(f"{arm}_small" for arm in ARMS), "tiny")


def get_config(arg: str = "blocks") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/kinetochores/pretrain.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    arm = "blocks" if arg == "tiny" else arg.removesuffix("_small")
    base = "modern" if arm == "blocks" else "vanfix_mse"
    small = arg.endswith("_small")
    config: Any = points.get_config("tiny" if arg == "tiny" else f"{base}_small" if small else base)
    config.task = "reconstruct"
    if arm == "ae_l2":
        config.model.name = "autoencoder"
        del config.model["join"], config.model["head"]
    if arm != "blocks" and not small:
        config.data.crop, config.data.batch_size = (32, 128, 128), 2
        config.optimizer.learning_rate = 1e-4
    published = arm != "blocks"
    config.representation = ConfigDict(
        {
            "name": "reconstruction",
            "channels": len(config.data.inputs),
            "loss_name": "rmsle" if arm == "unet_rmsle" else "l2",
            "hidden": "plane" if published else "blocks",
            "plane": min(15, config.data.crop[0] // 2),
            "block": (4, 8, 8),
            "share": 0.33,
            "everywhere": published,
            "fold": published,
            "output": "softplus" if published else "linear",
        }
    )
    # Every frame is learned from, and every movie judged.
    del config.data.fraction, config.evaluation.max_sequences
    # The image is what is told, so its light stays as it is.
    for name in ("gamma", "contrast", "noise", "brightness"):
        config.augment[f"{name}_probability"] = 0.0
    return config
