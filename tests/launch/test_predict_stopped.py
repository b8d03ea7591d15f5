"""launch.predict, told to stop or killed in the middle of a frame: the same command gives the result of an
uninterrupted run, and predicts no tile again that was kept.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.ctc_folders import write_masks
from tests.launch.test_predict import call, images

FRAMES = 3
TILES = 36
"""Of a frame, of 56 x 56 pixels."""


@pytest.fixture
def movie(tmp_path) -> Path:
    """Frames of many tiles in <tmp_path>/01."""
    write_masks(tmp_path / "01", "t", images(range(FRAMES), (112, 112)))
    return tmp_path / "01"


def content(folder: Path) -> dict[str, bytes]:
    """Returns all files of a result."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Run:
    """launch.predict with a network that waits before each batch of one tile."""

    def __init__(self, flat: Path, movie: Path, *, pause_s: float = 0.03, keep_after_s: float = 0):
        self.output = movie.parent / "01_RES"
        self.calls = movie.parent / "calls"
        self.calls.write_text("")
        flags = (f"--segmenter={flat}", f"--images={movie}", f"--output={self.output}")
        self.flags = (*flags, "--tile=56,56", "--batch=1", "--average=none")
        command = [sys.executable, "-m", "tests.launch.slow_predict"]
        command += [str(self.calls), str(pause_s), str(keep_after_s), *self.flags]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def kept(self, frame: int) -> list[Path]:
        """Lists the tiles of a frame that are kept."""
        return sorted((Path(f"{self.output}.segmentation") / "tiles" / str(frame)).glob("*.f32"))

    def masks(self) -> set[str]:
        """Lists the masks that are there."""
        return {path.name for path in Path(f"{self.output}.segmentation").glob("*.tif")}

    def end(self, number: int | None = None) -> tuple[int, str, str]:
        """Sends a signal, and returns exit status, stdout and stderr."""
        if number is not None:
            os.kill(self.process.pid, number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def wait_for_tiles(self, frame: int, count: int) -> None:
        """Waits until so many tiles of a frame are kept."""
        deadline = time.monotonic() + 60
        while len(self.kept(frame)) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_a_run_that_is_stopped_and_killed_goes_on_at_the_tile(flat, movie):
    run = Run(flat, movie)
    run.wait_for_tiles(1, 5)
    status, out, err = run.end(signal.SIGTERM)
    assert (status, err) == (75, "")
    assert re.fullmatch("stopped at frame [12]; the same command continues", out.splitlines()[-1])
    assert not run.output.exists()
    kept, stopped_at = run.kept(1), run.masks()
    assert "mask000.tif" in stopped_at
    assert not run.kept(0)  # its mask is there

    # Killed: tiles are there, one of them is broken, and one is older than its image.
    run = Run(flat, movie)
    last = 2 if "mask001.tif" in stopped_at else 1
    run.wait_for_tiles(last, min(TILES - 1, len(kept) + 5))
    run.end(signal.SIGKILL)
    assert run.masks() >= stopped_at
    assert f"mask{last:03d}.tif" not in run.masks()
    kept = run.kept(last)
    kept[0].write_bytes(kept[0].read_bytes()[:-7])
    os.utime(kept[1], (1, 1))
    missing = TILES * (FRAMES - len(run.masks())) - (len(kept) - 2)

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
