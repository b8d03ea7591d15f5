"""The embedder that a linker looks through: a run of task `embed`, of which the linker's run keeps a copy."""

from pathlib import Path

import jax

from celltrack_jax import tasks
from celltrack_jax.config import Config
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.tasks import EmbeddingTask, LinkingTask, Task
from celltrack_jax.training import checkpoint

KEPT = "embedder"
"""Folder of the copy, in the work folder of the linker's run."""


def attach(task: Task, workdir: Path | None) -> None:
    """Gives a task the embedder that its config names; does nothing where it names none.

    Args:
      task: of the run.
      workdir: of the run, which may be new: the embedder's config and best weights are then copied there, so that
        both folders may be moved. None copies nothing.

    Raises:
      InputError: the embedder is nowhere, or does not embed, or does not fit the task.
    """
    if not isinstance(task, LinkingTask) or not task.embedder_run:
        return
    source = Path(task.embedder_run)
    begun = workdir is not None and bool(checkpoint.checkpoint_steps(workdir))
    chosen = _found(source, workdir / KEPT) if workdir and begun else source
    config, embedding, step, variables = _restore(chosen)
    task.use(embedding.embedder(FunctionalModel(embedding.model), variables))
    if workdir and not begun and jax.process_index() == 0:
        checkpoint.save_variables(workdir / KEPT, config, step, variables)


def _found(source: Path, kept: Path) -> Path:
    for place in (kept, source):
        if (place / checkpoint.CONFIG_FILE).is_file():
            return place
    raise InputError(
        f"neither {kept} nor {source} holds the embedder that this run was trained with: copy it back to one of them"
    )


def _restore(workdir: Path) -> tuple[Config, EmbeddingTask, int, Variables]:
    if not (workdir / checkpoint.CONFIG_FILE).is_file():
        raise InputError(
            f"{workdir} (config.embedder) holds no run: give the --workdir of a run of configs/ctc/embed.py"
        )
    config = checkpoint.load_config(workdir)
    task = tasks.build(config)
    if not isinstance(task, EmbeddingTask):
        raise InputError(
            f"{workdir} is a run of task {config.task!r}, which does not embed: give a run of configs/ctc/embed.py"
        )
    step, variables = checkpoint.restore_variables(workdir, "best", FunctionalModel(task.model))
    return config, task, step, variables
