"""A tracker that learns which detections are one cell: a message-passing network over candidate links.

    python -m launch.prepare --source=<data set folder> --store=stores/psc
    python -m launch.train --config=configs/ctc/link.py:psc --workdir=runs/psc --config.data.store=stores/psc
    python -m launch.track --linker=runs/psc --masks=<folder of masks> --output=02_RES
    python -m launch.train ... --config.embedder=<work folder of configs/ctc/embed.py> --config.model.embedding=128

| argument | data | steps, time on two CPU cores | LNK of links in held-out frames: as annotated, with 5 % faults |
|---|---|---|---|
| sim | Fluo-N2DH-SIM+/01 | 500; 8 min, busy with other work | .998, .995 |
| psc | PhC-C2DL-PSC/01_GT, masks without images | 1,000; 20 min, likewise | .996, .990 |
| 3d | stacks; not measured | 500 | |
| tiny | what the tests train | 20; seconds | |

What matters: LNK of some arms of `psc` (launch.sweep) with 200 steps, 6 imperfect copies and one seed on frames 60-189 of
PSC/01, the last 20 held out:

| | baseline: 4 layers, both directions, gaps of 2 | 0 layers | 2 layers | forward in time only | no gaps |
|---|---|---|---|---|---|
| as annotated | .9947 | .9943 | .9934 | .9958 | .9941 |
| with 5 % faults | .9871 | .9658 | .9873 | .9820 | .9339 |

On the held-out frames of `psc` with 5 % faults, errors weighed as in AOGM are 836 for the links of the lowest expected
AOGM, 1,064 for the most probable ones and 4,561 frame by frame. The faithful `ben_haim2022` (with hand-made features
alone) takes as long to link: 17.7 s for all 65 frames of SIM+/01, `sim` 15.7 s, most of it start-up. On our own
segmentation of frames 55-64 of SIM+ (1,000 steps; DET .988) the Hungarian linker and `sim` give the same lineage, TRA
.988: little is left to gain there.
"""

from ml_collections import ConfigDict

ARGUMENTS = ("sim", "psc", "3d", "tiny")
# In AOGM a cell that is left out costs ten times what a false one does: log(10) nats more to leave one out.
MOST_PROBABLE = {"name": "ilp", "window": 10, "overlap": 4, "time_limit_s": 30.0, "false_penalty": 2.3}
# Leaving out a true cell costs 10; of cells drawn over gaps, a share `drawn` lies right (with 1, gaps were bridged past
# cells that the network was sure of).
LEAST_EXPECTED_AOGM = {
    "name": "expected_aogm",
    "window": 10,
    "overlap": 4,
    "time_limit_s": 30.0,
    "reject": 10.0,
    "drawn": 0.4,
}


def get_config(arg: str = "sim") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/ctc/link.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    config = _base()
    if arg == "sim":
        # Learned from 2,000 cells, probabilities are not good enough to weigh errors by. With 5 % faults, errors
        # weighed as in AOGM were 8 or 9 this way and 13 to 34 the other, in three runs.
        config.linking = ConfigDict(MOST_PROBABLE)
    if arg == "psc":
        # Hundreds of small round cells in a frame. The size of their markers tells nothing, and changes with time.
        config.features = ConfigDict({"nodes": "points", "edges": "points", "diameter_um": 8.0})
        config.data.batch_size = 2
        config.data.buckets = ((1024, 6144), (1792, 13312), (2816, 24576), (4608, 45056))
        config.train.steps, config.train.evaluate_every, config.train.save_every = 1000, 200, 200
    if arg == "3d":
        config.data.ndim = 3
    if arg == "tiny":
        config.data.window, config.data.batch_size = 6, 2
        config.inference.window, config.inference.stride = 6, 3
        config.data.buckets = ((64, 512),)
        config.data.imperfect_copies = 3
        config.model.width, config.model.edge_width, config.model.layers = 8, 8, 1
        config.model.block = 0
        config.train.steps, config.train.log_every = 20, 5
        config.train.evaluate_every = config.train.save_every = 10
        config.optimizer.warmup_steps = 2
    return config


def sweep(add) -> None:
    add("baseline")
    for layers in (0, 1, 2, 6, 8):
        add(f"layers={layers}", overrides={"model.layers": layers})
    add("directions=forward", overrides={"model.directions": "forward"})
    for gap in (0, 1, 3):
        add(f"max_gap={gap}", overrides={"graph.max_gap": gap})
    add("copies=0", overrides={"data.imperfect_copies": 0})
    add("divisions=False", overrides={"labels.divisions": False})
    # Features of nodes in voxels, of the original; those of links stay ours. Places cannot be turned by any angle.
    for kind in ("2d", "patch"):
        in_voxels = {"features.nodes": f"ben_haim2022_{kind}", "augment.turns": False}
        add(f"nodes=ben_haim2022_{kind}", overrides=in_voxels)
    add("dropout=0", overrides={"model.dropout": 0.0})
    add("turns=False", overrides={"augment.turns": False})
    add("linking=ilp", overrides={"linking": MOST_PROBABLE})
    add("linking=expected_aogm", overrides={"linking": LEAST_EXPECTED_AOGM})
    add("linking=hungarian", overrides={"linking": {"name": "hungarian", "false_penalty": 2.3}})
    add("linking=greedy_ben_haim2022", overrides={"linking": {"name": "greedy_ben_haim2022"}})


def _base() -> ConfigDict:
    config = ConfigDict()
    config.task = "link"
    config.seed = 0
    config.ema_decay = 0.99
    config.mesh = ConfigDict({"space": 1, "parameters": ((".*", "replicated"),)})
    # Work folder of a run of configs/ctc/embed.py whose embeddings describe cells; model.embedding is then its outputs.
    config.embedder = ""
    # Lengths in diameters of the movie's median cell.
    config.graph = ConfigDict({"name": "near", "radius": 2.0, "max_gap": 2, "max_neighbours": 6})
    config.features = ConfigDict({"nodes": "physical", "edges": "physical", "diameter_um": 0.0})
    config.labels = ConfigDict({"divisions": True, "beyond": False})
    config.data = ConfigDict(
        {
            "store": "",
            "ndim": 2,
            # Frames of a window.
            "window": 10,
            # Sizes that windows are padded to: cells and candidate links.
            "buckets": ((512, 5632),),
            "batch_size": 4,
            # Movies learned from beside those annotated, each with faults of its own.
            "imperfect_copies": 12,
            "threads": 2,
            "prefetch": 4,
        }
    )
    # Rates per true cell, over the copies from 0 to twice these; lengths in its diameters.
    config.imperfect = ConfigDict(
        {"drop": 0.05, "false": 0.05, "split": 0.01, "merge": 0.01, "jitter": 0.03, "scale": 0.1}
    )
    config.augment = ConfigDict({"flips": True, "turns": True, "noise": 0.02, "dark_probability": 0.3})
    config.loss = ConfigDict({"name": "per_link", "event_weight": 0.5})
    config.model = ConfigDict(
        {
            "name": "tracker",
            "width": 64,
            "edge_width": 64,
            "layers": 4,
            "directions": "both",
            "dropout": 0.1,
            "embedding": 0,
            "block": 1024,
            "remat": False,
            "dtype": "auto",
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": 1e-3,
            "warmup_steps": 50,
            "final_fraction": 0.01,
            "b1": 0.9,
            "b2": 0.99,
            "clip_norm": 1.0,
            "weight_decay_rules": (("kernel", 1e-3), (".*", 0.0)),
            "decay": "decoupled",
            "learning_rate_rules": ((".*", 1.0),),
        }
    )
    config.train = ConfigDict(
        {
            "steps": 500,
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
    # The last part of each movie is linked as annotated, and with so many cells dropped and false ones added.
    # There a cell may be missed in so many frames.
    config.evaluation = ConfigDict({"holdout": 0.15, "imperfect": (0.0, 0.05), "max_gap": 2})
    # Frames of a window, 0 for all, and from window to window when a movie is linked.
    config.inference = ConfigDict({"window": 10, "stride": 5})
    config.linking = ConfigDict(LEAST_EXPECTED_AOGM)
    return config
