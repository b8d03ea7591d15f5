"""Crops: the same global batches for any number of processes, and labels that say what is known."""

import collections
from typing import Any

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.data import normalise, pipeline, places, prepare, sources, store
from celltrack_jax.data.annotation import is_covered
from celltrack_jax.data.left_out import LeftOut, keep_largest
from celltrack_jax.data.unknown import dense, merge
from celltrack_jax.errors import InputError
from tests.data import datasets

FLAT: dict[str, Any] = {
    "shape": (16, 24),
    "ndim": 2,
    "batch_size": 4,
    "process": (0, 1),
    "foreground_probability": 0.7,
    "unknown_radius_um": 2.0,
    "max_cells": 16,
    "seed": 3,
    "margin": (0, 0),
    "silver": False,
}


def prepared(dataset, folder, layout="ctc", spacing=(1.0, 1.0, 1.0)):
    found = sources.open_sources(dataset, layout, None, allow_gaps=True)
    prepare.prepare(
        folder, found, layout=layout, origin="set", spacing_um=spacing, advance=lambda name, frames: None
    )
    return store.open_store(folder)


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """Two fully outlined movies of different sizes."""
    folder = tmp_path_factory.mktemp("movies")
    dataset = datasets.write_movie(folder / "set", "01", frames=range(5))
    datasets.write_movie(dataset, "02", frames=range(3), shape=(60, 45), seed=9)
    return prepared(dataset, folder / "store")


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A movie with frames outlined in full, in part and not at all, and with silver outlines."""
    folder = tmp_path_factory.mktemp("sparse")
    masks, rows = datasets.moving_cells(range(5))
    dots = {frame: np.where(shrunk(mask), mask, 0).astype(np.uint16) for frame, mask in masks.items()}
    dataset = datasets.write_ctc(
        folder / "set",
        images={frame: datasets.image(datasets.SHAPE, frame) for frame in range(5)},
        markers={frame: dots[frame] for frame in range(4)},
        segmentation={0: masks[0], 1: np.where(masks[1] == 1, 30, 0).astype(np.uint16), 4: masks[4]},
        silver={1: (masks[1] + 50 * (masks[1] > 0)).astype(np.uint16), 2: masks[2]},
        rows=rows,
    )
    return prepared(dataset, folder / "store")


def shrunk(mask: np.ndarray) -> np.ndarray:
    """Tells which voxels have only neighbours of their own label."""
    inside = mask > 0
    for axis in range(mask.ndim):
        for shift in (-1, 1):
            inside &= np.roll(mask, shift, axis) == mask
    return inside


def crops(sequences, frames=None, **changes) -> Any:
    frames = frames or [range(sequence.shape[0]) for sequence in sequences]
    return pipeline.crops(sequences, frames=frames, **FLAT | changes)


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for key, values in one.items():
        np.testing.assert_array_equal(values, other[key])


def joined(parts: list[dict]) -> dict:
    """Puts the batches of the processes together: process p holds samples p, p + n, ..."""
    return {
        key: np.stack([part[key] for part in parts], axis=1).reshape(-1, *parts[0][key].shape[1:])
        for key in parts[0]
    }


def test_batches_have_the_promised_shapes(movies):
    batch = crops(movies)[0]
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "image": ((4, 16, 24, 1), np.float32),
        "labels": ((4, 16, 24), np.int32),
        "spacing": ((4, 2), np.float32),
        "sample": ((4,), np.uint32),
    }


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_processes(movies, processes):
    whole = crops(movies)
    parts = [crops(movies, process=(p, processes)) for p in range(processes)]
    for step in (0, 1, 7, 10**9):
        assert_equal(joined([part[step] for part in parts]), whole[step])
    assert whole[7]["sample"].tolist() == [28, 29, 30, 31]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_resumes_at_any_step_and_process_count(movies, processes):
    reference = [crops(movies)[step] for step in range(6)]
    parts = []
    for p in range(processes):
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=3)
        iterator = iter(crops(movies, process=(p, processes)).to_iter_dataset(options))
        iterator.set_state({"next_index": 3})
        parts.append([next(iterator) for _ in range(3)])
    for step in range(3):
        assert_equal(joined([part[step] for part in parts]), reference[3 + step])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**36), st.sampled_from([1, 2, 4]))
def test_a_sample_depends_on_its_index_alone(movies, index, batch_size):
    whole = crops(movies, batch_size=4)[index // 4]
    part = crops(movies, batch_size=batch_size)[index // batch_size]
    for key, values in whole.items():
        np.testing.assert_array_equal(part[key][index % batch_size], values[index % 4])


def test_another_seed_gives_other_crops(movies):
    one, other = crops(movies)[0], crops(movies, seed=4)[0]
    assert not np.array_equal(one["image"], other["image"])


def reader(dataset: Any) -> Any:
    """Returns the reader behind a data set."""
    return dataset._map_fn.__self__


def requests(sequences, count: int, **changes) -> list[places.Request]:
    found = reader(crops(sequences, **changes))
    return [found.places.request(index) for index in range(count)]


def test_every_run_through_the_frames_takes_each_once_in_an_order_of_its_own(movies):
    frames = [[0, 2, 3], [1, 2]]
    drawn = [(r.sequence, r.t) for r in requests(movies, 20, frames=frames)]
    runs = [drawn[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(run) == [(0, 0), (0, 2), (0, 3), (1, 1), (1, 2)] for run in runs)
    assert len({tuple(run) for run in runs}) > 1


def test_crops_lie_in_the_frame_and_hold_its_pixels(movies):
    drawn = requests(movies, 8)
    batches = [crops(movies)[step] for step in range(2)]
    for i, request in enumerate(drawn):
        sequence = movies[request.sequence]
        _, y, x = request.start
        assert 0 <= y <= sequence.shape[3] - 16
        assert 0 <= x <= sequence.shape[4] - 24
        frame = sequence.image[request.t, :, 0].read().result()
        expected = normalise.normalise(frame, normalise.percentiles(frame))[0, y : y + 16, x : x + 24]
        batch = batches[i // 4]
        np.testing.assert_allclose(batch["image"][i % 4, ..., 0], expected, rtol=1e-6, atol=1e-6)
        truth = sequence.labels["segmentation"][request.t, 0, 0].read().result()[y : y + 16, x : x + 24]
        np.testing.assert_array_equal(batch["labels"][i % 4], dense(truth.astype(np.int64))[0])


def test_foreground_crops_hold_a_cell_near_the_middle(movies):
    for request in requests(movies, 40, foreground_probability=1.0):
        rows = movies[request.sequence].foreground
        cells = rows[rows[:, 0] == request.t, 2:4] - request.start[1:]
        assert np.any((cells >= 0) & (cells < FLAT["shape"]), axis=None)
        assert np.any(np.all((cells >= 0) & (cells < FLAT["shape"]), axis=1))


def test_every_object_of_a_frame_is_drawn_equally_often(movies):
    """At a crop of one voxel the start is the object's own point."""
    drawn = collections.Counter(
        request.start[1:]
        for request in requests(movies, 600, foreground_probability=1.0, shape=(1, 1), frames=[[4], []])
    )
    points = movies[0].foreground[movies[0].foreground[:, 0] == 4, 2:4]
    assert set(drawn) == {(int(y), int(x)) for y, x in points}
    # 200 expected for each of 3, standard deviation 12.
    assert all(150 < count < 250 for count in drawn.values())


def test_other_crops_lie_anywhere(movies):
    starts = np.array(
        [r.start[1:] for r in requests(movies, 2000, foreground_probability=0.0, frames=[[0], []])]
    )
    room = np.array(datasets.SHAPE) - FLAT["shape"]
    assert starts.min(axis=0).tolist() == [0, 0]
    assert starts.max(axis=0).tolist() == room.tolist()
    np.testing.assert_allclose(starts.mean(axis=0), room / 2, atol=1.0)


def test_the_margin_may_reach_beyond_the_frame_as_reflection_and_unknown(movies):
    changes = {"margin": (4, 6), "foreground_probability": 0.0, "frames": [[0], []]}
    drawn = requests(movies, 400, **changes)
    starts = np.array([request.start[1:] for request in drawn])
    assert starts.min(axis=0).tolist() == [-4, -6]
    assert starts.max(axis=0).tolist() == [datasets.SHAPE[0] + 4 - 16, datasets.SHAPE[1] + 6 - 24]
    frame = movies[0].image[0, :, 0].read().result()
    scaled = normalise.normalise(frame, normalise.percentiles(frame))[0]
    padded = np.pad(scaled, [(4, 4), (6, 6)], mode="reflect")
    known = np.pad(np.ones(datasets.SHAPE, bool), [(4, 4), (6, 6)])
    dataset = crops(movies, **changes)
    for step in range(6):
        batch = dataset[step]
        for i in range(4):
            y, x = starts[4 * step + i] + (4, 6)
            np.testing.assert_array_equal(batch["image"][i, ..., 0], padded[y : y + 16, x : x + 24])
            np.testing.assert_array_equal(batch["labels"][i] >= 0, known[y : y + 16, x : x + 24])


def test_frames_smaller_than_the_crop_are_padded_around_their_middle(tmp_path):
    dataset = datasets.write_dsb(tmp_path / "dsb", {"a": (20, 20), "b": (30, 40), "c": (64, 64)})
    opened = prepared(dataset, tmp_path / "store", "dsb")
    batch = crops(opened, shape=(32, 32), batch_size=6)[0]
    drawn = requests(opened, 6, shape=(32, 32))
    for i, request in enumerate(drawn):
        height, width = opened[request.sequence].shape[3:]
        known = np.count_nonzero(batch["labels"][i] >= 0)
        assert known == min(height, 32) * min(width, 32)
        assert np.isfinite(batch["image"][i]).all()
    small = next(i for i, request in enumerate(drawn) if request.sequence == 0)
    assert drawn[small].start == (0, -6, -6)
    assert (batch["labels"][small][6:26, 6:26] >= 0).all()


def whole_frame(sequence, t: int, radius: float, silver: bool = False) -> np.ndarray:
    """Labels of a frame by the rules, (Z, Y, X); -1 unknown."""
    masks = {
        kind: np.asarray(array[t, 0].read().result(), np.int64)
        for kind, array in sequence.labels.items()
        if sequence.labelled[kind][t]
    }
    if sequence.annotation[t] == "full":
        return masks["segmentation"]
    coverage = sequence.coverage[sequence.coverage[:, 0] == t, 1:]
    covered = is_covered(coverage, silver=silver, in_planes=False)
    return merge(
        masks.get("segmentation"),
        masks.get("markers"),
        coverage[covered, :2],
        planes=None,
        radius=radius,
        spacing=sequence.spacing_um,
    )


def assert_same_cells(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal up to the names of the cells."""
    np.testing.assert_array_equal(found, dense(expected)[0])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 2.0, 5.0, 40.0]))
def test_what_is_unknown_does_not_depend_on_the_crop(sparse, step, radius):
    """A marker outside of the crop makes pixels inside unknown all the same."""
    dataset = crops(sparse, unknown_radius_um=radius, shape=(9, 11), batch_size=1)
    request = reader(dataset).places.request(step)
    expected = whole_frame(sparse[0], request.t, radius)[0]
    _, y, x = request.start
    assert_same_cells(dataset[step]["labels"][0], expected[y : y + 9, x : x + 11])


def test_frames_of_every_kind_keep_to_the_rules(sparse):
    (sequence,) = sparse
    assert sequence.annotation == ["full", "sparse", "markers", "markers", "sparse"]
    shape = datasets.SHAPE
    found = {
        t: crops(sparse, frames=[[t]], shape=shape, batch_size=1, unknown_radius_um=3.0)[0]["labels"][0]
        for t in range(5)
    }
    assert found[0].min() == 0
    masks, _ = datasets.moving_cells(range(5))
    # Frame 1: cell 1 is outlined, around the marker of cell 2 it is unknown, elsewhere there is background.
    assert set(np.unique(found[1])) == {-1, 0, 1, 2}
    np.testing.assert_array_equal(found[1] == 1, masks[1] == 1)
    np.testing.assert_array_equal(found[1] == 2, shrunk(masks[1]) & (masks[1] == 2))
    assert np.all(found[1][(masks[1] == 2) & ~shrunk(masks[1])] == -1)
    # Frames with markers alone.
    np.testing.assert_array_equal(found[2] > 0, shrunk(masks[2]))
    assert 0 in found[2]
    # Frame 4 has outlines, and no markers that could tell whether they are all: nothing is background.
    np.testing.assert_array_equal(found[4] > 0, masks[4] > 0)
    assert not np.any(found[4] == 0)


def test_silver_outlines_fill_what_gold_ones_leave_open(sparse):
    (sequence,) = sparse
    assert sequence.annotation_silver == ["full", "full", "full", "markers", "sparse"]
    masks, _ = datasets.moving_cells(range(5))
    for t in (1, 2):
        batch = crops(sparse, frames=[[t]], shape=datasets.SHAPE, batch_size=1, silver=True)[0]
        np.testing.assert_array_equal(batch["labels"][0], dense(masks[t].astype(np.int64))[0])
    plain = crops(sparse, frames=[[3]], shape=datasets.SHAPE, batch_size=1)[0]
    assert_equal(crops(sparse, frames=[[3]], shape=datasets.SHAPE, batch_size=1, silver=True)[0], plain)


def test_a_frame_without_annotation_is_unknown(tmp_path):
    dataset = datasets.write_ctc(tmp_path / "set", images={0: datasets.image((30, 30), 0)})
    batch = crops(prepared(dataset, tmp_path / "store"))[0]
    assert np.all(batch["labels"] == -1)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A 3D movie of which some planes are outlined."""
    folder = tmp_path_factory.mktemp("stack")
    shape = (20, *datasets.SHAPE)
    masks, rows = datasets.moving_cells(range(2), shape)
    dataset = datasets.write_ctc(
        folder / "set",
        images={frame: datasets.image(shape, frame) for frame in range(2)},
        markers=masks,
        planes={(0, z): masks[0][z] for z in (3, 17)},
        rows=rows,
    )
    return prepared(dataset, folder / "store", spacing=(2.0, 1.0, 0.5))


def test_crops_of_stacks(stack):
    dataset = crops(stack, shape=(8, 16, 24), ndim=3, margin=(0, 0, 0), batch_size=2)
    batch = dataset[0]
    assert batch["image"].shape == (2, 8, 16, 24, 1)
    assert batch["spacing"].tolist() == [[2.0, 1.0, 0.5]] * 2
    for i in range(2):
        z, y, x = reader(dataset).places.request(i).start
        t = reader(dataset).places.request(i).t
        frame = stack[0].image[t].read().result()
        expected = normalise.normalise(frame, normalise.percentiles(frame))[0]
        np.testing.assert_allclose(
            batch["image"][i, ..., 0], expected[z : z + 8, y : y + 16, x : x + 24], rtol=1e-6
        )


def test_planes_of_stacks_as_2d_samples(stack):
    dataset = crops(stack, batch_size=8)
    batch = dataset[0]
    assert batch["spacing"].tolist() == [[1.0, 0.5]] * 8
    drawn = [reader(dataset).places.request(i) for i in range(8)]
    assert len({request.start[0] for request in drawn}) > 1
    for i, request in enumerate(drawn):
        z, y, x = request.start
        frame = stack[0].image[request.t].read().result()
        plane = normalise.normalise(frame, normalise.percentiles(frame))[0, z, y : y + 16, x : x + 24]
        np.testing.assert_allclose(batch["image"][i, ..., 0], plane, rtol=1e-6)


def test_in_a_frame_of_planes_only_these_have_background_around_cells(stack):
    batch = crops(stack, frames=[[0]], shape=(20, *datasets.SHAPE), ndim=3, margin=(0, 0, 0), batch_size=1)[0]
    labels = batch["labels"][0]
    masks, _ = datasets.moving_cells(range(2), (20, *datasets.SHAPE))
    for z in range(20):
        np.testing.assert_array_equal(labels[z] > 0, masks[0][z] > 0)
        assert np.any(labels[z] == -1) == (z not in (3, 17))
    assert set(np.unique(labels[3][masks[0][3] > 0])) == {1, 2}
    np.testing.assert_array_equal(labels[3] == 1, labels[4] == 1)


def test_3d_crops_of_a_2d_movie_are_refused(movies):
    with pytest.raises(InputError, match="is a 2D movie"):
        crops(movies, shape=(4, 8, 8), ndim=3, margin=(0, 0, 0))


def test_of_too_many_cells_the_largest_are_kept_and_the_others_said_and_counted(movies):
    said: list[str] = []
    counted = LeftOut(said.append)
    changes = {"frames": [[4], []], "shape": datasets.SHAPE}
    whole = crops(movies, **changes, max_cells=4)[0]["labels"]
    assert whole.max() == 3
    dataset = crops(movies, **changes, max_cells=3, left_out=counted)
    labels = dataset[0]["labels"]
    for found, every in zip(labels, whole, strict=True):
        sizes = np.bincount(every[every > 0])
        smallest = int(np.argmin(sizes[1:])) + 1
        np.testing.assert_array_equal(found == -1, every == smallest)
        np.testing.assert_array_equal(found, dense(np.where(every == smallest, -1, every))[0])
    assert counted.cells == len(labels)
    np.testing.assert_array_equal(dataset[0]["labels"], labels)
    (text,) = said
    assert (
        "sequence 01, frame 4: a crop holds 3 cells, and data.max_cells = 3 has room for 2: its 1 smallest"
        in text
    )
    assert "set data.max_cells to 6" in text


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_keep_largest_is_a_sort_by_size(seed, room):
    rng = np.random.default_rng(seed)
    labels, count = dense(rng.integers(-1, rng.integers(1, 12), (9, 9)))
    order = sorted(range(1, count + 1), key=lambda name: (-np.count_nonzero(labels == name), name))
    kept = sorted(order[:room])
    expected = np.where(labels > 0, -1, labels)
    for number, name in enumerate(kept, 1):
        expected[labels == name] = number
    np.testing.assert_array_equal(keep_largest(labels, room), expected)


def test_no_frames_and_uneven_batches_are_refused(movies):
    with pytest.raises(
        InputError,
        match=r"no frame to draw crops from: 01, 02 .* annotated .*\d full.* learns from none of them",
    ):
        crops(movies, frames=[[], []])
    bare = [one._replace(annotation=["none"] * len(one.frames)) for one in movies]
    bare = [one._replace(annotation_silver=one.annotation) for one in bare]
    count = sum(len(one.frames) for one in bare)
    with pytest.raises(
        InputError, match=rf"crops from: none of the {count} frames of 01, 02 is annotated.*01_GT/SEG"
    ):
        crops(bare, frames=[[], []])
    with pytest.raises(InputError, match="does not divide among 3 processes"):
        crops(movies, process=(0, 3))


def test_a_channel_count_that_differs_between_sequences_is_refused(movies):
    other = movies[1]._replace(shape=(3, 2, 1, 60, 45))
    with pytest.raises(InputError, match="02 has 2 channels, 01 has 1"):
        crops([movies[0], other])


def test_gowt1_says_nothing_of_nuclei_that_were_not_outlined(real_data, tmp_path):
    """Real partial annotation: in sparse frames most markers have no outline, and no pixel near them is background."""
    dataset = real_data("Fluo-N2DH-GOWT1")
    short = tmp_path / "set"
    for sub in ("01", "01_GT/TRA", "01_GT/SEG"):
        (short / sub).mkdir(parents=True)
        for path in (dataset / sub).iterdir():
            if path.suffix == ".txt" or int(path.stem[-3:]) in (0, 1, 2, 3, 7):
                (short / sub / path.name).symlink_to(path)
    opened = prepared(short, tmp_path / "store", spacing=(1.0, 0.24, 0.24))
    (sequence,) = opened
    kinds = set(sequence.annotation)
    assert "markers" in kinds
    assert kinds & {"sparse", "full"}
    for t, kind in enumerate(sequence.annotation):
        labels = crops(
            opened, frames=[[t]], shape=(1024, 1024), batch_size=1, unknown_radius_um=8.0, max_cells=64
        )[0]["labels"][0]
        masks = {
            name: np.asarray(array[t, 0, 0].read().result())
            for name, array in sequence.labels.items()
            if sequence.labelled[name][t]
        }
        cells = len(np.unique(masks["markers"])) - 1
        # Every marked cell is a cell, outlined or not, and without an outline no voxel of it is background.
        assert labels.max() >= cells
        for _, marker, outlined, _ in sequence.coverage[sequence.coverage[:, 0] == t]:
            known = labels[masks["markers"] == marker] > 0
            assert 2 * known.sum() > known.size if outlined else known.all()
        assert (kind == "full") == (not np.any(labels == -1))
        if "segmentation" in masks:
            np.testing.assert_array_equal(
                masks["segmentation"] > 0, (labels > 0) & (masks["segmentation"] > 0)
            )
