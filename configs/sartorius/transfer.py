"""What is LIVECell worth to Sartorius: nothing of it, SH-SY5Y mixed in, all of it first (docs/originals.md, 3.7)?

    python -m launch.prepare --format=sartorius --source=<competition's folder> --store=stores/sartorius
    python -m launch.prepare --format=livecell  --source=<LIVECell's folder> --store=stores/livecell
    python -m launch.prepare --format=livecell  --source=<LIVECell's folder> --sequences=shsy5y --store=stores/shsy5y
    python -m launch.train --config=configs/sartorius/transfer.py:cellpose_livecell --workdir=runs/cellpose_livecell \
        --config.data.store=stores/livecell
    python -m launch.train --config=configs/sartorius/transfer.py:cellpose_tuned --workdir=runs/cellpose_tuned \
        --config.data.store=stores/sartorius --config.train.initial=runs/cellpose_livecell

    python -m launch.simulate --kind=sartorius --output=sartorius --shape=192,256    # the same without the data sets;
    python -m launch.simulate --kind=livecell --output=livecell --shape=192,256      # then prepare and train as above,
    python -m launch.sweep --config=configs/sartorius/transfer.py --workdir=runs/transfer \
        --config.data.store=stores/sartorius                                         # <network>_livecell_small first

| argument | what | data.store |
|---|---|---|
| cellpose_none, mask_rcnn_none | Sartorius alone, as `cellpose.py:v3` and `mask_rcnn.py:r50` | Sartorius |
| <network>_shsy5y | SH-SY5Y of LIVECell mixed in, of the same class by its name; judged is Sartorius alone | Sartorius |
| <network>_livecell | pretraining: the 8 types of LIVECell | LIVECell |
| <network>_tuned | goes on from its weights at lower rates; Mask R-CNN's heads are made anew for 3 classes | Sartorius |
| <any>_small | small networks and few steps, for two cores and simulated images | |

Measured with `cellpose_<arm>_small`: 96 images of simulated LIVECell first, 18 of simulated Sartorius, 30 others judged
(another seed), one run each: mAP after 200 and 400 steps on Sartorius .431, .460 (none) and .495, .514 (tuned); after
400 steps astro .255 and .307, cort .508 and .572, shsy5y .619 and .664. The 400 steps on LIVECell come on top.

A part that is to stay as it is, such as Mask R-CNN's pyramid, is frozen by the learning rate 0:
--config.optimizer.learning_rate_rules="(('^pyramid/',0.0),('.*',1.0))"
"""

from typing import Any

from ml_collections import ConfigDict

from configs.sartorius import cellpose, mask_rcnn

NETWORKS = {"cellpose": cellpose, "mask_rcnn": mask_rcnn}
ARMS = ("none", "shsy5y", "livecell", "tuned")
ARGUMENTS = tuple(f"{network}_{arm}{size}" for network in NETWORKS for arm in ARMS for size in ("", "_small"))
LIVECELL = ("a172", "bt474", "bv2", "huh7", "mcf7", "shsy5y", "skbr3", "skov3")


def get_config(arg: str = "cellpose_tuned") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/sartorius/transfer.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    name = arg.removesuffix("_small")
    network, arm = next((one, name.removeprefix(f"{one}_")) for one in NETWORKS if name.startswith(one))
    config: Any = NETWORKS[network].get_config()
    if arg.endswith("_small"):
        shrink(config)
    if arm == "shsy5y":
        config.data.more = ("stores/shsy5y",)
    if arm == "livecell":
        _learn_livecell(config, small=arg.endswith("_small"))
    if arm == "tuned":
        _tune(config)
    return config


def sweep(add) -> None:
    """Sartorius alone, with SH-SY5Y, and after LIVECell, in equally many steps."""
    for network in NETWORKS:
        add(f"{network}_none", argument=f"{network}_none_small")
        add(f"{network}_shsy5y", argument=f"{network}_shsy5y_small")
        initial = {"train.initial": f"runs/{network}_livecell"}
        add(f"{network}_tuned", argument=f"{network}_tuned_small", overrides=initial)


def _learn_livecell(config: Any, *, small: bool) -> None:
    config.data.categories = LIVECELL
    if config.task != "mask_rcnn":
        return
    alike = mask_rcnn.of_class(score=0.5, nms_iou=0.5, pixel=0.5, area=(20, 20_000))
    config.detection.per_class = ConfigDict(dict.fromkeys(LIVECELL, alike))
    if not small:
        # Images hold up to 3,000 cells: quarters of them do with as much room, and 40,000 steps see each image 80 times.
        config.data.crop, config.data.batch_size = (288, 352), 8
        config.train.steps = 40_000


def _tune(config: Any) -> None:
    config.optimizer.learning_rate_rules = ((".*", 0.25),)
    if config.task == "mask_rcnn":
        config.train.initial_rules = ((mask_rcnn.HEADS, "anew"), (".*", "taken"))
        # What is new learns as fast as ever.
        config.optimizer.learning_rate_rules = ((mask_rcnn.HEADS, 1.0), (".*", 0.25))


def shrink(config: Any) -> None:
    """A minute to ten of a core."""
    config.data.crop, config.data.margin, config.data.batch_size = (96, 96), (16, 16), 4
    config.data.max_cells = 512
    config.data.foreground_probability = 0.9
    config.optimizer.warmup_steps = 40
    config.train.steps, config.train.log_every = 400, 20
    config.train.evaluate_every = config.train.save_every = 200
    config.evaluation.max_frames = 8
    if config.task == "mask_rcnn":
        config.model.update({"depth": 10, "widths": (16, 32, 32, 64), "channels": 32, "norm": "batch"})
        config.model.update({"stem_kernel": 3, "stem_strides": (2, 1), "hidden": 64, "mask_convs": 1})
        config.model.finest_px, config.model.samples = 32.0, 1
        config.proposals.sizes = ((10.0,), (20.0,), (40.0,), (80.0,), (160.0,))
        config.proposals.before, config.proposals.count = 400, 400
        config.regions.samples, config.detection.count = 64, 400
        config.optimizer.learning_rate = 2e-3
        config.inference.multiple = 64
    else:
        # Cells of a fourth of the area: as much is seen of an image, with a level less.
        config.data.diameter_px = 15.0
        config.model.widths = (8, 16, 32)
        config.model.kernels, config.model.pools = config.model.kernels[:3], config.model.pools[:2]
        config.optimizer.clip_norm = 1.0
        config.inference.tile = (256, 256)
