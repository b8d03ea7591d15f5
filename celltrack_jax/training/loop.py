"""The training loop: restore, compile, step, log one step late, evaluate, save.

It knows the Task protocol and nothing of what is learned.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import optax

from celltrack_jax.config import Config
from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.tasks import BucketedTask, CountingTask, DescribedTask, Task
from celltrack_jax.training import cost, memory, peers, rules
from celltrack_jax.training import mesh as meshes
from celltrack_jax.training.checkpoint import Checkpoints, check_shared, save_config, save_facts
from celltrack_jax.training.input_watch import WORTH_SAYING, InputWatch
from celltrack_jax.training.optimizer import learning_rate, make_optimizer
from celltrack_jax.training.preemption import Preemption
from celltrack_jax.training.profile import Profile
from celltrack_jax.training.progress import RunLog, StepClock
from celltrack_jax.training.state import TrainState, abstract_state, compile_step, init_state
from celltrack_jax.training.warm_start import warm_start

_START_S = 600.0
"""For the slowest process to come to the start of the training."""
_WARN_AGAIN_S = 600.0
"""Between two warnings that the input is late: the log has the share of each interval anyway."""


def train(
    task: Task,
    config: Config,
    workdir: Path,
    devices: Sequence[Any] | None = None,
    profile: tuple[int, int] | None = None,
    initial: Callable[[], Variables] | None = None,
) -> bool:
    """Trains to the end, or until the process is told to stop; the same call continues a stopped run.

    Args:
      task: what is learned and how it is judged.
      config: the experiment; the loop reads seed, ema_decay, optimizer, train, mesh, data.{batch_size,threads,prefetch}.
      workdir: gets config.json, training_data.json, checkpoints/, metrics.jsonl and TensorBoard events.
      devices: what to train on; all of them by default.
      profile: first and last step of a trace that is written to `<workdir>/profile`.
      initial: loads the weights of `train.initial`, if a run starts with those of another.

    Returns:
      Whether the run is complete.

    Raises:
      InputError: the config does not fit the devices, the folder or its checkpoints, or the loss is not finite.
    """
    mesh = meshes.make_mesh(
        config.mesh.space, config.data.batch_size, devices or jax.devices(), config.train.accumulate
    )
    dataset = task.train_data(meshes.data_share(mesh))
    model = FunctionalModel(task.model, rules.freezing(config.optimizer.learning_rate_rules))
    params = jax.eval_shape(model.init, jax.random.key(0)).params
    optimizer = make_optimizer(config.optimizer, config.train.steps, params)

    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(files.locked(workdir, "launch.train"))
            save_config(workdir, config)
            if isinstance(task, DescribedTask):
                save_facts(workdir, task.data_facts())
        peers.barrier("work folder", _START_S)
        check_shared(workdir, config)
        checkpoints = Checkpoints(workdir, config.train.best_metric, config.train.keep_latest)
        stack.callback(checkpoints.close)
        abstract = abstract_state(model, optimizer, mesh, config.mesh.parameters)
        state = checkpoints.restore_latest(abstract)
        saved = None if state is None else int(state.step)
        log = RunLog(workdir, config.train.steps, saved or 0)
        stack.callback(log.close)
        if state is None:
            state = _born(model, optimizer, abstract, config.seed, mesh, log.say)
        if saved is None and initial is not None:
            state = warm_start(state, initial(), config.train.initial, config.train.initial_rules, log.say)
        preemption = stack.enter_context(Preemption())
        if saved is not None and saved >= config.train.steps and saved in log.evaluated:
            log.say(_done_line("done already", checkpoints, config, workdir, saved))
            if profile is not None:
                log.say("--profile: no step is left to trace")
            return True
        if saved is not None:
            log.say(f"resumed at step {saved} of {config.train.steps}")
        batches = _batches(dataset, config, saved or 0)  # they are read while the step compiles
        try:
            steps = _compiled(task, model, optimizer, mesh, abstract, config, log.say)
            loop = _Loop(
                task, config, model, mesh, steps, batches, checkpoints, log, preemption, saved, profile
            )
            stack.callback(loop.close)
            done = loop.run(state)
            if done:
                checkpoints.wait()
                log.say(_done_line("done", checkpoints, config, workdir, loop.done))
            return done
        except InputError:
            raise
        except Exception as error:  # a collective that lost a process may raise anything
            memory.explain_exhausted(error)
            run = peers.of_this_run()
            if run is not None:
                run.explain(error)
            raise


def _born(
    model: FunctionalModel,
    optimizer: optax.GradientTransformation,
    abstract: TrainState,
    seed: int,
    mesh: jax.sharding.Mesh,
    say: Callable[[str], None],
) -> TrainState:
    """The state before the first step, sharded from its birth on."""
    say("making the first weights")
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    # It runs once. Compiling it with full optimisation took 25 s of a core for a small Cellpose; at level 1 it is 8 s,
    # and the weights are equal.
    options = {"xla_backend_optimization_level": 1} if mesh.devices.flat[0].platform == "cpu" else None
    birth = jax.jit(
        lambda key: init_state(model, optimizer, key), out_shardings=shardings, compiler_options=options
    )
    return birth(jax.random.key(seed))


def _compiled(
    task: Task,
    model: FunctionalModel,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    abstract: TrainState,
    config: Config,
    say: Callable[[str], None],
) -> dict[Any, Any]:
    """The step for each size of batches, by their shapes."""
    say("compiling the step")
    start = time.perf_counter()
    specs = task.batch_specs() if isinstance(task, BucketedTask) else [task.batch_spec()]
    steps = {}
    for spec in specs:
        steps[_shapes(spec)] = step = compile_step(task, model, optimizer, mesh, config, spec)
        _check_memory(step, abstract, mesh, config)
    sizes = f" of the largest of {len(specs)} sizes" if len(specs) > 1 else ""
    cost_line = _cost_line(steps[_shapes(task.batch_spec())], mesh)
    say(f"compiled the step in {time.perf_counter() - start:.0f} s: {cost_line}{sizes}")
    return steps


class _Loop:
    """The run between compiling and closing."""

    def __init__(
        self,
        task: Task,
        config: Config,
        model: FunctionalModel,
        mesh: jax.sharding.Mesh,
        steps: Mapping[Any, Any],
        batches: grain.DatasetIterator,
        checkpoints: Checkpoints,
        log: RunLog,
        preemption: Preemption,
        saved: int | None,
        profile: tuple[int, int] | None,
    ):
        self.task, self.model, self.steps, self.batches = task, model, steps, batches
        self.settings = config.train
        self.checkpoints, self.log, self.preemption, self.saved = checkpoints, log, preemption, saved
        self.done = saved or 0
        self.shardings = meshes.batch_shardings(mesh, task.batch_spec())
        self.gather = jax.jit(lambda variables: variables, out_shardings=meshes.replicated(mesh))
        self.schedule = learning_rate(config.optimizer, config.train.steps)
        self.clock = StepClock(
            config.data.batch_size, *cost.compiler_count(steps[_shapes(task.batch_spec())])
        )
        self.warned_s = -math.inf
        self.unread: list[dict[str, jax.Array]] = []
        self.input = InputWatch(log.warn, config.data.threads)
        self.profile = Profile(log.workdir / "profile", profile)

    def close(self) -> None:
        """Ends what runs beside the loop."""
        self.input.close()
        self.profile.stop()

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

            self.profile.before(self.done + 1)
            before = time.perf_counter()
            try:
                with self.input.waiting():
                    batch = next(self.batches)
            except InputError:
                if (
                    self.done and jax.process_count() == 1
                ):  # others cannot know that they would have to save too
                    self._save(state, None)  # what was learned is kept, whatever is wrong with the next crop
                raise
            self.clock.count(time.perf_counter() - before)
            arrays = meshes.global_batch(batch, self.shardings)
            state, metrics = self.steps[_shapes(arrays)](state, arrays)
            self.done += 1
            self.unread.append(metrics)
            if self.profile.ends(self.done):
                self.log.say(self.profile.stop(metrics))
            self.log.advance(self.done)
            if self.done % self.settings.log_every == 0:
                self._log(newest=False)

    def _due(self, every: int) -> bool:
        return self.done > 0 and (self.done % every == 0 or self.done >= self.settings.steps)

    def _evaluate_and_save(self, state: Any) -> bool:
        """Does what is due; returns whether no evaluation was broken off.

        It saves first: an evaluation may take long, and whoever kills it loses no step. What continues the run then
        evaluates.
        """
        scores, judged = None, True
        self._save(state, None)
        if self._due(self.settings.evaluate_every) and self.done not in self.log.evaluated:
            start = time.perf_counter()
            scores = self.task.evaluate(self.model, self.gather(state.ema), self.preemption.asked)
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
        counts = self.task.input_counts() if isinstance(self.task, CountingTask) else {}
        rate = np.asarray(self.schedule(last - 1)).item()
        self.log.write("train", last, {**means, "learning_rate": rate, **counts, **rates})
        self._report_hosts(last, rates)

    def _report_hosts(self, step: int, rates: Mapping[str, float]) -> None:
        """Tells the other processes where this one is, and the log where all are; says why the input is late."""
        late = rates.get("input_wait", 0.0) > WORTH_SAYING
        if late and time.monotonic() - self.warned_s > _WARN_AGAIN_S:
            self.warned_s = time.monotonic()
            self.log.warn(
                f"the step waits {rates['input_wait']:.0%} of its time for input: {self.input.cause()}"
            )
        run = peers.of_this_run()
        if run is not None and rates:
            run.tell(step=step, step_s=rates["step_s"], input_wait=rates["input_wait"])
            self.log.hosts(run.everyone())


def _batches(dataset: grain.MapDataset, config: Config, done: int) -> grain.DatasetIterator:
    """The batches of this process from step `done` on: the step number is the whole state of the data."""
    options = grain.ReadOptions(num_threads=config.data.threads, prefetch_buffer_size=config.data.prefetch)
    iterator = iter(dataset.to_iter_dataset(options))
    iterator.set_state({"next_index": done})
    iterator.start_prefetch()
    return iterator


def _shapes(batch: Mapping[str, Any]) -> tuple[Any, ...]:
    """Tells the sizes of batches apart."""
    return tuple(sorted((key, x.shape) for key, x in batch.items()))


def _check_memory(compiled: Any, abstract: Any, mesh: jax.sharding.Mesh, config: Config) -> None:
    device = mesh.local_devices[0]
    on_device = [x.sharding.shard_shape(x.shape) for x in jax.tree.leaves(abstract)]
    sizes = [
        x.dtype.itemsize * math.prod(s) for x, s in zip(jax.tree.leaves(abstract), on_device, strict=True)
    ]
    memory.check_fits(
        memory.needed_bytes(compiled),
        sum(sizes),
        memory.device_bytes(device, len(mesh.local_devices)),
        config.data.batch_size // mesh.shape[meshes.DATA] // config.train.accumulate,
        config,
    )


def _done_line(word: str, checkpoints: Checkpoints, config: Config, workdir: Path, step: int) -> str:
    best = checkpoints.best()
    scored = "" if best is None else f", best step {best[0]} ({config.train.best_metric} {best[1]:.4g})"
    return f"{word}: {workdir}, step {step}{scored}"


def _cost_line(compiled: Any, mesh: jax.sharding.Mesh) -> str:
    size = memory.needed_bytes(compiled) / 2**30
    devices = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
    return f"{cost.compiler_count(compiled)[0] / 1e9:.1f} GFLOP and {size:.2f} GiB per device, {devices}"
