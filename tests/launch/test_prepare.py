"""launch.prepare: a data set becomes a store that standard tools read, the same every time."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import tifffile

from celltrack_jax.data import prepare, sources, store
from celltrack_jax.errors import InputError
from celltrack_jax.io import ctc, ome_zarr
from tests import geff_graphs, mains
from tests.data import datasets


def run(
    dataset: Path, folder: Path, *, layout="ctc", names=None, spacing=(1.0, 0.5, 0.25), allow_gaps=False
) -> int:
    found = sources.open_sources(dataset, layout, names, allow_gaps=allow_gaps)
    return prepare.prepare(
        folder,
        found,
        layout=layout,
        origin=dataset.name,
        spacing_um=spacing,
        advance=lambda name, frames: None,
    )


def launch(*flags: str) -> subprocess.CompletedProcess:
    return mains.call("prepare", *flags)


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_main_prepares_finishes_and_says_so_in_one_line(dataset, tmp_path):
    flags = [f"--source={dataset}", f"--store={tmp_path / 'store'}", "--spacing=0.5,0.25"]
    first = launch(*flags)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.count("\n") == 1
    assert "2 sequences, 7 frames, 2 sequences written" in first.stdout
    before = hashes(tmp_path / "store")
    again = launch(*flags)
    assert "0 sequences written" in again.stdout
    assert hashes(tmp_path / "store") == before
    assert store.open_store(tmp_path / "store")[0].spacing_um == (1.0, 0.5, 0.25)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--source=nowhere", "--store=x"], 1, "nowhere is not a folder"),
        (["--source=."], 2, "--store"),
        (
            ["--source=.", "--store=x", "--spacing=1,0"],
            1,
            "--spacing=1,0 is not two or three positive numbers",
        ),
        (["--source=.", "--store=x", "--format=mat"], 2, "format"),
    ],
)
def test_main_refuses_bad_flags_in_one_line(flags, status, message, tmp_path):
    done = launch(*[flag.replace("=x", f"={tmp_path / 'x'}") for flag in flags])
    assert done.returncode == status
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "x").exists()


def test_main_asks_for_z_where_there_are_planes(tmp_path):
    shape = (5, 40, 52)
    dataset = datasets.write_movie(tmp_path / "set", frames=range(2), shape=shape)
    done = launch(f"--source={dataset}", f"--store={tmp_path / 'store'}", "--spacing=0.2,0.1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "t000.tif has 5 planes; give --spacing=<z>,0.2,0.1" in done.stderr
    assert not (tmp_path / "store").exists()
    done = launch(f"--source={dataset}", f"--store={tmp_path / 'store'}", "--spacing=0.5,0.2,0.1")
    assert done.returncode == 0, done.stderr
    assert store.open_store(tmp_path / "store")[0].spacing_um == (0.5, 0.2, 0.1)


def test_main_refuses_gaps_before_it_writes_and_takes_them_on_demand(dataset, tmp_path):
    (dataset / "01" / "t002.tif").unlink()
    flags = [f"--source={dataset}", f"--store={tmp_path / 'store'}"]
    done = launch(*flags)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "01/t002.tif, frame 2: the file is missing" in done.stderr
    assert "--allow_gaps" in done.stderr
    assert not (tmp_path / "store").exists()
    done = launch(*flags, "--allow_gaps")
    assert (done.returncode, "2 sequences, 6 frames" in done.stdout) == (0, True)


def test_the_store_holds_the_data_set(dataset, tmp_path):
    run(dataset, tmp_path / "store")
    opened = store.open_store(tmp_path / "store")
    assert [sequence.name for sequence in opened] == ["01", "02"]
    for sequence in opened:
        files = ctc.open_sequence(dataset, sequence.name)
        assert sequence.frames.tolist() == list(files.images)
        for t, frame in enumerate(sequence.frames.tolist()):
            image = tifffile.imread(files.images[frame])
            np.testing.assert_array_equal(sequence.image[t, 0, 0].read().result(), image)
            np.testing.assert_allclose(
                sequence.percentiles[t, 0], np.percentile(image, (1, 50, 99.8)), rtol=1e-6
            )
            for kind, path in (
                ("markers", files.markers[frame]),
                ("segmentation", files.segmentation[frame][0][1]),
            ):
                found = sequence.labels[kind][t, 0, 0].read().result()
                assert found.dtype == np.uint32
                np.testing.assert_array_equal(found, tifffile.imread(path))
        assert sequence.image.dtype.numpy_dtype == np.uint16
        np.testing.assert_array_equal(sequence.lineage.rows(), files.tracks.rows())
        assert sequence.annotation == ["full"] * len(sequence.frames)


def test_the_foreground_table_lists_every_object_by_a_voxel_inside(dataset, tmp_path):
    run(dataset, tmp_path / "store")
    sequence = store.open_store(tmp_path / "store")[0]
    labels = np.asarray(sequence.labels["segmentation"].read().result())[:, 0]
    t, z, y, x, label, voxels, kind = sequence.foreground.T
    np.testing.assert_array_equal(labels[t, z, y, x], label)
    np.testing.assert_array_equal(
        voxels, [np.sum(labels[i] == name) for i, name in zip(t, label, strict=True)]
    )
    expected = [(i, name) for i in range(len(labels)) for name in np.unique(labels[i]) if name]
    assert list(zip(t, label, strict=True)) == expected
    assert set(kind) == {0}


def test_prepared_twice_gives_the_same_bytes(dataset, tmp_path):
    run(dataset, tmp_path / "one")
    copied = shutil.copytree(dataset, tmp_path / "elsewhere" / dataset.name)
    run(copied, tmp_path / "two")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_standard_tools_read_the_store(dataset, tmp_path):
    import ome_zarr.io
    import ome_zarr.reader
    import zarr
    from ome_zarr_models.v05 import Image
    from ome_zarr_models.v05.image_label import ImageLabel

    run(dataset, tmp_path / "store")
    sequence = store.open_store(tmp_path / "store")[0]
    group = tmp_path / "store" / "01.ome.zarr"
    root: Any = zarr.open_group(group, mode="r")
    image = sequence.image.read().result()
    np.testing.assert_array_equal(root["0"][:], image)
    assert root["0"].metadata.dimension_names == ("t", "c", "z", "y", "x")

    model = Image.from_zarr(root)
    dataset_model: Any = model.ome_attributes.multiscales[0].datasets[0]
    assert list(dataset_model.coordinateTransformations[0].scale) == [1, 1, 1, 0.5, 0.25]
    assert [axis.unit for axis in model.ome_attributes.multiscales[0].axes][2:] == ["micrometer"] * 3
    for kind in ("markers", "segmentation"):
        ImageLabel.from_zarr(root[f"labels/{kind}"])
        np.testing.assert_array_equal(root[f"labels/{kind}/0"][:], sequence.labels[kind].read().result())

    location: Any = ome_zarr.io.parse_url(str(group))
    nodes = list(ome_zarr.reader.Reader(location)())
    np.testing.assert_array_equal(np.asarray(nodes[0].data[0]), image)
    assert any(node.zarr.basename() == "markers" for node in nodes[1:])


def test_the_tracks_are_a_valid_geff_graph(dataset, tmp_path):
    import geff as geff_package

    run(dataset, tmp_path / "store")
    graph, _ = geff_package.read(str(tmp_path / "store" / "01.geff"), structure_validation=True)
    assert networkx.is_directed(graph)
    nodes = {(data["frame"], data["label"]): node for node, data in graph.nodes(data=True)}
    assert set(nodes) == {(t, 1) for t in range(4)} | {(0, 2), (1, 2), (2, 3), (3, 3), (2, 4), (3, 4)}
    assert graph.has_edge(nodes[1, 2], nodes[2, 3])
    assert graph.has_edge(nodes[1, 2], nodes[2, 4])
    assert graph.number_of_edges() == 3 + 1 + 1 + 1 + 2
    data = graph.nodes[nodes[0, 2]]
    assert (data["z"], data["y"], data["x"]) == (0, 24.5 * 0.5, 24.5 * 0.25)


def test_an_unknown_spacing_is_said_to_be_unknown(dataset, tmp_path):
    run(dataset, tmp_path / "store", spacing=None, names=["01"])
    (sequence,) = store.open_store(tmp_path / "store")
    assert (sequence.spacing_um, sequence.spacing_known) == ((1.0, 1.0, 1.0), False)
    opened = ome_zarr.open_image(tmp_path / "store" / "01.ome.zarr")
    assert not opened.spacing_known
    assert "micrometer" not in (tmp_path / "store" / "01.geff" / "zarr.json").read_text()


def test_a_store_of_other_data_is_refused(dataset, tmp_path):
    run(dataset, tmp_path / "store")
    before = hashes(tmp_path / "store")
    other = datasets.write_movie(tmp_path / "other", "01")
    with pytest.raises(InputError, match="prepared from other data"):
        run(other, tmp_path / "store")
    with pytest.raises(InputError, match="--spacing"):
        run(dataset, tmp_path / "store", spacing=(1.0, 1.0, 1.0))
    tifffile.imwrite(dataset / "02" / "t006.tif", datasets.image((30, 70), 99))
    with pytest.raises(InputError, match=r"02.* other files"):
        run(dataset, tmp_path / "store")
    assert hashes(tmp_path / "store") == before


def test_a_folder_with_other_files_is_refused(dataset, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds other files"):
        run(dataset, tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.tex"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("01/t002.tif", truncate, ("t002.tif", "frame 2", "truncated")),
        ("01/t002.tif", lambda p: tifffile.imwrite(p, datasets.image((40, 50), 0)), ("frame 2", "shape")),
        (
            "01/t002.tif",
            lambda p: tifffile.imwrite(p, datasets.image((40, 52), 0, np.uint8)),
            ("t002", "dtype"),
        ),
        (
            "01_GT/SEG/man_seg001.tif",
            lambda p: tifffile.imwrite(p, np.zeros((52, 40), np.uint16)),
            ("man_seg001.tif", "frame 1", "shape"),
        ),
        (
            "01_GT/SEG/man_seg001.tif",
            lambda p: tifffile.imwrite(p, np.zeros((40, 52), np.float32)),
            ("man_seg001.tif", "integers"),
        ),
        (
            "01_GT/SEG/man_seg001.tif",
            lambda p: tifffile.imwrite(p, np.full((40, 52), -3, np.int16)),
            ("man_seg001.tif", "label -3"),
        ),
        (
            "01_GT/TRA/man_track.txt",
            lambda p: p.write_text("1 0 3 0\n2 0 1 0\n3 2 3 2\n"),
            ("man_track002.tif", "frame 2", "label 4", "man_track.txt"),
        ),
        (
            "01_GT/TRA/man_track.txt",
            lambda p: p.write_text("1 0 3 0\n2 0 2 0\n3 2 3 2\n4 2 3 2\n"),
            ("man_track.txt", "label 3", "line 3", "parent 2 lives to frame 2"),
        ),
        (
            "01_GT/TRA/man_track002.tif",
            lambda p: tifffile.imwrite(p, np.ones((40, 52), np.uint16)),
            ("man_track002.tif", "frame 2", "label 3", "(and 1 more)", "lacks", "man_track.txt"),
        ),
        ("01_GT/TRA/man_track.txt", lambda p: p.write_text("1 0 x\n"), ("man_track.txt", "line 1")),
    ],
)
def test_bad_input_names_file_frame_and_cure(file, damage, words, dataset, tmp_path):
    damage(dataset / file)
    with pytest.raises(InputError) as caught:
        run(dataset, tmp_path / "store")
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []
    # Nothing half-made passes for a store.
    with pytest.raises(InputError):
        store.open_store(tmp_path / "store")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value, tmp_path):
    images = {frame: datasets.image((20, 20), frame, np.float32) for frame in range(2)}
    images[1][3, 4] = value
    dataset = datasets.write_ctc(tmp_path / "set", images=images)
    with pytest.raises(InputError, match=r"t001\.tif \(frame 1\).*not finite"):
        run(dataset, tmp_path / "store")


def test_a_sequence_that_is_not_there_is_named(dataset, tmp_path):
    with pytest.raises(InputError, match=r"no sequence '03': it has 01, 02"):
        run(dataset, tmp_path / "store", names=["03"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no images"):
        run(empty, tmp_path / "store")


def test_frames_that_lie_elsewhere_are_found_and_the_cure_is_said(dataset, tmp_path):
    with pytest.raises(InputError) as caught:
        run(dataset / "01", tmp_path / "store")
    assert str(caught.value) == (
        f"{dataset / '01'} holds no images in the layout 'ctc': t000.tif lies in it directly: give the folder above it, "
        f"--source={dataset} --sequences=01"
    )
    # What is said is what helps.
    assert run(dataset, tmp_path / "store", names=["01"]) == 1
    movie = tmp_path / "other" / "movie"
    shutil.copytree(dataset / "01", movie)
    with pytest.raises(
        InputError, match=r"t000\.tif lies in it directly: move the frames to a folder .*/movie/01,"
    ):
        run(movie, tmp_path / "store")
    with pytest.raises(InputError, match=r"movie/t000\.tif is a frame, .* rename .*/other/movie to 01,"):
        run(movie.parent, tmp_path / "store")


def test_a_sequence_without_annotation_is_prepared_with_a_note(dataset, tmp_path):
    shutil.rmtree(dataset / "01_GT")
    done = launch(f"--source={dataset}", f"--store={tmp_path / 'store'}")
    assert done.returncode == 0
    assert done.stderr.startswith(
        "note: sequence 01 has no annotation, no mask in 01_GT/SEG, 01_GT/TRA or 01_ST/SEG of"
    )
    assert done.stderr.count("\n") == 1
    assert set(store.open_store(tmp_path / "store")[0].annotation) == {"none"}


def test_sequences_can_be_added_one_by_one(dataset, tmp_path):
    run(dataset, tmp_path / "parts", names=["02"])
    assert [sequence.name for sequence in store.open_store(tmp_path / "parts")] == ["02"]
    run(dataset, tmp_path / "parts", names=["01"])
    run(dataset, tmp_path / "whole")
    assert hashes(tmp_path / "parts") == hashes(tmp_path / "whole")


def test_frames_that_are_missing_are_left_out_and_not_linked_over(tmp_path):
    dataset = datasets.write_movie(tmp_path / "set", frames=range(8))
    for path in ("01/t002.tif", "01/t005.tif", "01_GT/TRA/man_track006.tif", "01_GT/SEG/man_seg007.tif"):
        (dataset / path).unlink()
    run(dataset, tmp_path / "store", allow_gaps=True)
    (sequence,) = store.open_store(tmp_path / "store")
    assert sequence.frames.tolist() == [0, 1, 3, 4, 6, 7]
    assert sequence.annotation == ["full", "full", "full", "full", "sparse", "markers"]
    tracks = geff_graphs.read(tmp_path / "store" / "01.geff")
    links = {(int(tracks.frame[a]), int(tracks.frame[b])) for a, b in tracks.edges}
    assert links == {(0, 1), (3, 4)}
    assert sequence.lineage is not None
    assert sequence.lineage.end.max() == 7


def test_annotation_kinds_of_a_sparse_movie(tmp_path):
    masks, rows = datasets.moving_cells(range(5))
    partial = {
        0: masks[0],
        1: np.where(masks[1] == 1, 1, 0).astype(np.uint16),
        2: np.zeros_like(masks[2]),
    }
    markers = {frame: masks[frame] for frame in (0, 1, 2, 3)}
    dataset = datasets.write_ctc(
        tmp_path / "set",
        images={frame: datasets.image(datasets.SHAPE, frame) for frame in range(5)},
        markers=markers,
        segmentation=partial,
        rows=rows,
    )
    run(dataset, tmp_path / "store", allow_gaps=True)
    (sequence,) = store.open_store(tmp_path / "store")
    assert sequence.annotation == ["full", "sparse", "sparse", "markers", "none"]
    here = sequence.foreground[sequence.foreground[:, 0] == 1]
    assert here[:, [4, 6]].tolist() == [[1, 0], [2, 1]]
    assert sequence.coverage[sequence.coverage[:, 0] == 1].tolist() == [[1, 1, 1, 0], [1, 2, 0, 0]]


def test_planes_of_a_stack(tmp_path):
    shape = (20, 24, 30)
    masks, rows = datasets.moving_cells(range(2), (20, 40, 52))
    masks = {frame: mask[:, :24, :30] for frame, mask in masks.items()}
    seen = {int(label) for mask in masks.values() for label in np.unique(mask)}
    dataset = datasets.write_ctc(
        tmp_path / "set",
        images={frame: datasets.image(shape, frame) for frame in range(2)},
        markers=masks,
        planes={(0, 3): masks[0][3], (0, 17): masks[0][17]},
        rows=[row for row in rows if row[0] in seen],
    )
    run(dataset, tmp_path / "store")
    (sequence,) = store.open_store(tmp_path / "store")
    assert sequence.shape == (2, 1, *shape)
    assert sequence.planes == {0: (3, 17)}
    assert sequence.annotation == ["sparse", "markers"]
    stack = np.asarray(sequence.labels["segmentation"][0, 0].read().result())
    np.testing.assert_array_equal(np.unique(np.nonzero(stack)[0]), [3, 17])
    np.testing.assert_array_equal(stack[[3, 17]], masks[0][[3, 17]])


def test_labels_above_16_bits_stay_as_they_are(tmp_path):
    mask = datasets.cells(
        (30, 30), {70_000: (slice(2, 8), slice(2, 8)), 2**31 - 1: (slice(12, 20), slice(2, 8))}, np.uint32
    )
    dataset = datasets.write_ctc(
        tmp_path / "set",
        images={0: datasets.image((30, 30), 0)},
        markers={0: mask},
        segmentation={0: mask},
        rows=[[70_000, 0, 0, 0], [2**31 - 1, 0, 0, 0]],
    )
    run(dataset, tmp_path / "store")
    (sequence,) = store.open_store(tmp_path / "store")
    assert set(np.unique(sequence.labels["markers"].read().result())) == {0, 70_000, 2**31 - 1}
    assert sequence.foreground[:, 4].tolist() == [70_000, 2**31 - 1]


def test_a_movie_without_cells_and_one_without_annotation(tmp_path):
    empty = np.zeros(datasets.SHAPE, np.uint16)
    images = {7: datasets.image(datasets.SHAPE, 0)}
    dataset = datasets.write_ctc(
        tmp_path / "set", images=images, markers={7: empty}, segmentation={7: empty}, rows=[]
    )
    datasets.write_ctc(dataset, "02", images=images)
    run(dataset, tmp_path / "store")
    first, second = store.open_store(tmp_path / "store")
    assert (first.annotation, len(first.foreground)) == (["full"], 0)
    assert (second.annotation, second.labels, second.lineage) == (["none"], {}, None)
    assert len(geff_graphs.read(tmp_path / "store" / "01.geff").t) == 0
    assert not (tmp_path / "store" / "02.geff").exists()


def test_dsb_images_of_several_sizes_become_sequences_of_one_frame(tmp_path):
    dataset = datasets.write_dsb(tmp_path / "dsb", {"b": (40, 30), "a": (25, 60)})
    run(dataset, tmp_path / "store", layout="dsb", spacing=None)
    opened = store.open_store(tmp_path / "store")
    assert [(s.name, s.shape[3:], s.annotation) for s in opened] == [
        ("a", (25, 60), ["full"]),
        ("b", (40, 30), ["full"]),
    ]
    (dataset / "masks" / "a.tif").unlink()
    with pytest.raises(InputError, match=r"a\.tif.*does not exist"):
        run(dataset, tmp_path / "other", layout="dsb")
    (dataset / "index.csv").write_text("name\nb\n")
    with pytest.raises(InputError, match="no column id"):
        run(dataset, tmp_path / "other", layout="dsb")


def test_store_json_says_what_is_inside(dataset, tmp_path):
    run(dataset, tmp_path / "store")
    assert json.loads((tmp_path / "store" / store.INDEX).read_text()) == {
        "version": 2,
        "format": "ctc",
        "source": "set",
        "spacing_um": [1.0, 0.5, 0.25],
        "sequences": ["01", "02"],
    }


def test_memory_holds_a_shard_not_the_movie(tmp_path, monkeypatch):
    """Frames in memory at once: those of one shard and those that the threads are ahead."""
    dataset = datasets.write_movie(tmp_path / "set", frames=range(12), shape=(64, 64))
    monkeypatch.setattr(ome_zarr, "SHARD_VOXELS", 2 * 256 * 256)
    written = []
    real = ome_zarr.create_array

    def create(path, shape, dtype, context):
        array = real(path, shape, dtype, context)
        written.append(array.chunk_layout.write_chunk.shape)
        return array

    monkeypatch.setattr(ome_zarr, "create_array", create)
    run(dataset, tmp_path / "store")
    assert all(shape[0] == 2 for shape in written)
    (sequence,) = store.open_store(tmp_path / "store")
    masks, _ = datasets.moving_cells(range(12), (64, 64))
    np.testing.assert_array_equal(
        sequence.labels["markers"][:, 0, 0].read().result(), np.stack(list(masks.values()))
    )


@pytest.mark.parametrize(
    ("name", "annotation"),
    [
        ("Fluo-N2DL-HeLa_partial", {"markers": 10, "none": 5, "sparse": 3}),
    ],
)
def test_real_data(name, annotation, real_data, tmp_path):
    dataset = real_data(name)
    run(dataset, tmp_path / "store", allow_gaps=True)
    (sequence,) = store.open_store(tmp_path / "store")
    assert {kind: sequence.annotation.count(kind) for kind in set(sequence.annotation)} == annotation
    files = ctc.open_sequence(dataset, "01")
    assert sequence.frames.tolist() == list(files.images)
    t = len(sequence.frames) // 2
    image = tifffile.imread(files.images[int(sequence.frames[t])])
    np.testing.assert_array_equal(sequence.image[t, 0, 0].read().result(), image)
