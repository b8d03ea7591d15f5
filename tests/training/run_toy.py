"""Trains the toy task in a process of its own: `python -m tests.training.run_toy WORKDIR STEPS [NAME=VALUE ...]`.

Options: devices=N,M,... a run on as many virtual devices each, in WORKDIR/on_N where there are several; process=I/N
with port=P for several processes; norm=...; batch=...; f64=1; parameters=RULE for all; every=STEPS between evaluations
and saves; kill_at=STEP ends the process with kill -9 when it evaluates at that step, after the save before; term_at=STEP
sends it SIGTERM there; fail_at=STEP raises an error there. Prints whether the run is complete as JSON.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

workdir, steps = Path(sys.argv[1]), int(sys.argv[2])
options = dict(argument.split("=", 1) for argument in sys.argv[3:])
devices = [int(number) for number in options.get("devices", "1").split(",")]
os.environ["JAX_PLATFORMS"] = "cpu"

from tests.devices import on_devices

os.environ.update(on_devices(max(devices)))

import jax

from celltrack_jax.errors import InputError
from celltrack_jax.training import checkpoint, hosts, loop, peers
from launch import cli

if "f64" in options:
    jax.config.update("jax_enable_x64", True)
if "process" in options:
    rank, count = map(int, options["process"].split("/"))
    hosts.join(hosts.from_flags(f"127.0.0.1:{options['port']}", count, rank))
    run = peers.of_this_run()
    assert run is not None
    cli.ON_FAILURE.append(run.fail)

from tests.training.toy_task import ToyTask, toy_config

every = int(options.get("every", 3))
config = toy_config(steps, int(options.get("batch", 8)), log_every=1, evaluate_every=every, save_every=every)
if "parameters" in options:
    config.mesh.parameters = ((".*", options["parameters"]),)
task = ToyTask(config, options.get("norm", "group"), dtype="float64" if "f64" in options else "float32")


def interrupt() -> None:
    """Ends or asks to end this process in the evaluation of the given step."""
    at = every * (len(task.evaluations) + 1)
    if at == int(options.get("kill_at", -1)):
        while checkpoint.checkpoint_steps(workdir) != [at - every]:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    if at == int(options.get("fail_at", -1)):
        raise InputError("frame 7 is truncated")
    if at == int(options.get("term_at", -1)):
        os.kill(os.getpid(), signal.SIGTERM)
        if "process" in options:
            time.sleep(3)  # processes agree by messages, and the toy's steps are quicker than these


task.on_evaluate = interrupt


def main(_: Sequence[str]) -> None:
    """Trains, on one number of devices after the other."""
    complete = False
    for number in devices:
        folder = workdir / f"on_{number}" if len(devices) > 1 else workdir
        chosen = jax.devices() if "process" in options else jax.devices()[:number]
        complete = loop.train(task, config, folder, chosen)
    print(json.dumps({"complete": complete}))


cli.run(main, positional=True)
