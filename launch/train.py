"""Trains an experiment; the same command continues a run that was stopped.

python -m launch.train --config=configs/ctc/segment.py:sim --workdir=runs/sim --config.data.store=stores/sim
python -m launch.train --config=configs/ctc/segment.py:sim --describe
python -m launch.train --config=... --workdir=... --on=slurm --slurm=nodes=2,gpus_per_node=4,partition=gpu
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from celltrack_jax import tasks
from celltrack_jax.config import Config
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.training import checkpoint, cost, loop, memory, mesh, peers, rules, size_models
from celltrack_jax.training.optimizer import make_optimizer
from celltrack_jax.training.preemption import Preemption
from celltrack_jax.training.state import compile_step
from launch import cli, cluster, embedders, on

flags.adopt_module_key_flags(cluster)
flags.adopt_module_key_flags(on)
_CONFIG = config_flags.DEFINE_config_file("config", None, "experiment, <file>[:argument]", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run: config, checkpoints, metrics")
_PROFILE = flags.DEFINE_string("profile", "", "first:last step of a profiler trace, <workdir>/profile")
_DESCRIBE = flags.DEFINE_boolean(
    "describe", False, "print parameters, batch and cost of a step; train nothing"
)

_FIT_S = 24 * 3600.0
"""For process 0 to fit size models, while the others wait."""


def main(argv: Sequence[str]) -> int:
    """Trains, or describes."""
    del argv
    config = _CONFIG.value
    if config is None:
        raise flags.ValidationError(
            "--config=<file>[:argument] is needed, such as configs/ctc/segment.py:sim"
        )
    if not isinstance(config, ConfigDict):  # the library puts off its error until a key is read
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        raise flags.ValidationError(cli.absent_config(path) or f"--config={path} cannot be read")
    slurm = on.slurm_settings()
    if slurm is not None and _WORKDIR.value and not _DESCRIBE.value:
        tasks.build(config)  # says now what is wrong with the config, not when the job starts
        return on.submit_this("train", Path(_WORKDIR.value), slurm)
    cluster.join()
    task = tasks.build(config)
    if _DESCRIBE.value:
        describe(task, config)
        return 0
    if not _WORKDIR.value:
        raise flags.ValidationError("--workdir=<folder> is needed (or --describe)")
    if jax.process_index() == 0:
        print("opening the data, tracing the network", flush=True)
    embedders.attach(task, Path(_WORKDIR.value))
    done = loop.train(
        task, config, Path(_WORKDIR.value), profile=_profiled_steps(), initial=_initial(config.train.initial)
    )
    if done and isinstance(task, tasks.SizingTask) and task.sizing:
        done = _fit_sizes(task, Path(_WORKDIR.value))
    return 0 if done else cli.STOPPED


def _fit_sizes(task: tasks.SizingTask, workdir: Path) -> bool:
    """Fits the size models of a finished run, in one process; returns whether it was not told to stop."""
    fitted = True
    if jax.process_index() == 0:
        with Preemption(together=False) as preemption:
            say = functools.partial(print, flush=True)
            fitted = size_models.fit_missing(task, workdir, preemption.asked, say)
    peers.barrier("size model", _FIT_S)
    return fitted


def _initial(origin: str) -> Callable[[], Variables] | None:
    """Returns what loads the weights of another run."""
    if not origin:
        return None

    def load() -> Variables:
        other = FunctionalModel(tasks.build(checkpoint.load_config(Path(origin))).model)
        return checkpoint.restore_variables(Path(origin), "latest", other)[1]

    return load


def _profiled_steps() -> tuple[int, int] | None:
    if not _PROFILE.value:
        return None
    first, colon, last = _PROFILE.value.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)):
        raise flags.ValidationError(f"--profile={_PROFILE.value} is no range of steps: write --profile=10:15")
    return int(first), int(last)


def describe(task: tasks.Task, config: Config) -> None:
    """Prints parameters per module, the batch and what a step costs."""
    model = FunctionalModel(task.model, rules.freezing(config.optimizer.learning_rate_rules))
    shapes = jax.eval_shape(model.init, jax.random.key(0)).params
    sizes: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        module = "/".join(rules.parameter_name(path).split("/")[:2])
        sizes[module] = sizes.get(module, 0) + int(np.prod(leaf.shape))
    for module, size in sizes.items():
        print(f"{module:40s} {size:>12,}")
    print(f"{'parameters':40s} {sum(sizes.values()):>12,}")
    for key, spec in task.batch_spec().items():
        print(f"batch {key:34s} {spec.dtype} {spec.shape}")
    devices = mesh.make_mesh(
        config.mesh.space, config.data.batch_size, jax.devices(), config.train.accumulate
    )
    optimizer = make_optimizer(config.optimizer, config.train.steps, shapes)
    compiled = compile_step(task, model, optimizer, devices, config)
    flops, bytes_moved = cost.compiler_count(compiled)
    print(f"step: {flops / 1e9:.2f} GFLOP, {bytes_moved / 1e9:.2f} GB moved per device")
    print(f"memory: {memory.needed_bytes(compiled) / 2**20:.0f} MiB per device")


if __name__ == "__main__":
    cli.run(main)
