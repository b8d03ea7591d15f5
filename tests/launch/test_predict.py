"""launch.predict through the real main, with networks that nobody trained: results, messages and exit status."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from celltrack_jax import tasks
from celltrack_jax.data import normalise
from celltrack_jax.io import ctc, files
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.training import checkpoint
from configs.ctc import segment
from tests import geff_graphs, mains
from tests.conftest import ROOT
from tests.ctc_folders import write_masks
from tests.ctc_validators import validate_result
from tests.devices import on_devices
from tests.inference.toys import whole
from tests.inference.workdirs import save_untrained, untrained


def call(*flags: str, devices: int = 1, main: str = "predict") -> tuple[int, str, str]:
    """Returns exit status, stdout and stderr of a run on so many devices."""
    done = mains.call(main, *flags, environment=on_devices(devices))
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def deep(tmp_path_factory) -> Path:
    """A 3D work folder."""
    folder = tmp_path_factory.mktemp("deep")
    untrained(folder, "tiny3d")
    return folder


def images(frames, shape: tuple[int, ...] = (70, 90)) -> dict[int, np.ndarray]:
    """Bright discs that drift over a noisy background."""
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"))
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 1, (6, len(shape))) * shape
    result = {}
    for place, frame in enumerate(frames):
        distance = [
            np.linalg.norm(grid - (centre + place)[(...,) + (None,) * len(shape)], axis=0)
            for centre in centres
        ]
        image = 100 + 300 * (np.min(distance, axis=0) < 8) + rng.normal(0, 20, shape)
        result[frame] = image.clip(0, None).astype(np.uint16)
    return result


def by_frame(workdir: Path, image: np.ndarray) -> np.ndarray:
    """Labels of one frame (*S) by the network applied to it as a whole, without tiles, threads and flips."""
    task = tasks.build(checkpoint.load_config(workdir))
    model = FunctionalModel(task.model)
    _, variables = checkpoint.restore_variables(workdir, "latest", model)
    scaled = normalise.normalise(image[None], normalise.percentiles(image[None]))
    prediction = whole(task.predictor(model, variables), np.moveaxis(scaled, 0, -1), task.stride)
    return task.representation.decode(prediction, np.ones(task.ndim))


def same_cells(one: np.ndarray, two: np.ndarray) -> None:
    """Asserts that two masks show the same cells, under any ids."""
    np.testing.assert_array_equal(one > 0, two > 0)
    pairs = np.unique(np.stack([one.ravel(), two.ravel()]), axis=1)
    assert len(pairs[0]) == len(np.unique(one)) == len(np.unique(two))


def test_a_folder_becomes_a_result_and_an_interrupted_run_goes_on(flat, tmp_path):
    frames = images(range(3, 9))
    write_masks(tmp_path / "01", "t", frames, 4)
    whole_file = (tmp_path / "01" / "t0007.tif").read_bytes()
    (tmp_path / "01" / "t0007.tif").write_bytes(whole_file[:-50])
    output = tmp_path / "01_RES"
    flags = (f"--segmenter={flat}", f"--images={tmp_path / '01'}", f"--output={output}", "--tile=56,56")
    flags = (*flags, "--average=none", "--nofill_gaps")

    status, _, err = call(*flags)
    assert (status, err.count("\n")) == (1, 1)
    assert "t0007.tif (frame 7)" in err
    assert not output.exists()

    (tmp_path / "01" / "t0007.tif").write_bytes(whole_file)
    status, out, err = call(*flags)
    assert (status, err) == (0, "")
    assert "continuing: " in out
    assert out.splitlines()[-1].startswith(f"{output}: 6 frames, ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["01", "01_RES"]
    assert validate_result(output, frames, (70, 90)) == []
    files, _ = ctc.read_result(output)
    assert [path.name for path in files.values()] == [f"mask{frame:04d}.tif" for frame in frames]
    assert any(ctc.read_image(path).any() for path in files.values())
    for frame, path in files.items():
        same_cells(ctc.read_image(path), by_frame(flat, frames[frame]))


@pytest.mark.slow
def test_masks_of_another_tiling_are_not_taken_over(tmp_path):
    # Group norm takes statistics of a tile.
    untrained(tmp_path / "run", norm="group")
    frames = images(range(6))
    write_masks(tmp_path / "01", "t", frames)
    last = tmp_path / "01" / "t005.tif"
    complete = last.read_bytes()
    last.write_bytes(complete[:-50])
    flags = (f"--segmenter={tmp_path / 'run'}", f"--images={tmp_path / '01'}", "--average=none")
    flags = (*flags, "--nofill_gaps")
    assert call(*flags, f"--output={tmp_path / '01_RES'}", "--tile=56,56")[0] == 1
    assert list((tmp_path / "01_RES.segmentation").glob("mask*.tif"))

    last.write_bytes(complete)
    status, out, err = call(*flags, f"--output={tmp_path / '01_RES'}", "--tile=200,200")
    assert (status, err) == (0, "")
    assert "continuing" not in out
    for frame, path in ctc.read_result(tmp_path / "01_RES")[0].items():
        same_cells(ctc.read_image(path), by_frame(tmp_path / "run", frames[frame]))


@pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler:DeprecationWarning")
def test_a_volume_in_ome_zarr_on_four_devices_becomes_a_result(deep, tmp_path):
    from ome_zarr.writer import write_image

    frames = images(range(2), (14, 40, 31))
    volume = np.stack(list(frames.values()))[:, None]
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    write_image(volume, group, axes="tczyx", scale_factors=())
    output = tmp_path / "01_RES"
    flags = (f"--segmenter={deep}", f"--images={tmp_path / 'a.zarr'}", f"--output={output}")
    # Two pairs of devices; each pair shares its tiles.
    flags = (*flags, "--average=none", "--tile=4,24,24", "--batch=3", "--space=2")
    status, out, err = call(*flags, devices=4)
    assert (status, err) == (0, "")
    assert out.count("does not say its voxel size: taken as cubes") == 1
    assert validate_result(output, frames, (14, 40, 31)) == []
    for frame, path in ctc.read_result(output)[0].items():
        same_cells(ctc.read_image(path), by_frame(deep, frames[frame]))
    assert set(geff_graphs.read(output / "tracks.geff").frame) <= {0, 1}

    # Tracked again at a known voxel size, and scored against what predict made of it.
    again = (f"--masks={output}", f"--output={tmp_path / '02_RES'}", "--spacing=1,1,1", "--min_length=1")
    assert call(*again, main="track")[::2] == (0, "")
    truth = tmp_path / "01_GT" / "TRA"
    truth.mkdir(parents=True)
    for path in output.glob("mask*.tif"):
        shutil.copy(path, truth / path.name.replace("mask", "man_track"))
    shutil.copy(output / "res_track.txt", truth / "man_track.txt")
    scored = (
        f"--truth={truth.parent}",
        f"--result={tmp_path / '02_RES'}",
        f"--json={tmp_path / 'scores.json'}",
    )
    assert call(*scored, main="evaluate")[0] == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["valid"], scores["TRA"], scores["DET"]) == (True, 1, 1)


def test_a_tile_that_devices_share_is_predicted_as_by_one(deep):
    script = f"""
from pathlib import Path
import jax, numpy as np
from launch import segmenter
image = np.random.default_rng(0).random((1, 16, 24, 28, 1), np.float32)
alone, shared = (segmenter.restore(Path({str(deep)!r}), "latest", space) for space in (1, 8))
one = alone.apply(jax.device_put(np.repeat(image, 8, 0), alone.sharding))
eight = shared.apply(jax.device_put(image, shared.sharding))
assert len({{shard.device for shard in eight.addressable_shards}}) == 8
assert {{shard.data.shape[:3] for shard in eight.addressable_shards}} == {{(1, 2, 24)}}
np.testing.assert_allclose(np.asarray(eight)[0], np.asarray(one)[0], rtol=0, atol=1e-5)
print(np.ptp(one))
try:
    segmenter.restore(Path({str(deep)!r}), "latest", 3)
except segmenter.InputError as error:
    print(error)
"""
    environment = on_devices(8)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, spread, refused = done.stdout.splitlines()
    assert float(spread) > 0.01  # the network says something
    assert refused == "--space=3: 8 devices of this process do not divide into groups of 3; choose a divisor"


def test_a_single_frame_without_cells(flat, tmp_path):
    write_masks(tmp_path / "01", "t", {0: np.zeros((9, 11), np.uint8)})
    output = tmp_path / "01_RES"
    # An untrained network calls a constant image one thing or nothing; the smallest cell has more pixels than that.
    status, out, err = call(f"--segmenter={flat}", f"--images={tmp_path / '01'}", f"--output={output}")
    assert (status, err) == (0, "note: no cell was found: was the network trained on images like these?\n")
    assert "1 frames" in out
    assert len(ctc.read_result(output)[0]) == 1


@pytest.fixture
def movie(tmp_path) -> Path:
    """Three frames in <tmp_path>/01."""
    write_masks(tmp_path / "01", "t", images(range(3), (20, 30)))
    return tmp_path / "01"


def test_a_frame_of_another_type_is_named(flat, movie):
    write_masks(movie, "t", {2: np.zeros((20, 30), np.uint8)})
    status, _, err = call(f"--segmenter={flat}", f"--images={movie}", f"--output={movie}_RES")
    assert (status, err.count("\n")) == (1, 1)
    assert "t002.tif (frame 2) is uint8 (20, 30), t000.tif is uint16 (20, 30)" in err


def test_a_model_of_another_dimension_is_refused(deep, movie):
    status, _, err = call(f"--segmenter={deep}", f"--images={movie}", f"--output={movie}_RES")
    assert (status, err) == (
        1,
        f"error: {movie} is 2D and the model 3D: use a model trained on such images\n",
    )


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--images={}/absent",), 1, "absent is not a folder"),
        (("--frames=5:",), 1, "has no frames in '5:': it has 0-2"),
        (("--output={}/01",), 1, "holds the input"),
        (("--segmenter={}/absent",), 1, "absent/config.json does not exist"),
        (("--checkpoint=77",), 1, "no checkpoint '77'"),
        (("--tile=7",), 1, "--tile=7 is not 2 positive numbers"),
        (("--linker=magic",), 1, "no linker 'magic': give --linker=hungarian"),
        (("--spacing=1",), 1, "--spacing=1 is not two or three positive numbers"),
        (("--average=some",), 2, "--average"),
    ],
)
def test_wrong_flags_have_their_status(flat, movie, flags, status, message):
    given = {"segmenter": str(flat), "images": str(movie), "output": f"{movie}_RES"}
    given |= dict(flag.format(movie.parent).removeprefix("--").split("=", 1) for flag in flags)
    result = call(*(f"--{name}={value}" for name, value in given.items()))
    assert result[0] == status
    assert result[2].count("\n") == 1
    assert message in result[2]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "inference",
            {"average": "some"},
            "config.inference.average is 'some': give --average=<none|flips|all>",
        ),
        ("inference", {"average": None}, "config.inference ({}/run/config.json): missing ['average']"),
        ("tracking", {"max_gap": None}, "config.tracking ({}/run/config.json) has division_distance, "),
        (
            "tracking",
            {"overlap": 1},
            "the linker takes division_distance, max_daughter_ratio, max_distance, max_gap",
        ),
    ],
)
def test_a_config_with_other_settings_is_refused(flat, movie, part, change, message):
    workdir = movie.parent / "run"
    shutil.copytree(flat, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config[part] = {name: value for name, value in (config[part] | change).items() if value is not None}
    (workdir / "config.json").write_text(json.dumps(config))
    status, out, err = call(f"--segmenter={workdir}", f"--images={movie}", f"--output={movie}_RES")
    # Some settings are looked at once the run is open.
    assert (status, out.partition(": step")[0], err.count("\n")) in [(1, "", 1), (1, str(workdir), 1)]
    assert message.format(movie.parent) in err
    assert not (movie.parent / "01_RES.segmentation").exists()


def test_a_task_that_does_not_segment_is_refused(flat):
    assert isinstance(tasks.build(checkpoint.load_config(flat)), tasks.SegmentationTask)
    # A main of its own, because flags of all mains would meet in this process.
    script = (
        "from pathlib import Path; from celltrack_jax import tasks; from launch import segmenter; "
        f"tasks.build = lambda config: object(); segmenter.restore(Path({str(flat)!r}), 'best', 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert f"InputError: {flat} is a run of task 'dense', which does not segment" in done.stderr


def test_a_network_for_cells_of_one_diameter_is_refused(tmp_path, movie):
    """Applied to images as they are, it would find other cells than it was judged by."""
    config = segment.get_config("tiny")
    config.data.update({"diameter_px": 30.0})
    save_untrained(tmp_path / "run", config)
    status, _, err = call(f"--segmenter={tmp_path / 'run'}", f"--images={movie}", f"--output={movie}_RES")
    assert (status, err.count("\n")) == (1, 1)
    assert "learned from cells of 30.0 pixels" in err


def test_a_gap_in_the_frame_numbers_is_refused(flat, movie):
    (movie / "t001.tif").unlink()
    status, _, err = call(f"--segmenter={flat}", f"--images={movie}", f"--output={movie}_RES")
    assert (status, err.count("\n")) == (1, 1)
    assert "lacks the frames 1, so tracks would break there" in err


def test_a_work_folder_without_checkpoint_is_refused(movie, tmp_path):
    (tmp_path / "run").mkdir()
    checkpoint.save_config(tmp_path / "run", untrained(tmp_path / "other"))
    status, _, err = call(f"--segmenter={tmp_path / 'run'}", f"--images={movie}", f"--output={movie}_RES")
    assert (status, err.count("\n")) == (1, 1)
    assert "holds no checkpoints" in err


def test_a_second_call_does_not_mix_with_the_first(flat, movie):
    result = Path(f"{movie}_RES")
    with files.locked(result.with_name(f"{result.name}.segmentation"), "launch.predict"):
        status, _, err = call(f"--segmenter={flat}", f"--images={movie}", f"--output={result}")
    assert (status, err.count("\n")) == (1, 1)
    assert f"another launch.predict is writing {result}.segmentation (process {os.getpid()} on " in err
    assert call(f"--segmenter={flat}", f"--images={movie}", f"--output={result}")[0] == 0
    assert not Path(f"{result}.segmentation").exists()
