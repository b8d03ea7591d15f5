"""Flags of --on=slurm: what sbatch is told, and the very same command without them."""

import re

import pytest
from absl import flags

from launch import on
from launch.slurm import jobs, settings


def test_settings_become_sbatch_flags():
    found = settings.parse(
        ["nodes=2,gpus_per_node=a100:4,mem_gb=1.5", "setup=module load a,b", "setup=ulimit -n 9"]
    )
    assert found["setup"] == ["module load a,b", "ulimit -n 9"]
    told = settings.sbatch(found)
    assert told["additional_parameters"] == {
        "requeue": True, "nodes": "2", "signal": "TERM@120", "ntasks-per-node": 1, "gpus-per-node": "a100:4",
        "mem": "1536M",
    }  # fmt: skip
    assert (told["time"], told["srun_args"]) == (None, ["--ntasks-per-node=1"])
    ranged = settings.sbatch(settings.parse(["nodes=1-4,tasks_per_node=2,cpus_per_task=8,timeout_min=60"]))
    assert "ntasks-per-node" not in ranged["additional_parameters"]
    assert ranged["srun_args"] == ["--ntasks-per-node=2", "--cpus-per-task=8"]
    assert ranged["time"] == 60


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gpu=2", "there is no setting 'gpu'"),
        ("partition", "give partition=<value>"),
        ("nodes=0", "nodes is a number"),
        ("mem_gb=-1", "mem_gb is a positive number"),
        ("gpus_per_node=many", "gpus_per_node is a number of GPUs"),
        ("qos=a,qos=b", "qos is given twice, a and b"),
    ],
)
def test_settings_that_are_wrong_are_named(word, message):
    with pytest.raises(flags.ValidationError, match=re.escape(message)):
        settings.parse([word])


def test_the_same_command_is_that_without_these_flags():
    given = [
        "--config=c.py:on",
        "--on",
        "slurm",
        "--slurm=nodes=2",
        "--nowait",
        "--workdir",
        "on",
        "-on=slurm",
        "--slurm",
        "x=1",
    ]
    assert on.same_command("train", given) == ["-m", "launch.train", "--config=c.py:on", "--workdir", "on"]


def test_the_error_of_a_log_is_its_own_and_not_that_of_the_launcher(tmp_path):
    log = tmp_path / "log"
    assert jobs.last_error(log) is None
    log.write_text(
        "step 1\nerror: bad\nlast words\nsrun: error: n0: task 0: Exited\n\nslurmstepd-n0: error: x\n"
    )
    assert jobs.last_error(log) == "bad"
    log.write_text("Traceback\nValueError: 3\nsrun: error: n0\n")
    assert jobs.last_error(log) == "ValueError: 3"


def test_a_job_that_slurm_forgot_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(on, "_SILENT_S", 0.05)
    monkeypatch.setattr(on, "_LOOK_S", 0.01)
    monkeypatch.setattr(on, "_ASK_S", 0.02)
    answers = iter([{"7": "PENDING (Resources)", "8": "RUNNING"}, None, {"7": "RUNNING"}, *[{}] * 99])
    monkeypatch.setattr(jobs, "states", lambda: next(answers))
    (tmp_path / "8.status").write_text("75 12\n")
    seen, ended = [], {}
    on.follow(tmp_path, ["7", "8"], lambda job, state: seen.append((job, state)), ended.__setitem__)
    assert seen == [("7", "PENDING (Resources)"), ("7", "RUNNING")]
    assert (ended["8"].status, ended["8"].seconds) == (75, 12)
    assert ended["7"].status == 1
    assert "job 7 ended without a word" in ended["7"].error
