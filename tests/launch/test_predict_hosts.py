"""launch.predict as several processes that share a folder."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ctc_folders import write_masks
from tests.launch.slow_predict import Run, content
from tests.launch.test_predict import call, images


@pytest.fixture
def movie(tmp_path) -> Path:
    """Two frames of 36 tiles in <tmp_path>/01."""
    write_masks(tmp_path / "01", "t", images(range(2), (112, 112)))
    return tmp_path / "01"


def ranks(count: int) -> list[tuple[str, ...]]:
    """Returns the flags of each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = (f"--coordinator=127.0.0.1:{port}", f"--processes={count}")
    return [(*shared, f"--process={rank}") for rank in range(count)]


def said(out: str) -> list[str]:
    """Returns the lines that are not those of the library that connects CPUs."""
    return [line for line in out.splitlines() if not line.startswith("[Gloo]")]


@pytest.mark.slow
def test_processes_stop_together_and_any_number_of_them_gives_the_same_result(flat, movie):
    runs = [Run(flat, movie, *flags, pause_s=0.3) for flags in ranks(2)]
    for rank, run in enumerate(runs):
        run.wait_for_tiles(rank, 3)
    ends = [runs[1].end(signal.SIGTERM), runs[0].end()]
    assert [(status, err) for status, _, err in ends] == [(75, ""), (75, "")]
    assert said(ends[1][1]) == ["stopped at frame 0; the same command continues"]
    assert said(ends[0][1]) == []
    assert len(runs[0].kept(0)) >= 3
    assert len(runs[0].kept(1)) >= 3

    # The third has no frame of its own.
    flags = (*runs[0].flags, f"--output={runs[0].output}")
    with ThreadPoolExecutor(3) as pool:
        ends = list(pool.map(lambda own: call(*flags, *own), ranks(3)))
    assert [(status, err) for status, _, err in ends] == [(0, "")] * 3
    assert [len(said(out)) for _, out, _ in ends] == [2, 0, 0]
    assert said(ends[0][1])[0].startswith("segmented 2 frames")
    whole = movie.parent / "02_RES"
    assert call(*runs[0].flags, f"--output={whole}")[0] == 0
    assert content(runs[0].output) == content(whole)
    assert sorted(path.name for path in movie.parent.iterdir()) == ["01", "01_RES", "02_RES", "calls"]


def test_a_process_that_fails_ends_the_others_with_its_message(flat, movie):
    bad = movie / "t001.tif"
    bad.write_bytes(bad.read_bytes()[:-50])
    start = time.monotonic()
    runs = [Run(flat, movie, *flags, pause_s=1) for flags in ranks(2)]
    (status, _, err), (status_of_bad, _, err_of_bad) = runs[0].end(), runs[1].end()
    assert (status, status_of_bad) == (1, 1)
    assert err_of_bad.startswith("error: cannot read ")
    assert "process 1 on " in err
    assert "t001.tif (frame 1)" in err
    assert time.monotonic() - start < 60
    assert not runs[0].output.exists()
