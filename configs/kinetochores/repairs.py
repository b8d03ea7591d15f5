"""What do the original's faults cost? Arms of `points.py`, small, as published and mended.

    python -m launch.sweep --config=configs/kinetochores/repairs.py:modern --workdir=runs/repairs \\
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test

| arms | as published | mended |
|---|---|---|
| van, vanfix | the head is a block, whose sigmoid stays above .27 | the head is a convolution |
| tdice, tdist | the loss rewards frames that differ | it rewards frames that agree |
| mh | the overlap is minimised | it is maximised |
| reg, regtrunc | distances over the farthest voxel's | up to 0.6 µm |
"""

from configs.kinetochores.points import get_config

ARGUMENTS = ("tiny",)
__all__ = ["ARGUMENTS", "get_config", "sweep"]


def sweep(add) -> None:
    """Pairs, the published one first."""
    for words in ("van_rmse", "vanfix_rmse", "van_dice", "vanfix_dice"):
        add(words, argument=f"{words}_small")
    for words in ("aniso_t3_tdice_gd51", "aniso_t3_tdist_gd51", "mh"):
        add(f"{words.removeprefix('aniso_t3_')}_published", argument=f"{words}_published_small")
        add(words.removeprefix("aniso_t3_"), argument=f"{words}_small")
    for words in ("reg", "regtrunc"):
        add(words, argument=f"aniso_{words}_small")
