"""What do the original's faults cost? Arms of `points.py`, small, as published and mended.

    python -m launch.sweep --config=configs/kinetochores/repairs.py --workdir=runs/repairs \
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test

| arms | as published (docs/originals.md, 2) | mended |
|---|---|---|
| van, vanfix | the head is a block, whose sigmoid stays above .27 | the head is a convolution |
| tdice, tdist | the loss rewards frames that differ | it rewards frames that agree |
| mh | the overlap is minimised | it is maximised |
| reg, regtrunc | distances over the farthest voxel's | up to 0.6 µm |
"""

from configs.kinetochores.points import get_config

ARMS = {words: f"{words}_small" for words in ("van_rmse", "vanfix_rmse", "van_dice", "vanfix_dice")}
for tie in ("tdice", "tdist"):
    ARMS[f"{tie}_published"] = f"aniso_t3_{tie}_gd51_published_small"
    ARMS[tie] = f"aniso_t3_{tie}_gd51_small"
ARMS |= {"mh_published": "mh_published_small", "mh": "mh_small"}
ARMS |= {words: f"aniso_{words}_small" for words in ("reg", "regtrunc")}
ARGUMENTS = tuple(ARMS.values())
__all__ = ["ARGUMENTS", "get_config", "sweep"]


def sweep(add) -> None:
    """Pairs, the published one first."""
    for arm, argument in ARMS.items():
        add(arm, argument=argument)
