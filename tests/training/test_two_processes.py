"""Two processes of four devices each, which split the parameters: one run, that may be stopped, and go on in one."""

import socket

import numpy as np
import pytest

from celltrack_jax.training import progress
from tests.training.test_loop import finish, run_toy, start_toy

STEPS, EVERY = 50, 25
TOLERANCE = {"f32": 1e-4, "f64": 1e-8}


def rows(workdir):
    """(loss, what identifies the samples of the global batch) by step."""
    history = [row for row in progress.read_history(workdir) if row["kind"] == "train"]
    return {row["step"]: (row["loss"], row["samples"]) for row in history}


def options(precision):
    return [f"every={EVERY}", *(["f64=1"] if precision == "f64" else [])]


def run_pair(workdir, precision, *more):
    """Runs two processes to their end; returns what they printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = [*options(precision), "devices=4", f"port={port}", "parameters=fsdp"]
    pair = [
        start_toy(workdir, STEPS, *both, f"process={rank}/2", *(more if rank == 1 else ()))
        for rank in range(2)
    ]
    ends = [finish(process) for process in pair]
    for status, _, err in ends:
        assert status == 0, err
    return [out for _, out, _ in ends]


@pytest.fixture(scope="module", params=[pytest.param("f32", marks=pytest.mark.slow), "f64"])
def alone(request, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    status, _, err = run_toy(workdir, STEPS, *options(request.param))
    assert status == 0, err
    return request.param, rows(workdir)


def assert_same(found, expected, precision):
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    pairs = [(found[step], expected[step]) for step in found]
    np.testing.assert_allclose(
        [ours[0] for ours, _ in pairs], [theirs[0] for _, theirs in pairs], rtol=TOLERANCE[precision]
    )
    assert all(ours[1] == theirs[1] for ours, theirs in pairs), "other global batches"


def test_two_process_training_equals_one(alone, tmp_path):
    precision, expected = alone
    first, second = run_pair(tmp_path, precision)
    assert "hosts  0@" in first
    assert "hosts" not in second
    assert_same(rows(tmp_path), expected, precision)


@pytest.mark.slow
def test_two_process_run_that_one_is_told_to_stop_goes_on_in_one(alone, tmp_path):
    precision, expected = alone
    first, _ = run_pair(tmp_path, precision, f"term_at={EVERY}")
    stopped = max(rows(tmp_path))
    assert EVERY <= stopped < STEPS
    assert f"stopped at step {stopped} of {STEPS}" in first
    status, out, err = run_toy(tmp_path, STEPS, *options(precision))
    assert status == 0, err
    assert f"resumed at step {stopped}" in out
    assert_same(rows(tmp_path), expected, precision)
