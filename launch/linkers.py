"""A trained run of task `link`, ready to link the cells of a movie."""

from pathlib import Path

import numpy as np

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from celltrack_jax.inference.track import Linker
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.tasks import LinkingTask
from celltrack_jax.tracking.cells import Cells
from celltrack_jax.tracking.scored_links import Links
from celltrack_jax.training import checkpoint
from launch import embedders


def restore(workdir: Path) -> Linker:
    """Restores the best checkpoint of a run, and its embedder, and says which step that is.

    Args:
      workdir: of the run.

    Returns:
      What links cells.

    Raises:
      InputError: there is no such run or checkpoint, or it does not link.
    """
    config = checkpoint.load_config(workdir)
    try:
        task = tasks.build(config)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{workdir}/config.json does not fit this version of the program ({error}): train again, or use the "
            "version that trained it"
        ) from error
    if not isinstance(task, LinkingTask):
        raise InputError(
            f"{workdir} is a run of task {config.task!r}, which does not link: give another --linker"
        )
    embedders.attach(task, workdir)
    model = FunctionalModel(task.model)
    step, variables = checkpoint.restore_variables(workdir, "best", model)
    print(checkpoint.described(workdir, step, config))
    apply = task.scorer(model, variables)
    trained = checkpoint.load_facts(workdir)
    if trained is None:
        print(
            f"note: {workdir}/{checkpoint.FACTS_FILE} is missing: whether the movie is like those of the training "
            "is not checked"
        )

    def link(cells: Cells, ends: tuple[int, int], step_um: np.ndarray | None) -> Links:
        del step_um
        if trained is not None:
            cells = task.fitting(cells, trained)
        found = task.link(cells, apply, ends)
        assert found is not None  # nobody stops it
        return found

    return Linker(link, task.embed)
