"""Sweeps through the real main: what fails stays alone, what is done stays done, what is wrong is said before."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from launch.sweeps import arms, manifest
from tests import mains, tiny_store
from tests.conftest import ROOT

FILE = """
from tests.launch import twelve_arms


def get_config(argument="tiny"):
    return twelve_arms.get_config(argument)


def sweep(add):
{sweep}
"""
THREE = """
    add("baseline")
    add("size", overrides={"representation.min_size": 40})
    add("impossible", overrides={"mesh.space": 16})
"""


def write(folder: Path, sweep: str) -> Path:
    path = folder / "arms.py"
    path.write_text(FILE.format(sweep=sweep))
    return path


def command(path: Path, workdir: Path, store: Path, *flags: str) -> list[str]:
    return [f"--config={path}", f"--workdir={workdir}", f"--config.data.store={store}", *flags]


def call(*arguments) -> subprocess.CompletedProcess:
    return mains.call("sweep", *command(*arguments))


def runs(workdir: Path) -> dict[str, dict]:
    rows = json.loads((workdir / "manifest.json").read_text())["runs"]
    return {row["arm"]: row for row in rows}


def attempts(workdir: Path) -> dict[str, tuple[str, int]]:
    return {name: (run["status"], run["attempts"]) for name, run in runs(workdir).items()}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store.make(tmp_path_factory.mktemp("movie"))


def test_a_failed_arm_stays_alone_and_only_it_runs_again(store, tmp_path):
    path, workdir = write(tmp_path, THREE), tmp_path / "sweep"
    first = call(path, workdir, store, "--jobs=2")
    assert first.returncode == 1, first.stderr
    assert attempts(workdir) == {"baseline": ("done", 1), "size": ("done", 1), "impossible": ("failed", 1)}
    assert "1 devices do not divide into groups of space=16" in runs(workdir)["impossible"]["error"]
    assert "impossible/seed0" in first.stderr.splitlines()[-1]
    table = (workdir / "sweep.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["arm", "baseline", "size", "impossible"]
    assert "do not divide" in table[3]
    assert "<svg" in (workdir / "report.html").read_text()

    # The arm that failed may be corrected; what is done may not change.
    write(tmp_path, THREE.replace('"mesh.space": 16', '"mesh.space": 1'))
    second = call(path, workdir, store)
    assert second.returncode == 0, second.stderr
    assert attempts(workdir) == {"baseline": ("done", 1), "size": ("done", 1), "impossible": ("done", 2)}
    write(tmp_path, THREE.replace("40", "41"))
    third = call(path, workdir, store)
    assert third.returncode == 1
    assert "arm 'size' is done with other settings (representation.min_size differ)" in third.stderr
    assert third.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_sweep_that_is_told_to_stop_saves_its_runs_and_goes_on(store, tmp_path):
    path, workdir = write(tmp_path, '    add("long")\n    add("later")'), tmp_path / "sweep"
    started = subprocess.Popen(
        [
            *(sys.executable, "-m", "launch.sweep"),
            *command(path, workdir, store, "--config.train.steps=100000", "--config.train.log_every=1"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log = workdir / "runs" / "long" / "seed0" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (log.exists() and log.read_text().count("\n") > 2):
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    refused = call(path, workdir, store)
    assert refused.returncode == 1
    assert "another launch.sweep is writing" in refused.stderr
    started.send_signal(signal.SIGINT)
    out, _ = started.communicate(timeout=100)
    assert started.returncode == 75, out
    assert "the same command continues" in out
    assert attempts(workdir) == {"long": ("stopped", 1), "later": ("missing", 0)}
    train_log = (workdir / "runs" / "long" / "seed0" / "train.log").read_text()
    assert "of 100000; the same command continues" in train_log


def load(tmp_path: Path, sweep: str, **common) -> list[arms.Arm]:
    return arms.load(write(tmp_path, sweep), None, common)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ('    add("a"', r"arms\.py, line \d+: .*correct the file"),
        ("    pass", "sweep adds no arm"),
        ('    add("a")\n    add("a")', "two arms are called 'a': rename one"),
        (
            '    add("a", overrides={"train.stps": 3})',
            "arm 'a': the config has no 'train.stps' .*steps.*correct",
        ),
        ('    add("a", overrides={"train.steps": "3"})', "arm 'a': train.steps is a int, not str"),
        ('    add("a", overrides={"train": 3})', "arm 'a': train is a ConfigDict, not int"),
        ('    add("a", "tinier")', "arm 'a': get_config: ValueError: .*not 'tinier'"),
        ('    add("a/b")', "'a/b' names no arm"),
        ("    ad('a')", r"arms\.py, line 10: sweep: NameError: name 'ad' is not defined"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_one_line(tmp_path, sweep, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path, sweep)


def test_a_file_without_a_sweep_is_refused(tmp_path):
    path = tmp_path / "arms.py"
    path.write_text("def get_config():\n    return None\n")
    with pytest.raises(InputError, match=r"arms\.py has no sweep: write a function"):
        arms.load(path, None, {})
    with pytest.raises(InputError, match=r"none\.py is no Python file"):
        arms.load(tmp_path / "none.py", None, {})


def test_an_arm_that_cannot_be_built_is_named_before_anything_starts(tmp_path):
    found = load(tmp_path, '    add("a")\n    add("odd", overrides={"data.crop": (63, 64)})')
    with pytest.raises(InputError, match=r"arm 'a': no data: give --config\.data\.store"):
        arms.check(found, tmp_path / "arms.py")
    with pytest.raises(InputError, match=r"arm 'odd': data.crop \(63, 64\) is not a multiple"):
        arms.check(found[1:], tmp_path / "arms.py")


def test_the_config_of_a_run_is_written_whole(tmp_path):
    part = {"name": "mask", "arm": "foreground"}
    (arm,) = load(tmp_path, f'    add("a", overrides={{"representation": {part}}})', **{"train.steps": 7})
    path = tmp_path / "arm.py"
    path.write_text(arms.config_file(arm, 5, "arms.py"))
    scope: dict = {}
    exec(path.read_text(), scope)
    config = scope["get_config"]()
    assert config.to_dict() == {**arm.config.to_dict(), "seed": 5}
    assert (config.train.steps, config.representation.to_dict()) == (7, part)
    assert isinstance(config.model.widths, tuple)


def test_a_plan_knows_what_is_done_and_what_was_interrupted(tmp_path):
    found = load(tmp_path, '    add("a")\n    add("b")')
    first = manifest.plan(tmp_path, found, [0, 1])
    assert list(first.runs) == ["a/seed0", "a/seed1", "b/seed0", "b/seed1"]
    for name in ("a/seed0", "a/seed1", "b/seed0"):
        first.runs[name].start()
    first.runs["a/seed0"].end(manifest.Outcome(0, 3, None))
    first.runs["b/seed0"].end(manifest.Outcome(75, 3, None))
    config = json.dumps(arms.as_json(found[0].of_seed(0)))
    files.replace_text(tmp_path / "runs/a/seed0/config.json", config, "")
    first.save()
    again = manifest.plan(tmp_path, found, [0, 1])
    assert {name: run.status for name, run in again.runs.items()} == {
        "a/seed0": "done", "a/seed1": "stopped", "b/seed0": "stopped", "b/seed1": "missing",
    }  # fmt: skip
    assert [run.name for run in again.unfinished()] == ["a/seed1", "b/seed0", "b/seed1"]
    some = manifest.plan(tmp_path, found, [0, 1], ["b"])
    assert [run.name for run in some.unfinished()] == ["b/seed0", "b/seed1"]
    assert list(some.runs) == list(again.runs)
    assert some.problems(list(some.runs.values())) == ["seed 1 stopped", "seed 0 stopped", "seed 1 missing"]
    of_a = manifest.plan(tmp_path, found, [0, 1], ["a"])
    assert of_a.problems(list(of_a.runs.values())) == ["seed 1 stopped", "seed 0 stopped"], (
        "b is not asked for"
    )
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read .*manifest\.json"):
        manifest.plan(tmp_path, found, [0])


@pytest.mark.parametrize(
    ("flag", "status", "message"),
    [
        ("--seeds=0,a", 2, "--seeds=0,a: give different whole numbers"),
        ("--config.train.stps=3", 2, "--config.train.stps: the config has no 'stps', did you mean 'steps'?"),
        ("--config=configs/ctc/sgment.py", 2, "no file configs/ctc/sgment.py"),
        ("--arms=baseline,c", 2, "no arm 'c': give some of baseline, size=2"),
        ("--slurm=nodes=2", 2, "go with --on=slurm"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, flag, status, message):
    done = call("tests/launch/twelve_arms.py", tmp_path, tmp_path, flag)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert message in done.stderr


def test_the_sweep_of_the_segmenter_can_be_built():
    found = arms.load(ROOT / "configs" / "ctc" / "segment.py", "tiny", {})
    assert len(found) > 5
    for arm in found:
        arms.tasks.build(arm.config)
