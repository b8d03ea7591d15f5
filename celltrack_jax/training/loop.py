"""The training loop: restore, compile, step, log one step late, evaluate, save.

It knows the Task protocol and nothing of what is learned.
"""

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from celltrack_jax.config import Config
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.tasks import Task
from celltrack_jax.training import mesh as meshes
from celltrack_jax.training.checkpoint import Checkpoints, save_config
from celltrack_jax.training.optimizer import learning_rate, make_optimizer
from celltrack_jax.training.preemption import Preemption
from celltrack_jax.training.progress import RunLog, StepClock
from celltrack_jax.training.state import abstract_state, compile_step, init_state


def train(task: Task, config: Config, workdir: Path, devices: Sequence[Any] | None = None) -> bool:
    """Trains to the end, or until the process is told to stop; the same call continues a stopped run.

    Args:
      task: what is learned and how it is judged.
      config: the experiment; the loop reads seed, ema_decay, optimizer, train, mesh, data.{batch_size,threads,prefetch}.
      workdir: gets config.json, checkpoints/, metrics.jsonl and TensorBoard events.
      devices: what to train on; all of them by default.

    Returns:
      Whether the run is complete.

    Raises:
      InputError: the config does not fit the devices, the folder or its checkpoints, or the loss is not finite.
    """
    mesh = meshes.make_mesh(config.mesh.space, config.data.batch_size, devices or jax.devices())
    dataset = task.train_data((jax.process_index(), jax.process_count()))
    if jax.process_index() == 0:
        save_config(workdir, config)
    model = FunctionalModel(task.model)
    params = jax.eval_shape(model.init, jax.random.key(0)).params
    optimizer = make_optimizer(config.optimizer, config.train.steps, params)

    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(workdir, config.train.best_metric, config.train.keep_latest)
        stack.callback(checkpoints.close)
        abstract = abstract_state(model, optimizer, mesh)
        state = checkpoints.restore_latest(abstract)
        saved = None if state is None else int(state.step)
        if state is None:
            shardings = jax.tree.map(lambda x: x.sharding, abstract)
            birth = jax.jit(lambda key: init_state(model, optimizer, key), out_shardings=shardings)
            state = birth(jax.random.key(config.seed))

        log = RunLog(workdir, config.train.steps, saved or 0)
        stack.callback(log.close)
        preemption = stack.enter_context(Preemption())
        if saved is not None:
            log.say(f"resumed at step {saved} of {config.train.steps}")
        batches = _batches(dataset, config, saved or 0)  # they are read while the step compiles
        start = time.perf_counter()
        step = compile_step(task, model, optimizer, mesh, config)
        log.say(f"compiled the step in {time.perf_counter() - start:.0f} s: {_cost_line(step, mesh)}")
        loop = _Loop(task, config, model, mesh, step, batches, checkpoints, log, preemption, saved)
        return loop.run(state)


def step_cost(compiled: Any) -> tuple[float, float]:
    """Returns the FLOPs and bytes of a compiled program on one device, as its compiler counts them."""
    cost = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return float(cost.get("flops", 0.0)), float(cost.get("bytes accessed", 0.0))


class _Loop:
    """The run between compiling and closing."""

    def __init__(
        self,
        task: Task,
        config: Config,
        model: FunctionalModel,
        mesh: jax.sharding.Mesh,
        step: Any,
        batches: grain.DatasetIterator,
        checkpoints: Checkpoints,
        log: RunLog,
        preemption: Preemption,
        saved: int | None,
    ):
        self.task, self.model, self.step, self.batches = task, model, step, batches
        self.settings = config.train
        self.checkpoints, self.log, self.preemption, self.saved = checkpoints, log, preemption, saved
        self.done = saved or 0
        self.shardings = meshes.batch_shardings(mesh, task.batch_spec())
        self.schedule = learning_rate(config.optimizer, config.train.steps)
        self.clock = StepClock(config.data.batch_size, *step_cost(step))
        self.unread: list[dict[str, jax.Array]] = []

    def run(self, state: Any) -> bool:
        """Steps to the end or to a stop; returns whether it came to the end."""
        while True:
            judged = True
            if self._due(self.settings.evaluate_every) or self._due(self.settings.save_every):
                judged = self._evaluate_and_save(state)
            if self.done >= self.settings.steps and judged:
                return True
            if self.preemption.asked():
                self._save(state, None)
                self.log.say(
                    f"stopped at step {self.done} of {self.settings.steps}; the same command continues"
                )
                return False

            before = time.perf_counter()
            try:
                batch = next(self.batches)
            except InputError:
                if self.done:
                    self._save(state, None)  # what was learned is kept, whatever is wrong with the next crop
                raise
            self.clock.count(time.perf_counter() - before)
            state, metrics = self.step(state, meshes.global_batch(batch, self.shardings))
            self.done += 1
            self.unread.append(metrics)
            self.log.advance(self.done)
            if self.done % self.settings.log_every == 0:
                self._log(newest=False)

    def _due(self, every: int) -> bool:
        return self.done > 0 and (self.done % every == 0 or self.done >= self.settings.steps)

    def _evaluate_and_save(self, state: Any) -> bool:
        """Does what is due; returns whether no evaluation was broken off."""
        scores, judged = None, True
        if self._due(self.settings.evaluate_every) and self.done not in self.log.evaluated:
            self._log(newest=True)
            start = time.perf_counter()
            scores = self.task.evaluate(self.model, state.ema, self.preemption.asked)
            judged = scores is not None
            if scores is not None:
                scores = {**scores, "evaluation_s": time.perf_counter() - start}
                self.log.write("eval", self.done, scores)
        self._save(state, scores)
        self.clock.restart()
        return judged

    def _save(self, state: Any, scores: Any) -> None:
        if self.saved == self.done and scores is None:
            return
        self._log(newest=True)
        self.checkpoints.save(self.done, state, scores)
        self.saved = self.done

    def _log(self, newest: bool) -> None:
        """Reads metrics back and logs their means.

        While steps run, the newest metrics stay unread: the older ones have finished, so that reading them does
        not stall the device. Before a save all are read, so that a state after a bad loss is never kept.
        """
        keep = 0 if newest else 1
        ready, self.unread = self.unread[: len(self.unread) - keep], self.unread[len(self.unread) - keep :]
        if not ready:
            return
        last = self.done - keep
        rows = [
            {key: np.asarray(value).item() for key, value in row.items()} for row in jax.device_get(ready)
        ]
        for number, row in enumerate(rows, start=last - len(rows) + 1):
            # A loss is that of the parameters before the step, the gradient tells whether those after it are sound.
            bad = next((key for key in ("loss", "gradient_norm") if not math.isfinite(row[key])), None)
            if bad is not None:
                kept = "none was saved yet" if self.saved is None else f"that of step {self.saved} is kept"
                raise InputError(
                    f"the {bad.replace('_', ' ')} of step {number} is {row[bad]}; last good checkpoint: {kept}; lower "
                    "--config.optimizer.learning_rate or check the data, and train into a new --workdir"
                )
        means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        rates = {} if newest else self.clock.read()
        self.log.write(
            "train", last, {**means, "learning_rate": np.asarray(self.schedule(last - 1)).item(), **rates}
        )


def _batches(dataset: grain.MapDataset, config: Config, done: int) -> grain.DatasetIterator:
    """The batches of this process from step `done` on: the step number is the whole state of the data."""
    options = grain.ReadOptions(num_threads=config.data.threads, prefetch_buffer_size=config.data.prefetch)
    iterator = iter(dataset.to_iter_dataset(options))
    iterator.set_state({"next_index": done})
    iterator.start_prefetch()
    return iterator


def _cost_line(compiled: Any, mesh: jax.sharding.Mesh) -> str:
    memory = compiled.memory_analysis()
    size = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    devices = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
    return f"{step_cost(compiled)[0] / 1e9:.1f} GFLOP and {size / 2**30:.2f} GiB per device, {devices}"
