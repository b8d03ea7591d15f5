"""Size models of a run: what is fitted to the weights of its checkpoints, one file for each.

<workdir>/size_models/<step>.json
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.ops.diameters import SizeModel
from celltrack_jax.tasks import SizingTask
from celltrack_jax.training import checkpoint

FOLDER = "size_models"
_KEPT = "then run the same command again, which does what lacks"


def fit_missing(
    task: SizingTask, workdir: Path, stop: Callable[[], bool], say: Callable[[str], None]
) -> bool:
    """Fits a size model to the best and to the latest weights of a run, where there is none yet.

    Args:
      task: of the run; its data have to be at hand.
      workdir: of the run.
      stop: asked on the way.
      say: gets a line before and after each.

    Returns:
      Whether they are all there; not, where `stop()` became true.
    """
    model = FunctionalModel(task.model)
    for which in ("best", "latest"):
        step, variables = checkpoint.restore_variables(workdir, which, model)
        if load(workdir, step) is not None:
            continue
        say(f"fitting the size model of step {step}")
        sizes = task.fit_sizes(model, variables, stop)
        if sizes is None:
            return False
        rows = {name: np.asarray(value).tolist() for name, value in sizes._asdict().items()}
        files.replace_text(path_of(workdir, step), json.dumps(rows, indent=1) + "\n", _KEPT)
        say(
            f"fitted the size model of step {step}, for diameters of {sizes.least:.0f} to {sizes.most:.0f} pixels"
        )
    return True


def load(workdir: Path, step: int) -> SizeModel | None:
    """Reads the size model of a checkpoint; None where there is none.

    Raises:
      InputError: the file is damaged.
    """
    path = path_of(workdir, step)
    try:
        rows = json.loads(path.read_text())
        return SizeModel(
            np.array(rows["weights"], np.float64),
            np.array(rows["mean_style"], np.float64),
            *(float(rows[name]) for name in ("mean_log", "least", "most")),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read {path} ({error}): remove it, and run launch.train's command again, which fits it anew"
        ) from error


def path_of(workdir: Path, step: int) -> Path:
    """Returns the file of a checkpoint's size model."""
    return workdir / FOLDER / f"{step}.json"
