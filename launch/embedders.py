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


def attach(task: Task, workdir: Path) -> None:
    """Gives a task the embedder that its config names; does nothing where it names none.

    Args:
      task: of the run.
      workdir: of the run, which may be new: the embedder's config and best weights are then copied there, so that
        both folders may be moved.

    Raises:
      InputError: the embedder is nowhere, or does not embed, or does not fit the task.
    """
    if not isinstance(task, LinkingTask) or not task.embedder_run:
        return
    source, kept = Path(task.embedder_run), workdir / KEPT
    begun = bool(checkpoint.checkpoint_steps(workdir))
    chosen = kept if begun and (kept / checkpoint.CONFIG_FILE).is_file() else source
    if not (chosen / checkpoint.CONFIG_FILE).is_file():
        places = f"{kept} nor {source}" if begun else f"{source} (config.embedder)"
        raise InputError(
            f"{'neither ' if begun else 'no run in '}{places}{' holds the embedder of this run' if begun else ''}: "
            "give the --workdir of a run of configs/ctc/embed.py"
        )
    config, embedding, step, variables = _restore(chosen)
    task.use(embedding.embedder(FunctionalModel(embedding.model), variables))
    if not begun and jax.process_index() == 0:
        checkpoint.save_variables(kept, config, step, variables)


def _restore(workdir: Path) -> tuple[Config, EmbeddingTask, int, Variables]:
    config = checkpoint.load_config(workdir)
    task = tasks.build(config)
    if not isinstance(task, EmbeddingTask):
        raise InputError(
            f"{workdir} is a run of task {config.task!r}, which does not embed: give a run of configs/ctc/embed.py"
        )
    step, variables = checkpoint.restore_variables(workdir, "best", FunctionalModel(task.model))
    return config, task, step, variables
