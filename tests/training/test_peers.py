"""Of two processes one ends in a bad way: the other one says which, and does not wait for it for ever."""

import re
import socket
import subprocess
import sys
import time

import pytest

from celltrack_jax.training import checkpoint
from tests.training.test_loop import finish, start_toy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pair(workdir, bad: int, fault: str):
    """Starts two processes of which one has a fault in the evaluation of step 6; returns it and the other one."""
    port = f"port={free_port()}"
    processes = [
        start_toy(workdir, 9, port, f"process={rank}/2", *([fault] if rank == bad else []))
        for rank in range(2)
    ]
    return processes[bad], processes[1 - bad]


@pytest.mark.parametrize("dead", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_two_process_run_of_which_one_is_killed_ends_with_its_name(tmp_path, dead):
    victim, survivor = pair(tmp_path, dead, "kill_at=6")
    assert finish(victim)[0] == -9
    start = time.monotonic()
    status, _, err = finish(survivor)
    assert time.monotonic() - start < 60
    assert status == 1, err
    assert err.strip().splitlines()[-1].startswith(f"error: process {dead} on "), err
    assert "is gone" in err.strip().splitlines()[-1]
    assert checkpoint.checkpoint_steps(tmp_path) == [3]


@pytest.mark.parametrize("bad", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_two_process_run_of_which_one_fails_ends_with_its_reason(tmp_path, bad):
    faulty, other = pair(tmp_path, bad, "fail_at=6")
    assert finish(faulty)[0] == 1
    start = time.monotonic()
    status, _, err = finish(other)
    assert time.monotonic() - start < 30
    assert status == 1, err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(rf"error: process {bad} on \S+ ended: frame 7 is truncated", line)


def test_a_process_whose_coordinator_does_not_answer_says_where_it_looked():
    program = (
        "from celltrack_jax.training import hosts; hosts.TIMEOUT_S = 3;"
        f"hosts.join(hosts.from_flags('127.0.0.1:{free_port()}', 2, 1))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "process 1 of 2 (--coordinator) found no run at 127.0.0.1:" in done.stderr
