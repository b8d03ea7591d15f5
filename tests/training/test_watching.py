"""What a run says of itself beside its losses: why it waits, what it spends time on, who else is here."""

import gc
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grain
import jax
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from celltrack_jax.training import input_watch, loop, programs
from celltrack_jax.training.input_watch import InputWatch
from tests.training.toy_task import Samples, ToyTask, toy_config


class Slow:
    """Samples whose making takes most of a step's time."""

    def __init__(self, wait):
        self.wait, self.samples = wait, Samples(None, "float32")

    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        self.wait()
        return self.samples[index]


POOL = ThreadPoolExecutor(4)


@pytest.mark.parametrize(
    ("wait", "cause"),
    [
        (
            lambda: POOL.submit(time.sleep, 0.1).result(),
            r"its threads wait for the store \(\d+% of looks, most in <lambda> of test_watching.py, line \d+\): copy",
        ),
        (
            lambda: time.sleep(0.1),
            r"its threads make samples \(\d+% of looks, most in <lambda> of test_watching.py, line \d+\): raise",
        ),
    ],
)
def test_a_step_that_waits_for_its_input_is_told_why(tmp_path, monkeypatch, capsys, wait, cause):
    monkeypatch.setattr("celltrack_jax.training.input_watch._LOOK_S", 0.02)
    config = toy_config(steps=8, evaluate_every=8, save_every=8)
    task = ToyTask(config)
    task.train_data = lambda process: grain.MapDataset.source(Slow(wait)).batch(8)
    loop.train(task, config, tmp_path)
    (first, *_) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert re.search(r"^warning: the step waits \d+% of its time for input: " + cause, first), first
    assert "--config.data.threads (now 1" in first


def test_an_input_that_stalls_is_said_before_it_ends(monkeypatch):
    monkeypatch.setattr("celltrack_jax.training.input_watch._LOOK_S", 0.01)
    monkeypatch.setattr("celltrack_jax.training.input_watch._STALLED_S", 0.1)
    said, spoken = [], threading.Event()

    def say(text):
        said.append(text)
        spoken.set()

    watch = InputWatch(say, 2)
    try:
        with watch.waiting():
            assert spoken.wait(10)
    finally:
        watch.close()
    assert said[0].startswith("no batch for 0 s: ")


def test_a_profile_is_written_where_it_is_said(tmp_path, capsys):
    config = toy_config(steps=4)
    assert loop.train(ToyTask(config), config, tmp_path, profile=(2, 3))
    assert f"profile: {tmp_path / 'profile'}" in capsys.readouterr().out
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_two_runs_in_one_work_folder_are_refused(tmp_path):
    config = toy_config(steps=1)
    program = (
        "import sys, time; from pathlib import Path; from celltrack_jax.io import files\n"
        "with files.locked(Path(sys.argv[1]), 'launch.train'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        holder = f"process {other.pid} on "
        with pytest.raises(InputError, match=rf"another launch.train is writing .*\({holder}"):
            loop.train(ToyTask(config), config, tmp_path)
        other.kill()
    assert loop.train(ToyTask(config), config, tmp_path)
    assert (tmp_path / files.LOCK).read_text() == ""


def test_a_work_folder_that_cannot_be_written_is_said_before_anything_compiles(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    compiled = []
    monkeypatch.setattr(loop, "compile_step", lambda *_: compiled.append(1))
    config = toy_config(steps=1)
    with pytest.raises(InputError, match=r"cannot write .*file/run: .*or give another folder"):
        loop.train(ToyTask(config), config, tmp_path / "file" / "run")
    assert not compiled


def test_a_step_that_does_not_fit_is_refused_before_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.memory, "device_bytes", lambda device, sharing: 50_000)
    config = toy_config(steps=1)
    with pytest.raises(InputError, match=r"a step needs .* GiB on each device"):
        loop.train(ToyTask(config), config, tmp_path)


def test_programs_are_kept_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", "/elsewhere")
        programs.keep_compiled()
        assert jax.config.jax_compilation_cache_dir == "/elsewhere"
        jax.config.update("jax_compilation_cache_dir", None)
        programs.keep_compiled()
        assert jax.config.jax_compilation_cache_dir.startswith(str(tmp_path / "celltrack_jax"))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_threads_are_looked_at_without_a_collection_in_between(monkeypatch):
    """Python 3.11 may lock up for good otherwise."""
    seen = []
    monkeypatch.setattr(sys, "_current_frames", lambda: seen.append(gc.isenabled()) or {})
    assert input_watch._stacks() == []
    assert seen == [False]
    assert gc.isenabled()
