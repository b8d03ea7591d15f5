"""Which channels and frames help to find kinetochores? The arms of `points.py`, small, by what the network sees.

    python -m launch.sweep --config=configs/kinetochores/inputs.py:modern --workdir=runs/inputs \\
        --config.data.store=stores/kin --config.evaluation.store=stores/kin_test
"""

from configs.kinetochores.points import INPUTS, get_config

ARGUMENTS = ("tiny",)
__all__ = ["ARGUMENTS", "get_config", "sweep"]


def sweep(add) -> None:
    """One, two, three and six channels, each with three losses."""
    for loss in ("focal", "dice", "gd51"):
        for seen in INPUTS:
            add(f"{seen}_{loss}", argument=f"aniso_{seen}_{loss}_small", overrides={})
