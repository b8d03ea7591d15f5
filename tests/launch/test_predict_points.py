"""launch.predict with a network that finds points: where they are between pixels, and linkers that take their steps."""

import csv
from pathlib import Path

import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.data import normalise
from celltrack_jax.io import ctc
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.training import checkpoint
from configs.hela import centroids
from tests.ctc_folders import write_masks
from tests.ctc_validators import validate_result
from tests.inference.toys import whole
from tests.inference.workdirs import save_untrained
from tests.launch.test_predict import call, images

FRAMES = 4


@pytest.fixture(scope="module")
def pointed(tmp_path_factory) -> Path:
    """The work folder of a network that finds points anywhere, and their steps."""
    config = centroids.get_config("tiny")
    config.model.norm = "none"
    config.representation.step_weight = 0.1
    config.representation.threshold, config.representation.min_distance = 0.0, 12.0
    folder = tmp_path_factory.mktemp("pointed")
    save_untrained(folder, config)
    return folder


@pytest.fixture
def movie(tmp_path) -> Path:
    """Frames in <tmp_path>/01."""
    write_masks(tmp_path / "01", "t", images(range(FRAMES), (60, 70)))
    return tmp_path / "01"


def rows_of(result: Path) -> list[dict[str, str]]:
    """The rows of points.csv."""
    with (result / "points.csv").open() as file:
        return list(csv.DictReader(file))


def found_by(workdir: Path, image: np.ndarray):
    """The points of a frame by the network applied to it as a whole."""
    task = tasks.build(checkpoint.load_config(workdir))
    model = FunctionalModel(task.model)
    _, variables = checkpoint.restore_variables(workdir, "latest", model)
    scaled = normalise.normalise(image[None], normalise.percentiles(image[None]))
    prediction = whole(task.predictor(model, variables), np.moveaxis(scaled, 0, -1), task.stride)
    return task.representation.points(prediction, np.ones(2))


def test_points_reach_the_result_between_pixels_and_a_stopped_run_keeps_them(pointed, movie):
    last = movie / f"t{FRAMES - 1:03d}.tif"
    content = last.read_bytes()
    last.write_bytes(content[:-50])
    flags = (f"--segmenter={pointed}", f"--images={movie}", "--spacing=0.5,0.5", "--linker=steps")
    output = movie.parent / "01_RES"
    assert call(*flags, f"--output={output}")[0] == 1
    kept = Path(f"{output}.segmentation")
    masks = sorted(path.stem.removeprefix("mask") for path in kept.glob("mask*.tif"))
    assert masks
    assert set(masks) <= {path.stem.removeprefix("points") for path in kept.glob("points*.npz")}
    # A mask whose points are gone is made again.
    (kept / f"points{masks[0]}.npz").unlink()

    last.write_bytes(content)
    status, out, err = call(*flags, f"--output={output}")
    assert (status, err) == (0, "")
    assert "continuing: " in out or len(masks) == 1
    assert validate_result(output, dict.fromkeys(range(FRAMES)), (60, 70)) == []
    rows = rows_of(output)
    for frame, image in images(range(FRAMES), (60, 70)).items():
        expected = found_by(pointed, image)
        of_frame = [row for row in rows if int(row["frame"]) == frame]
        assert len(of_frame) == len(expected.heat) > 3
        for column, values in {
            "y_voxel": expected.position[:, 0],
            "x_voxel": expected.position[:, 1],
            "x_um": expected.position[:, 1] / 2,
            "heat": expected.heat,
            "y_step_voxel": expected.step[:, 0],
            "x_step_um": expected.step[:, 1] / 2,
        }.items():
            np.testing.assert_allclose([float(row[column]) for row in of_frame], values, rtol=0, atol=1e-3)
    assert any(not float(row["y_voxel"]).is_integer() for row in rows)

    whole_run = movie.parent / "02_RES"
    assert call(*flags, f"--output={whole_run}")[0] == 0
    assert (whole_run / "points.csv").read_bytes() == (output / "points.csv").read_bytes()
    assert (whole_run / "res_track.txt").read_bytes() == (output / "res_track.txt").read_bytes()


@pytest.mark.slow
def test_the_nearest_linker_has_neither_gaps_nor_divisions(pointed, movie):
    output = movie.parent / "01_RES"
    flags = (f"--segmenter={pointed}", f"--images={movie}", f"--output={output}", "--linker=nearest")
    status, _, err = call(*flags)
    assert (status, err) == (0, "")
    _, lineage = ctc.read_result(output)
    assert lineage is not None
    assert not lineage.parent.any()
    with (output / "tracks.csv").open() as file:
        assert {row["filled"] for row in csv.DictReader(file)} == {"0"}
    again = (f"--masks={output}", f"--output={movie.parent / '02_RES'}")
    assert call(*again, "--linker=nearest", main="track")[::2] == (0, "")
    status, _, err = call(*again, "--linker=steps", main="track")
    assert (status, err.count("\n")) == (1, 1)
    assert "--linker=steps links from where each cell's predicted step leads; masks have none" in err
    status, _, err = call(*again, "--linker=nearest", "--max_gap=2", main="track")
    assert status == 2
    assert "--max_gap goes with --linker=hungarian" in err


def test_steps_that_nothing_predicts_are_refused(flat, movie):
    flags = (f"--images={movie}", f"--output={movie}_RES", "--linker=steps")
    status, _, err = call(f"--segmenter={flat}", *flags)
    assert (status, err.count("\n")) == (1, 1)
    assert f"{flat} predicts none: take a run with representation.step_weight > 0" in err
    assert not Path(f"{movie}_RES.segmentation").exists()


def test_vectors_are_not_averaged_over_flips(pointed, movie):
    flags = (f"--segmenter={pointed}", f"--images={movie}", f"--output={movie}_RES")
    status, _, err = call(*flags, "--average=flips")
    assert (status, err.count("\n")) == (1, 1)
    assert "--average=flips: this network predicts offsets or steps" in err
    assert "give --average=none" in err
