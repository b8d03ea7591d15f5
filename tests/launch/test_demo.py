"""The main job: a movie in, scored tracks out, through the real mains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from celltrack_jax.data import synthetic
from celltrack_jax.io import ctc
from tests.conftest import QUICKLY_COMPILED

ROOT = Path(__file__).parents[2]
SPEC = synthetic.SyntheticSpec(frames=16, shape=(128, 128), cells=8, background_photons=40.0, contrast=3.0)


def demo(*arguments):
    """Compiled as users have it, not as the other tests."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    return subprocess.run(
        [sys.executable, "-m", "launch.demo", *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": " ".join(flag for flag in flags if flag not in QUICKLY_COMPILED)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_data_set_is_trained_on_tracked_and_scored(tmp_path):
    synthetic.write_ctc(tmp_path / "cells", "01", synthetic.make_movie(SPEC, seed=5))
    arguments = [
        f"--data={tmp_path / 'cells'}",
        f"--output={tmp_path / 'demo'}",
        "--config=configs/ctc/segment.py:tiny",
        "--steps=150",
    ]
    done = demo(*arguments)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    assert scores["valid"]
    # Measured 2026-11: an untrained network scores 0 here.
    assert scores["SEG"] > 0.5
    assert scores["TRA"] > 0.7
    masks, lineage = ctc.read_result(tmp_path / "demo" / "cells" / "01_RES")
    assert sorted(masks) == [12, 13, 14, 15]
    assert lineage is not None
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "scored on frames 12 to 15" in page
    assert (tmp_path / "demo" / "cells" / "01_RES" / "tracks.geff").is_dir()

    again = demo(*arguments)
    assert again.returncode == 0, again.stderr
    assert "step 150, best step" in again.stdout
    assert json.loads((tmp_path / "demo" / "scores.json").read_text()) == scores


@pytest.mark.parametrize("content", ["nothing", "images without truth"])
def test_a_folder_without_truth_is_refused(tmp_path, content):
    if content != "nothing":
        movie = synthetic.make_movie(SPEC, seed=5)
        synthetic.write_ctc(tmp_path / "all", "01", movie)
        (tmp_path / "cells").mkdir()
        (tmp_path / "all" / "01").rename(tmp_path / "cells" / "01")
    else:
        (tmp_path / "cells").mkdir()
    done = demo(f"--data={tmp_path / 'cells'}", f"--output={tmp_path / 'demo'}")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "cells" in done.stderr
