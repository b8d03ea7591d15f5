"""What is learned, and how it is judged: one file per kind of task.

A task is chosen by name in a config (`task = "dense"`), and the file of that name in this folder holds it.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import grain
import jax
from flax import nnx

from celltrack_jax.config import Config
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel, Variables


class Task(Protocol):
    """One thing to learn. The training loop knows this and nothing else of it."""

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the module; it is called as `module(image, train=bool)`."""
        ...

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the arrays of the global batch, so that everything compiles before any data exist."""
        ...

    def train_data(self, process: tuple[int, int]) -> grain.MapDataset:
        """Returns the batches of one process.

        Args:
          process: (index, count). Batch i of all processes together is a function of i alone.
        """
        ...

    def loss(
        self,
        apply: Callable[[jax.Array], tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Returns the loss of a batch; traced into the training step, augmentation and target making included.

        Args:
          apply: the model with the current parameters: inputs -> (outputs, stats).
          batch: as `batch_spec`.
          keys: (B,) random keys, one per sample.
          step: () int32, steps done.

        Returns:
          () float32 loss, the model's stats after the call, and scalar metrics.
        """
        ...

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Returns named scores on held-out data, or None when `stop()` became true on the way."""
        ...


def build(config: Config) -> Task:
    """Makes the task that a config names.

    Raises:
      InputError: there is no such task.
    """
    try:
        module = importlib.import_module(f"celltrack_jax.tasks.{config.task}")
    except ModuleNotFoundError as error:
        raise InputError(
            f"no task {config.task!r}: it is the name of a file in celltrack_jax/tasks"
        ) from error
    return module.build(config)
