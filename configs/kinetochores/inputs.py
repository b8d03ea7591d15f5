"""Which channels and frames help to find kinetochores? The arms of `points.py`, small, by what the network sees.

    python -m launch.sweep --config=configs/kinetochores/inputs.py --workdir=runs/inputs \
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test
"""

from configs.kinetochores.points import INPUTS, get_config

ARMS = {
    f"{seen}_{loss}": f"aniso_{seen}_{loss}_small" for loss in ("focal", "dice", "gd51") for seen in INPUTS
}
"""One, two, three and six channels, each with three losses."""
ARGUMENTS = tuple(ARMS.values())
__all__ = ["ARGUMENTS", "get_config", "sweep"]


def sweep(add) -> None:
    """Every arm."""
    for arm, argument in ARMS.items():
        add(arm, argument=argument)
