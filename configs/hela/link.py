"""The learned tracker of `configs/ctc/link.py` on nuclei that are points.

    python -m launch.prepare --format=bursts --source=bursts/train --store=stores/bursts
    python -m launch.train   --config=configs/hela/link.py --workdir=runs/links --config.data.store=stores/bursts
    python -m launch.predict --segmenter=runs/hela --linker=runs/links --images=<folder of t*.tif> --output=01_RES

| argument | data | steps | LNK of links in held-out frames: as annotated, with 5 % faults |
|---|---|---|---|
| bursts | boxes or points with ids, drawn as discs of one size | 300; 6 min, busy | .999, .996 |
| tiny | what the tests train | 20 | |
"""

from ml_collections import ConfigDict

from configs.ctc import link

ARGUMENTS = ("bursts", "tiny")


def get_config(arg: str = "bursts") -> ConfigDict:
    if arg not in ARGUMENTS:
        raise ValueError(f"configs/hela/link.py knows {', '.join(ARGUMENTS)}, not {arg!r}")
    config = link.get_config("tiny" if arg == "tiny" else "sim")
    # Discs of one size do not tell how large a cell is: as far apart as neighbours that touch.
    config.features = ConfigDict({"nodes": "points", "edges": "points", "diameter_um": 22.0})
    if arg == "bursts":
        # Windows of ten frames with 100 and with 200 cells each.
        config.data.buckets = ((1024, 11264), (2048, 22528))
        config.train.steps, config.train.evaluate_every, config.train.save_every = 300, 100, 100
    return config
