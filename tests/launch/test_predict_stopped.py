"""launch.predict, told to stop or killed in the middle of a frame: the same command gives the result of an
uninterrupted run, and predicts no tile again that was kept.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.ctc_folders import write_masks
from tests.launch.slow_predict import Run, content
from tests.launch.test_predict import call, images

FRAMES = 3
TILES = 36
"""Of a frame."""


@pytest.fixture
def movie(tmp_path) -> Path:
    """Frames of many tiles in <tmp_path>/01."""
    write_masks(tmp_path / "01", "t", images(range(FRAMES), (112, 112)))
    return tmp_path / "01"


def test_a_run_that_is_stopped_and_killed_goes_on_at_the_tile(flat, movie):
    run = Run(flat, movie)
    run.wait_for_tiles(1, 5)
    status, out, err = run.end(signal.SIGTERM)
    assert (status, err) == (75, "")
    assert re.fullmatch("stopped at frame [12]; the same command continues", out.splitlines()[-1])
    assert not run.output.exists()
    kept, masks = run.kept(1), run.masks()
    assert "mask000.tif" in masks
    assert not run.kept(0)  # its mask is there

    # Killed where tiles are kept; one of them breaks, and one becomes older than its image.
    run = Run(flat, movie)
    last = 2 if "mask001.tif" in masks else 1
    run.wait_for_tiles(last, min(TILES - 1, len(kept) + 5))
    assert run.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert run.masks() == {f"mask{frame:03d}.tif" for frame in range(last)}
    kept = run.kept(last)
    kept[0].write_bytes(kept[0].read_bytes()[:-7])
    os.utime(kept[1], (1, 1))
    missing = TILES * (FRAMES - last) - (len(kept) - 2)

    run = Run(flat, movie, pause_s=0)
    status, out, err = run.end()
    assert (status, err) == (0, "")
    assert f"continuing: {last} of 3 frames are segmented" in out
    assert len(run.calls.read_text().splitlines()) == missing
    whole = movie.parent / "02_RES"
    assert call(*run.flags, f"--output={whole}")[0] == 0
    assert content(run.output) == content(whole)
    assert sorted(path.name for path in movie.parent.iterdir()) == ["01", "01_RES", "02_RES", "calls"]


def test_ctrl_c_keeps_what_is_done(flat, movie):
    run = Run(flat, movie)
    run.wait_for_tiles(1, 2)
    assert run.end(signal.SIGINT)[::2] == (130, "error: stopped; the same command continues\n")
    assert "mask000.tif" in run.masks()
    assert len(run.kept(1)) >= 2
    assert not run.output.exists()


def test_a_ctrl_c_that_python_drops_is_raised_again():
    program = """
import gc, os, signal
from absl import flags
from launch.processes import Processes
flags.FLAGS(["program"])
with Processes() as processes:
    gc.callbacks.append(lambda phase, _: os.kill(os.getpid(), signal.SIGINT) if phase == "start" else None)
    gc.collect()
    gc.callbacks.pop()
    print("dropped")
    try:
        processes.asked()
    except KeyboardInterrupt:
        print("raised")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "dropped\nraised\n", done.stderr
