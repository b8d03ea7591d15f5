"""The training main: its flags, and a whole small run through it."""

import json
import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests import mains, tiny_store

TINY = "configs/ctc/segment.py:tiny"


def train(*arguments, **environment):
    return mains.call("train", *arguments, environment={**os.environ, **environment})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store.make(tmp_path_factory.mktemp("movie"))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "--config=<file>[:argument] is needed"),
        (["--config=configs/ctc/nope.py:sim"], 2, "no file configs/ctc/nope.py: give"),
        (["--config=configs/ctc/segment.py:sims"], 2, "not 'sims'"),
        ([f"--config={TINY}", "--config.train.stps=3"], 2, "'stps', did you mean 'steps'?"),
        ([f"--config={TINY}"], 2, "--workdir=<folder> is needed"),
        ([f"--config={TINY}", "--workdir={tmp}"], 1, "give --config.data.store=<folder"),
        ([f"--config={TINY}", "--workdir={tmp}", "--config.data.store={tmp}"], 1, "launch.prepare"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, arguments, status, message):
    done = train(*(each.format(tmp=tmp_path / "absent") for each in arguments))
    assert done.returncode == status, done.stderr
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "compiled" not in done.stdout, "said before any work is done"


def test_describe_needs_no_data():
    done = train(f"--config={TINY}", "--describe")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^parameters +[\d,]+$", done.stdout, re.MULTILINE)
    assert re.search(r"^step: [\d.]+ GFLOP", done.stdout, re.MULTILINE)


def test_every_program_of_a_run_with_evaluations_compiles_once(store, tmp_path):
    """JAX names each program that it compiles; a new shape or dtype would compile the same name again."""
    run = [f"--config={TINY}", f"--workdir={tmp_path}", f"--config.data.store={store}"]
    done = train(*run, JAX_LOG_COMPILES="1")
    assert done.returncode == 0, done.stderr
    compiled = re.findall(r"Finished XLA compilation of jit\((\w+)\)", done.stderr)
    for program in ("step", "_predict"):
        assert compiled.count(program) == 1, compiled
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [10, 20]
    assert {row["step"] for row in rows if row["kind"] == "train"} == {4, 9, 10, 14, 19, 20}
    *_, last = done.stdout.splitlines()
    assert re.fullmatch(rf"done: {tmp_path}, step 20, best step (10|20) \(\w+ [\d.e-]+\)", last)
    again = train(*run)
    assert again.stdout.splitlines()[-1] == last.replace("done", "done already", 1)
    assert "compil" not in again.stdout


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.mark.slow
def test_two_process_launch_equals_one(store, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = [
        f"--config={TINY}", f"--config.data.store={store}",
        "--config.train.steps=10", "--config.train.log_every=1",
    ]  # fmt: skip
    alone = train(*run, f"--workdir={tmp_path / 'one'}")
    assert alone.returncode == 0, alone.stderr
    pair = [f"--workdir={tmp_path / 'two'}", f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda rank: train(*run, *pair, f"--process={rank}"), range(2)):
            assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)


def test_flags_of_a_cluster_that_cannot_be_are_refused():
    done = train(
        f"--config={TINY}", "--describe", "--coordinator=127.0.0.1:9", "--processes=2", "--process=2"
    )
    assert done.returncode == 1
    assert "--process=2 is none of --processes=2" in done.stderr
