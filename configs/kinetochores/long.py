"""Which losses fail for want of steps? Those of `points.py` that 400 small steps did not teach, for 10,000 single crops.

    python -m launch.sweep --config=configs/kinetochores/long.py --workdir=runs/long \
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test

Seven minutes of one core per arm. All but focal, which was not run, find the points then (docs/results.md, kinetochores).
"""

from configs.kinetochores.points import get_config

ARMS = {loss: f"aniso_{loss}_small_long" for loss in ("mse", "bce", "rmsle", "rmse", "gd93", "dice", "focal")}
"""The last two are the ones to compare with."""
ARGUMENTS = tuple(ARMS.values())
__all__ = ["ARGUMENTS", "get_config", "sweep"]


def sweep(add) -> None:
    """Every arm."""
    for arm, argument in ARMS.items():
        add(arm, argument=argument)
