"""launch.predict with networks that see several frames at a time: blocks of frames, shared, stopped and refused."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from celltrack_jax.io import ctc
from configs.musc import segment
from tests import tiny_store
from tests.ctc_folders import write_masks
from tests.ctc_validators import validate_result
from tests.inference.workdirs import save_untrained
from tests.launch.slow_predict import Run, content
from tests.launch.test_predict import call, images
from tests.launch.test_predict_hosts import ranks

FRAMES = 7


def workdir(folder: Path, **clips) -> Path:
    """The work folder of an untrained network over clips of four frames, three of which are kept."""
    config = segment.get_config("tiny")
    config.clips.update(clips)
    save_untrained(folder, config)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Its work folder."""
    return workdir(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def movie(tmp_path) -> Path:
    """Frames in <tmp_path>/01: blocks of 3, 3 and 1."""
    write_masks(tmp_path / "01", "t", images(range(FRAMES), (112, 112)))
    return tmp_path / "01"


@pytest.mark.slow
def test_a_stopped_run_and_two_processes_give_what_one_does(clips, movie):
    run = Run(clips, movie)
    run.wait_for_tiles(3, 2)
    status, out, err = run.end(signal.SIGTERM)
    assert (status, err) == (75, "")
    assert out.splitlines()[-1].startswith("stopped at frame ")
    assert {"mask000.tif", "mask001.tif", "mask002.tif"} <= run.masks()

    flags = (*run.flags, f"--output={run.output}")
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda own: call(*flags, *own), ranks(2)))
    assert [(status, err) for status, _, err in ends] == [(0, "")] * 2
    assert "continuing: " in ends[0][1]
    alone = movie.parent / "02_RES"
    assert call(*run.flags, f"--output={alone}")[0] == 0
    assert content(run.output) == content(alone)
    assert validate_result(alone, dict.fromkeys(range(FRAMES)), (112, 112)) == []


@pytest.mark.slow
def test_gaps_and_a_movie_of_one_frame(clips, movie):
    (movie / "t003.tif").unlink()
    flags = (f"--segmenter={clips}", f"--images={movie}", f"--output={movie}_RES")
    status, _, err = call(*flags)
    assert (status, err.count("\n")) == (1, 1)
    assert "lacks the frames 3" in err
    status, out, err = call(*flags, "--allow_gaps")
    assert (status, err) == (0, "")
    assert f"note: {movie} lacks frames: the network, which sees several at a time, takes those" in out
    files, _ = ctc.read_result(Path(f"{movie}_RES"))
    assert list(files) == [0, 1, 2, 4, 5, 6]
    status, out, err = call(*flags, "--frames=1:2")
    assert (status, err) == (0, "")
    assert "1 frames" in out


@pytest.mark.slow
def test_a_network_of_whole_frames_takes_no_tiles(tmp_path, movie):
    config = segment.get_config("tiny")
    config.data.whole_frames = True
    config.inference.tile = (8, 8)
    save_untrained(tmp_path / "run", config)
    flags = (f"--segmenter={tmp_path / 'run'}", f"--images={movie}", f"--output={movie}_RES", "--frames=0:2")
    status, _, err = call(*flags, "--tile=64,64")
    assert (status, err.count("\n")) == (1, 1)
    assert (
        "--tile: this network was trained on whole frames resized to 32x32, and takes no parts of one" in err
    )
    assert call(*flags)[::2] == (0, "")


def test_what_the_network_was_not_trained_on_is_refused(clips, movie, tmp_path):
    write_masks(tmp_path / "deep", "t", images(range(2), (4, 40, 40)))
    output = tmp_path / "03_RES"
    status, _, err = call(f"--segmenter={clips}", f"--images={tmp_path / 'deep'}", f"--output={output}")
    assert (status, err.count("\n")) == (1, 1)
    assert "deep is 3D (4 planes) and the model 2D: use a model trained on such images" in err

    colours = np.zeros((112, 112, 3), np.uint8)
    colours[5, 5, 1] = 9
    write_masks(movie, "t", {4: colours}, photometric="rgb")
    status, _, err = call(f"--segmenter={clips}", f"--images={movie}", f"--output={output}")
    assert (status, err.count("\n")) == (1, 1)
    assert "t004.tif" in err
    assert "has colours: red, green and blue differ by up to 9 counts; convert it to grey values" in err
    assert "frame 4" in err


def test_train_predict_and_evaluate(tmp_path):
    store = tiny_store.make(tmp_path)
    run, images_of = tmp_path / "run", tmp_path / "ctc" / "01"
    flags = ("--config=configs/musc/segment.py:tiny", f"--workdir={run}", f"--config.data.store={store}")
    flags = (
        *flags,
        "--config.train.steps=2",
        "--config.train.evaluate_every=2",
        "--config.train.save_every=2",
    )
    status, _, err = call(*flags, main="train")
    assert status == 0, err
    result = tmp_path / "01_RES"
    assert call(f"--segmenter={run}", f"--images={images_of}", f"--output={result}")[::2] == (0, "")
    scores = tmp_path / "scores.json"
    truth = (f"--truth={tmp_path / 'ctc' / '01_GT'}", f"--result={result}", f"--json={scores}")
    assert call(*truth, main="evaluate")[0] == 0
    assert json.loads(scores.read_text())["valid"] is True
