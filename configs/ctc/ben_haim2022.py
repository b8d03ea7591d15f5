"""The tracker of Ben-Haim & Riklin-Raviv (ECCV 2022) as its authors train and run it; compare configs/ctc/link.py.

    python -m launch.prepare --source=<data set folder> --store=stores/sim
    python -m launch.train --config=configs/ctc/ben_haim2022.py:2d --workdir=runs/bh --config.data.store=stores/sim
    python -m launch.track --linker=runs/bh --masks=<folder of masks> --images=<folder> --output=02_RES

What differs from the original (docs/originals.md, 5): the last part of each movie is held out, and no window
of the training reaches into it; the checkpoint is chosen by LNK there, not by the accuracy of edges; the
box of training windows is measured in the frames trained on; steps are counted, not epochs, and none stop early.
Without an embedder the hand-made features make all of a node's channels.

| argument | data | steps, time on two CPU cores | F1 of links on held-out frames: as annotated, with 5 % faults |
|---|---|---|---|
| 2d | Fluo-N2DH-SIM+/01 | 500; 25 min, busy with other work | .999, .938 |
| 3d | stacks; not measured | 500 | |
| patch | markers alone; not measured | 500 | |
| tiny | what the tests train | 12; seconds | |
"""

from ml_collections import ConfigDict

ARGUMENTS = ("2d", "3d", "patch", "tiny")


def get_config(arg: str = "2d") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/ctc/ben_haim2022.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    config = _base()
    if arg == "3d":
        config.data.ndim = 3
        config.features.nodes = "ben_haim2022_3d"
    if arg == "patch":
        # Boxes of 64 x 64 pixels, whatever the annotation.
        config.features.nodes = "ben_haim2022_patch"
        config.graph.extent = (1, 64, 64)
    if arg == "tiny":
        config.data.window, config.data.batch_size = 4, 2
        config.data.buckets = ((64, 1024),)
        config.train.steps, config.train.log_every = 12, 4
        config.train.evaluate_every = config.train.save_every = 6
        config.evaluation.imperfect = (0.0,)
    return config


def _base() -> ConfigDict:
    config = ConfigDict()
    config.task = "link"
    config.seed = 0
    # No average: the last weights are judged.
    config.ema_decay = 0.0
    config.mesh = ConfigDict({"space": 1, "parameters": ((".*", "replicated"),)})
    # Work folder of a run of configs/ctc/embed.py, the original's second stage; model.embedding is then its outputs.
    config.embedder = ""
    # Twice the largest bounding box of the movie to each side, in the next frame.
    config.graph = ConfigDict({"name": "box", "scale": 2.0, "extent": ()})
    config.features = ConfigDict({"nodes": "ben_haim2022_2d", "edges": "none", "diameter_um": 0.0})
    # Daughters are no links of their mother; links are learned from where they leave the box, too.
    config.labels = ConfigDict({"divisions": False, "beyond": True})
    config.data = ConfigDict(
        {
            "store": "",
            "ndim": 2,
            # Frames of a window; one begins at each frame.
            "window": 10,
            # Sizes that windows are padded to: cells and candidate links.
            "buckets": ((512, 5632),),
            "batch_size": 8,
            "imperfect_copies": 0,
            "threads": 2,
            "prefetch": 4,
        }
    )
    config.imperfect = ConfigDict(
        {"drop": 0.0, "false": 0.0, "split": 0.0, "merge": 0.0, "jitter": 0.0, "scale": 0.0}
    )
    config.augment = ConfigDict({"flips": False, "turns": False, "noise": 0.0, "dark_probability": 0.0})
    config.loss = ConfigDict({"name": "balanced", "event_weight": 0.0})
    config.model = ConfigDict({"name": "ben_haim2022", "embedding": 0, "block": 1024})
    # Adam with its defaults in PyTorch. No norm reaches the clipping.
    config.optimizer = ConfigDict(
        {
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "final_fraction": 1.0,
            "b1": 0.9,
            "b2": 0.999,
            "clip_norm": 1e9,
            "weight_decay_rules": ((".*", 1e-5),),
            "decay": "in_gradient",
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
    # As in configs/ctc/link.py, with links over gaps that this tracker cannot find.
    config.evaluation = ConfigDict({"holdout": 0.15, "imperfect": (0.0, 0.05), "max_gap": 2})
    # The movie is one graph, so that features are scaled over all of it.
    config.inference = ConfigDict({"window": 0, "stride": 1})
    config.linking = ConfigDict({"name": "greedy_ben_haim2022"})
    return config
