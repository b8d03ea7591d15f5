"""A work folder as launch.train leaves it, without training."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from celltrack_jax import tasks
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.training.checkpoint import Checkpoints, save_config, save_facts
from celltrack_jax.training.optimizer import make_optimizer
from celltrack_jax.training.state import init_state
from configs.ctc import segment


def untrained(workdir: Path, argument: str = "tiny", norm: str = "none", seed: int = 0) -> ConfigDict:
    """Saves the initial state of an experiment as checkpoint 0, and returns its config.

    Args:
      workdir: new folder.
      argument: of configs/ctc/segment.py.
      norm: "none" makes the network purely convolutional, so that tiles and whole frames agree.
      seed: of the weights.
    """
    config = segment.get_config(argument)
    config.model.norm = norm
    save_untrained(workdir, config, seed)
    return config


def save_untrained(workdir: Path, config: ConfigDict, seed: int = 0) -> None:
    """Saves the initial state of any experiment as checkpoint 0."""
    task = tasks.build(config)
    model = FunctionalModel(task.model)
    shapes = jax.eval_shape(model.init, jax.random.key(0)).params
    optimizer = make_optimizer(config.optimizer, config.train.steps, shapes)
    save_config(workdir, config)
    save_facts(workdir, {"movies": []})
    checkpoints = Checkpoints(workdir, config.train.best_metric, config.train.keep_latest)
    # Jitted: made one operation at a time, the state of the 3D network takes ten times as long.
    state = jax.jit(lambda key: init_state(model, optimizer, key))(jax.random.key(seed))
    checkpoints.save(0, state, None)
    checkpoints.close()
