"""launch.predict on folders of single images: label maps, table, submission, what is done again, and what is refused."""

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from absl import flags
from absl.testing import flagsaver
from scipy import ndimage

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from celltrack_jax.io import label_maps, sartorius
from celltrack_jax.io.png import write_png
from celltrack_jax.ops.diameters import SizeModel
from celltrack_jax.tasks.images import ImageTask
from celltrack_jax.training import checkpoint, size_models
from configs.sartorius import cellpose, mask_rcnn
from launch import overrides, predict_images, processes
from tests.data import collections_on_disk as collection
from tests.inference.workdirs import save_untrained
from tests.launch.test_predict import call

RADII = {"a": 6.0, "b c": 9.0, "t000": 6.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The work folder of a Cellpose network that nobody trained."""
    folder = tmp_path_factory.mktemp("cellpose")
    config = cellpose.get_config("tiny")
    config.data.diameter_px = 30.0
    save_untrained(folder, config)
    checkpoint.save_facts(folder, {"median_diameter_px": 15.0})
    return folder


@pytest.fixture
def images(tmp_path) -> dict[str, np.ndarray]:
    """Discs in <tmp_path>/in, 8 and 16 bit, PNG and tif, of several sizes; returns their labels."""
    folder = tmp_path / "in"
    folder.mkdir()
    truth = {
        name: collection.discs((60 + 2 * k, 90), radius, k) for k, (name, radius) in enumerate(RADII.items())
    }
    for name, labels in truth.items():
        image = 20 + 100 * (labels > 0) + np.random.default_rng(0).integers(0, 9, labels.shape)
        if name == "a":
            write_png(folder / "a.png", np.repeat(image.astype(np.uint8)[..., None], 3, 2))
        else:
            tifffile.imwrite(folder / f"{name}.tif", (50 * image).astype(np.uint16))
    return truth


@pytest.fixture
def sees_discs(monkeypatch) -> list[tuple[int, int]]:
    """Gives all networks the sight of one that sees discs by their brightness; the shapes that it was given."""
    shapes = []

    def predictor(task: Any, model: Any, variables: Any) -> Any:
        def forward(image: np.ndarray) -> np.ndarray:
            shapes.append(image.shape[1:3])
            bright = ndimage.gaussian_filter(image[0, ..., 0], 1) > 0.5
            labels = np.zeros(bright.shape, np.int32)
            ndimage.label(bright, output=labels)
            target = task.representation.target(labels, np.ones(2))
            return np.asarray(task.representation.perfect(target))[None]

        return forward

    monkeypatch.setattr(ImageTask, "predictor", predictor)
    return shapes


class OneProcess(processes.Alone):
    """As `Processes`, which takes this whole process over: signals, and what is printed when it aborts."""

    done = False

    def finish(self) -> None:
        self.done = True

    def finished(self) -> bool:
        return self.done


@pytest.fixture(autouse=True)
def one_process(monkeypatch) -> None:
    """The tests' process stays what it is."""
    monkeypatch.setattr(processes, "Processes", OneProcess)


def predict(run: Path, tmp_path: Path, **given: Any) -> int:
    """Calls the main's part, in this process."""
    flags.FLAGS.mark_as_parsed()
    given = {"images": str(tmp_path / "in"), "output": str(tmp_path / "out")} | given
    with flagsaver.flagsaver(**given):
        return predict_images.main(run, "latest", ())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_image_gets_a_label_map_and_all_of_them_a_table_and_a_submission(
    run, images, tmp_path, sees_discs, capsys
):
    (tmp_path / "in" / "notes.txt").write_text("")
    submission = tmp_path / "made" / "submission.csv"
    assert predict(run, tmp_path, submission=str(submission)) == 0
    said = capsys.readouterr()
    assert "left out: notes.txt" in said.out
    assert f"{run}: step 0 of {cellpose.get_config('tiny').train.steps}\n" in said.out
    assert (
        "diameter of cells: 15.0 pixels, the median of the images it was trained on (step 0 has no"
        in said.out
    )
    assert said.out.splitlines()[-1] == f"{tmp_path / 'out'}: 3 images, 15 cells; {submission}"
    assert said.err == ""
    # Twice the size: cells of 15 pixels are shown at 30.
    assert {shape[1] for shape in sees_discs} == {192}

    shapes = {name: labels.shape for name, labels in images.items()}
    submitted = sartorius.read_submission(submission, shapes)
    table = rows(tmp_path / "out" / "cells.csv")
    assert list(table[0]) == ["image", "id", "area"]
    for name, truth in images.items():
        labels = label_maps.read(tmp_path / "out" / f"{name}.tif").labels
        assert labels.max() == truth.max() == 5
        assert np.mean((labels > 0) == (truth > 0)) > 0.97
        np.testing.assert_array_equal(labels > 0, submitted[name] > 0)
        areas = {int(row["id"]): int(row["area"]) for row in table if row["image"] == name}
        assert areas == {label: np.count_nonzero(labels == label) for label in range(1, 6)}


def test_a_run_that_was_stopped_goes_on_and_other_settings_start_anew(
    run, images, tmp_path, sees_discs, capsys
):
    whole = (tmp_path / "in" / "b c.tif").read_bytes()
    (tmp_path / "in" / "b c.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"b c\.tif: .*truncated"):
        predict(run, tmp_path)
    assert not (tmp_path / "out" / "cells.csv").exists()
    first = (tmp_path / "out" / "a.tif").stat().st_mtime_ns
    (tmp_path / "in" / "b c.tif").write_bytes(whole)
    assert predict(run, tmp_path) == 0
    assert "continuing: " in capsys.readouterr().out
    assert (tmp_path / "out" / "a.tif").stat().st_mtime_ns == first
    before = len(sees_discs)
    assert predict(run, tmp_path) == 0
    assert len(sees_discs) == before, "nothing is left to do"
    assert "continuing: 3 of 3" in capsys.readouterr().out
    assert predict(run, tmp_path, diameter_px=12.0) == 0
    assert len(sees_discs) == before + 3
    said = capsys.readouterr().out
    assert "continuing" not in said
    assert "12 pixels, as given" in said


def test_the_size_model_of_the_checkpoint_says_the_diameter(
    run, images, tmp_path, sees_discs, monkeypatch, capsys
):
    """A style says 12 pixels of every image; the cells of one that are found at that say 18."""
    sizes = SizeModel(np.zeros(8), np.zeros(8), float(np.log(12 / 30)), 5.0, 40.0)
    monkeypatch.setattr(size_models, "load", lambda workdir, step: sizes if step == 0 else None)
    assert predict(run, tmp_path) == 0
    assert "what the size model of step 0 says of each image" in capsys.readouterr().out
    assert diameters(tmp_path, images) == {
        "a": pytest.approx(12, rel=0.08),
        "b c": pytest.approx(18, rel=0.08),
        "t000": pytest.approx(12, rel=0.08),
    }


def diameters(tmp_path: Path, names: Iterable[str]) -> dict[str, float]:
    """What the cells of each image were taken to have, pixels."""
    return {name: label_maps.read(tmp_path / "out" / f"{name}.tif").facts["diameter_px"] for name in names}


def test_a_setting_says_where_the_diameter_is_from(run, images, tmp_path, sees_discs, monkeypatch, capsys):
    def predict_by(source: str, workdir: Path = run, **given: Any) -> int:
        monkeypatch.setattr(overrides, "given", lambda: {"evaluation.diameters": source})
        return predict(workdir, tmp_path, **given)

    with pytest.raises(
        InputError, match=r"no size model of step 0 in .*: run launch\.train's .* --diameter_px"
    ):
        predict_by("size model")
    with pytest.raises(InputError, match=r"nothing says how large the cells of .*in are: give --diameter_px"):
        predict_by("known")
    with pytest.raises(flags.ValidationError, match="exclude each other: give one"):
        predict_by("median", diameter_px=12.0)
    plain = tmp_path / "plain"
    shutil.copytree(run, plain)
    config = json.loads((plain / "config.json").read_text())
    config["data"]["diameter_px"] = 0.0
    (plain / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"evaluation\.diameters=median: .* sees images as they are"):
        predict_by("median", plain)
    sizes = SizeModel(np.zeros(8), np.zeros(8), float(np.log(12 / 30)), 5.0, 40.0)
    monkeypatch.setattr(size_models, "load", lambda workdir, step: sizes)
    for name in ("b c.tif", "t000.tif"):
        (tmp_path / "in" / name).unlink()
    assert predict_by("median") == 0
    assert "the median of the images it was trained on (as asked for)" in capsys.readouterr().out
    assert diameters(tmp_path, ["a"]) == {"a": 15.0}


def test_what_does_not_go_together_is_refused(run, images, tmp_path):
    nothing = tmp_path / "nothing"
    shutil.copytree(run, nothing)
    (nothing / "training_data.json").unlink()
    with pytest.raises(InputError, match="knows no diameter of cells: give --diameter_px"):
        predict(nothing, tmp_path)
    with pytest.raises(InputError, match="holds the images: give a folder of its own"):
        predict(run, tmp_path, output=str(tmp_path / "in"))
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "a.tif").write_text("somebody's")
    with pytest.raises(InputError, match=r"a\.tif is not a label map that this command wrote"):
        predict(run, tmp_path)


@pytest.mark.parametrize("flag", ["--linker=nearest", "--tile=64,64"])
def test_flags_of_movies_are_wrong_ones_here(flag, run, images, tmp_path):
    given = (f"--segmenter={run}", f"--images={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
    status, out, err = call(*given, flag)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{flag[: flag.index('=')]} goes with runs that segment movies" in err


def test_flags_of_images_are_wrong_ones_with_movies(flat, images, tmp_path):
    given = (f"--segmenter={flat}", f"--images={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
    status, _, err = call(*given, "--diameter_px=30")
    assert (status, err.count("\n")) == (2, 1)
    assert "--diameter_px goes with runs that segment single images" in err


@pytest.mark.slow
def test_mask_rcnn_says_scores_and_classes(images, tmp_path, capsys):
    config = mask_rcnn.get_config("tiny")
    config.data.categories = ("astro", "cort")
    settings = {"score": 0.0, "nms_iou": 0.3, "pixel": 0.3, "min_area": 0.0, "max_area": 1e6, "min_pixels": 1}
    config.detection.per_class = {"astro": settings, "cort": settings}
    config.detection.update({"min_score": 0.0, "count": 16})
    save_untrained(tmp_path / "run", config)
    assert predict(tmp_path / "run", tmp_path) == 0
    table = rows(tmp_path / "out" / "cells.csv")
    assert list(table[0]) == ["image", "id", "area", "score", "class"]
    assert {row["class"] for row in table} <= {"astro", "cort"}
    for name in images:
        own = [float(row["score"]) for row in table if row["image"] == name]
        assert own == sorted(own, reverse=True)
        assert all(0 <= score <= 1 for score in own)
    assert "more than detection.count has room for" in capsys.readouterr().out
    with pytest.raises(InputError, match="sees images as they are: leave it out"):
        predict(tmp_path / "run", tmp_path, diameter_px=20.0)


def test_all_tasks_whose_runs_segment_images_are_known():
    """The route is chosen by the task's name, so that a wrong flag is reported without waiting for jax."""
    files = Path(tasks.__file__).parent.glob("*.py")
    found = set()
    for path in files:
        module = __import__(f"celltrack_jax.tasks.{path.stem}", fromlist=["build"])
        made = getattr(getattr(module, "build", None), "__annotations__", {}).get("return")
        if hasattr(getattr(module, str(made), None), "image_reader"):
            found.add(path.stem)
    assert found == set(predict_images.TASKS)
