"""launch.track through the real main: results, messages and exit status."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from celltrack_jax.io import ctc, link_scores
from configs.ctc import link
from tests import geff_graphs, mains
from tests.ctc_folders import write_masks
from tests.ctc_validators import validate_result
from tests.inference.workdirs import save_untrained, untrained


def call(*flags: str) -> tuple[int, str, str]:
    """Returns exit status, stdout and stderr."""
    done = mains.call("track", *flags)
    return done.returncode, done.stdout, done.stderr


def cells(frames, missing: int = -1) -> dict[int, np.ndarray]:
    """Two cells with ids that change from frame to frame; the second one is missed once."""
    masks = {}
    for place, frame in enumerate(frames):
        masks[frame] = np.zeros((20, 30), np.uint16)
        masks[frame][2:7, place : place + 6] = 10 + place
        if frame != missing:
            masks[frame][12:18, 20:26] = 50 - place
    return masks


def test_cells_keep_one_label_and_a_missed_one_is_drawn(tmp_path):
    write_masks(tmp_path / "masks", "mask", cells(range(997, 1002), missing=999), 4)
    output = tmp_path / "01_RES"
    status, out, err = call(f"--masks={tmp_path / 'masks'}", f"--output={output}")
    assert (status, err) == (0, "")
    assert out == f"{output}: 5 frames, 10 cells, 2 tracks, 0 divisions\n"
    files, lineage = ctc.read_result(output)
    assert lineage is not None
    assert lineage.rows().tolist() == [[1, 997, 1001, 0], [2, 997, 1001, 0]]
    assert next(iter(files.values())).name == "mask0997.tif"
    for place, path in enumerate(files.values()):
        mask = ctc.read_image(path)
        assert set(np.unique(mask)) == {0, 1, 2}
        assert (mask[2:7, place : place + 6] == 1).all()
        assert (mask[12:18, 20:26] == 2).all()
    assert (output / "tracks.geff" / "zarr.json").is_file()


def test_flags_reach_the_linker_and_the_drawing(tmp_path):
    write_masks(tmp_path / "masks", "man_track", cells(range(5), missing=2))
    flags = (f"--masks={tmp_path / 'masks'}", f"--output={tmp_path / '01_RES'}", "--frames=1:5")
    assert "4 frames, 7 cells, 3 tracks" in call(*flags, "--nofill_gaps")[1]
    assert "4 frames, 6 cells, 2 tracks" in call(*flags, "--max_gap=0", "--min_length=2")[1]
    # One cell moves by a pixel per frame, an eighth of its diameter; the other one stays.
    strict = ("--max_distance=0.01", "--division_distance=0.01", "--spacing=1,1")
    assert "4 frames, 8 cells, 5 tracks" in call(*flags, *strict)[1]


def test_a_stack_needs_the_spacing_of_z(tmp_path):
    deep = {frame: np.repeat(mask[None], 4, 0) for frame, mask in cells(range(2)).items()}
    write_masks(tmp_path / "masks", "mask", deep)
    flags = (f"--masks={tmp_path / 'masks'}", f"--output={tmp_path / '01_RES'}")
    status, out, err = call(*flags, "--spacing=0.2,0.1")
    assert (status, out) == (1, "")
    assert err == (
        f"error: --spacing=0.2,0.1 lacks z: {tmp_path / 'masks'} has 4 planes; "
        "give --spacing=<z>,0.2,0.1 in µm\n"
    )
    status, out, err = call(*flags)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == (
        f"note: {tmp_path / 'masks'} does not say its voxel size: taken as cubes; give --spacing=z,y,x"
    )
    assert out.count("note:") == 1
    status, out, err = call(*flags, "--spacing=2,0.2,0.1")
    assert (status, err, out.count("\n")) == (0, "", 1)
    graph = geff_graphs.read(tmp_path / "01_RES" / "tracks.geff")
    first = graph.position[(graph.frame == 0) & (graph.label == 1)]
    np.testing.assert_allclose(first, [[3.0, 0.8, 0.25]])


def test_a_movie_without_cells_has_an_empty_track_file(tmp_path):
    write_masks(tmp_path / "masks", "t", {4: np.zeros((5, 6), np.uint8)})
    status, out, err = call(f"--masks={tmp_path / 'masks'}", f"--output={tmp_path / '01_RES'}")
    assert (status, err) == (0, "")
    assert "1 frames, 0 cells, 0 tracks" in out
    files, lineage = ctc.read_result(tmp_path / "01_RES")
    assert lineage is not None
    assert (list(files), len(lineage.label)) == ([4], 0)


def test_sisters_are_paired_in_micrometres(tmp_path):
    """Two pairs, 0.9 and 1.0 µm apart and 4 µm from each other, and a cell that is alone."""
    places = {7: (5, 5), 3: (5, 14), 9: (45, 5), 4: (45, 15), 6: (80, 80)}
    masks = {frame: np.zeros((90, 90), np.uint16) for frame in range(4)}
    for frame, mask in masks.items():
        for label, (y, x) in places.items():
            mask[y - 2 : y + 3, x + frame - 2 : x + frame + 3] = label
    write_masks(tmp_path / "masks", "mask", masks)
    flags = (f"--masks={tmp_path / 'masks'}", f"--output={tmp_path / '01_RES'}", "--sisters")
    status, _, err = call(*flags)
    assert (status, err.count("\n")) == (1, 1)
    assert "--sisters pairs by distances in µm" in err
    assert call(*flags, "--spacing=0.1,0.1")[0] == 0
    files, _ = ctc.read_result(tmp_path / "01_RES")
    first = ctc.read_image(files[0])
    with (tmp_path / "01_RES" / "sisters.csv").open() as file:
        rows = list(csv.DictReader(file))
    pairs = {frozenset((int(row["track_id"]), int(row["sister_id"]))) for row in rows}
    assert pairs == {frozenset(int(first[places[k]]) for k in pair) for pair in ((7, 3), (9, 4))}
    assert sorted(float(row["distance_um"]) for row in rows) == pytest.approx([0.9, 1.0])
    assert {row["frames"] for row in rows} == {"4"}
    assert call(*flags[:2], "--spacing=0.1,0.1")[0] == 0
    assert not (tmp_path / "01_RES" / "sisters.csv").exists()


def truncated(folder: Path) -> None:
    path = folder / "mask002.tif"
    path.write_bytes(path.read_bytes()[:-20])


def other_shape(folder: Path) -> None:
    write_masks(folder, "mask", {3: np.ones((5, 5), np.uint16)})


def floats(folder: Path) -> None:
    write_masks(folder, "mask", {3: np.ones((20, 30), np.float32)})


def gap(folder: Path) -> None:
    (folder / "mask001.tif").unlink()


def duplicate(folder: Path) -> None:
    write_masks(folder, "mask", {3: np.ones((20, 30), np.uint16)}, 5)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "mask002.tif (frame 2)"),
        (other_shape, "mask003.tif (frame 3) has shape (5, 5), mask000.tif has (20, 30)"),
        (floats, "mask003.tif (frame 3) holds float32 values that are no labels: write 0, 1, 2"),
        (gap, "lacks the frames 1, so tracks would break there"),
        (duplicate, "mask003.tif: frame 3 is also in mask00003.tif"),
        (empty, "has no masks: name them like one of mask000.tif"),
    ],
)
def test_bad_masks_are_named_in_one_line_and_nothing_is_written(tmp_path, damage, message):
    write_masks(tmp_path / "masks", "mask", cells(range(4)))
    damage(tmp_path / "masks")
    status, out, err = call(f"--masks={tmp_path / 'masks'}", f"--output={tmp_path / '01_RES'}")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: ")
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--output={}/masks",), 1, "holds the input"),
        (("--output={}/masks/mask000.tif",), 1, "is a file"),
        (("--output={}/masks/mask000.tif/01_RES",), 1, "cannot write"),
        (("--output={}/01_RES", "--linker=magic"), 1, "no linker 'magic': give --linker=hungarian"),
        (("--output={}/01_RES", "--spacing=1,0,1"), 1, "--spacing=1,0,1 is not two or three positive"),
        (("--output={}/01_RES", "--images={}"), 1, "has no frames"),
        (("--output={}/01_RES", "--min_length=0"), 2, "min_length"),
        ((), 2, "--output"),
    ],
)
def test_wrong_flags_have_their_status(tmp_path, flags, status, message):
    write_masks(tmp_path / "masks", "mask", cells(range(2)))
    result = call(f"--masks={tmp_path / 'masks'}", *(flag.format(tmp_path) for flag in flags))
    assert result[0] == status
    assert message in result[2]
    assert result[2].count("\n") == 1


@pytest.fixture(scope="module")
def linker(tmp_path_factory) -> Path:
    """A work folder of a network that nobody trained."""
    folder = tmp_path_factory.mktemp("linker")
    save_untrained(folder, link.get_config("tiny"))
    return folder


@pytest.mark.parametrize(
    "masks",
    [
        cells(range(997, 1010), missing=999),
        pytest.param(cells([4]), marks=pytest.mark.slow),
        {frame: mask * (frame in (2, 3)) for frame, mask in cells(range(6)).items()},
        {frame: np.zeros((20, 30), np.uint16) for frame in range(3)},
        pytest.param(
            {frame: (mask == 50).astype(np.uint16) for frame, mask in cells(range(3)).items()},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["a movie", "one frame", "cells in some frames", "no cells", "one cell"],
)
def test_a_network_links_whatever_there_is_to_a_valid_result(linker, tmp_path, masks):
    write_masks(tmp_path / "masks", "mask", masks)
    output = tmp_path / "01_RES"
    status, out, err = call(f"--masks={tmp_path / 'masks'}", f"--output={output}", f"--linker={linker}")
    assert (status, err) == (0, "")
    opened, summary = out.splitlines()
    assert opened.startswith(f"{linker}: step 0 of ")
    assert summary.startswith(f"{output}: {len(masks)} frames, ")
    assert validate_result(output, masks, (20, 30)) == []


def test_doubts_of_a_network_reach_the_page(linker, tmp_path):
    """Ids that 16 bits cannot hold, images, and no time for an optimum."""
    hurried = tmp_path / "hurried"
    shutil.copytree(linker, hurried)
    config = json.loads((hurried / "config.json").read_text())
    config["linking"]["time_limit_s"] = 0
    (hurried / "config.json").write_text(json.dumps(config))
    small = cells(range(5))
    write_masks(
        tmp_path / "masks", "mask", {f: np.where(m, m + np.uint32(70_000), 0) for f, m in small.items()}
    )
    write_masks(tmp_path / "01", "t", {f: np.where(m, m + np.uint16(100), 7) for f, m in small.items()})
    output = tmp_path / "01_RES"
    paths = (f"--masks={tmp_path / 'masks'}", f"--images={tmp_path / '01'}", f"--output={output}")
    status, out, err = call(*paths, f"--linker={hurried}", "--nofill_gaps")
    assert (status, err) == (0, "")
    assert "note: frames 0 to 4: no optimum after 0 s, so linked frame by frame\n" in out
    assert validate_result(output, small, (20, 30)) == []
    with (output / "tracks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    places = [(int(row["frame"]), round(float(row["y_voxel"])), round(float(row["x_voxel"]))) for row in rows]
    assert [float(row["mean_intensity"]) for row in rows] == [100.0 + small[f][y, x] for f, y, x in places]
    scores = link_scores.read(output / "links.npz")
    linked = [row for row in rows if row["link_probability"]]
    assert len(linked) == scores.chosen.sum()
    assert all(0 <= float(row["link_probability"]) <= 1 for row in linked)

    page = tmp_path / "page.html"
    done = mains.call("report", f"--images={tmp_path / '01'}", f"--result={output}", f"--output={page}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{page}: 5 frames, ")
    assert ('id="show-links"' in page.read_text()) == (len(scores.frame) > 0)


def test_images_are_measured_and_compared_with_the_masks_for_every_linker(tmp_path):
    masks = cells(range(3))
    write_masks(tmp_path / "masks", "mask", masks)
    write_masks(tmp_path / "01", "t", {frame: 10 + mask for frame, mask in masks.items()})
    flags = (f"--masks={tmp_path / 'masks'}", "--linker=hungarian", f"--output={tmp_path / '01_RES'}")
    assert call(*flags, f"--images={tmp_path / '01'}")[0] == 0
    with (tmp_path / "01_RES" / "tracks.csv").open(newline="") as file:
        measured = [float(row["mean_intensity"]) for row in csv.DictReader(file)]
    assert measured == [20, 60, 21, 59, 22, 58]
    write_masks(tmp_path / "02", "t", {0: np.zeros((20, 31), np.uint16)})
    status, _, err = call(*flags, f"--images={tmp_path / '02'}")
    assert status == 1
    assert "has frames of shape (1, 20, 31), the masks (1, 20, 30)" in err


def test_images_of_another_size_are_named(linker, tmp_path):
    write_masks(tmp_path / "masks", "mask", cells(range(2)))
    write_masks(tmp_path / "01", "t", {frame: np.zeros((20, 31), np.uint16) for frame in range(2)})
    status, out, err = call(
        f"--masks={tmp_path / 'masks'}",
        f"--images={tmp_path / '01'}",
        f"--output={tmp_path / '01_RES'}",
        f"--linker={linker}",
    )
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "has frames of shape (1, 20, 31), the masks (1, 20, 30) (z, y, x): give the images" in err
    assert not (tmp_path / "01_RES").exists()


def test_a_linker_that_does_not_fit_is_one_line(linker, tmp_path):
    write_masks(tmp_path / "masks", "mask", {0: np.zeros((4, 20, 30), np.uint16) + 1})
    flags = (f"--masks={tmp_path / 'masks'}", f"--output={tmp_path / '01_RES'}")
    status, _, err = call(*flags, f"--linker={linker}")
    assert (status, err.count("\n")) == (1, 1)
    assert "the movie has 4 planes and this linker is 2D" in err
    status, _, err = call(*flags, f"--linker={linker}", "--max_gap=1")
    assert status == 2
    assert "--max_gap goes with --linker=hungarian" in err
    untrained(tmp_path / "run")
    status, _, err = call(*flags, f"--linker={tmp_path / 'run'}")
    assert (status, err.count("\n")) == (1, 1)
    assert "is a run of task 'dense', which does not link" in err
