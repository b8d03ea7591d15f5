"""Movies of kinetochores: what is written is read, what is bad is refused by file, line and cure."""

import csv
import re

import h5py
import numpy as np
import pytest
from scipy.spatial import cKDTree

from celltrack_jax.data import annotation, normalise, prepare, sources, store
from celltrack_jax.data.synthetic import kinetochores as synthetic
from celltrack_jax.errors import InputError
from celltrack_jax.inference import movies
from celltrack_jax.io import kinetochores, volumes
from celltrack_jax.io.points import PointTable

SHAPE = (6, 9, 8)
# frame, label, z, y, x: pair 1 whole, pair 2 without its second sister.
CELLS = [[0, 1, 1.25, 2, 3], [0, 2, 4, 7.5, 3], [0, 3, 5, 1, 1], [1, 1, 1, 2, 3.5], [1, 3, 5, 1, 2]]


def table(rows=CELLS) -> PointTable:
    rows = np.array(rows, np.float64)
    frame, label = rows[:, :2].astype(np.int64).T
    return PointTable(frame, label, rows[:, 2:], np.ones((len(rows), 3)))


def images(frames: int = 2, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, (frames, 2, *SHAPE)).astype(dtype)


@pytest.fixture
def folder(tmp_path):
    kinetochores.write_movie(tmp_path / "set" / "zygote1", images(), table())
    return tmp_path / "set"


def points_of(source, frame) -> annotation.Points:
    points = source.read(frame).points
    assert points is not None
    return points


def opened(folder, **options):
    (source,) = sources.open_sources(folder, "kinetochores", None, **options)
    return source


def prepared(folder, path, spacing=(0.3, 0.13, 0.13), crop=None):
    source = opened(folder)
    source = source if crop is None else sources.cropped(source, crop)
    prepare.prepare(
        path,
        [source],
        layout="kinetochores",
        origin="set",
        spacing_um=spacing,
        crop=crop,
        advance=lambda *_: None,
    )
    return store.open_store(path)[0]


def rewrite(folder, change):
    """Changes the rows of the table."""
    path = folder / "zygote1" / kinetochores.TABLE
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(change(rows))


def test_a_movie_is_read_as_it_was_written(folder, tmp_path):
    stored = prepared(folder, tmp_path / "store")
    assert stored.spacing_um == (0.3, 0.13, 0.13)
    np.testing.assert_array_equal(stored.image[:].read().result(), images())
    np.testing.assert_array_equal(stored.points[:, :5], np.array(CELLS)[:, [0, 2, 3, 4, 1]])
    assert stored.pointed.all()


def test_a_sister_that_misses_is_named(folder):
    assert opened(folder).notes == (
        f"{folder}/zygote1/centres.csv: rows are missing of kinetochores whose sister is there: "
        "Pair1_2 (1 time point), Pair2_2 (2 time points)",
    )


def test_rows_in_any_order_belong_to_their_time_point(folder):
    before = points_of(opened(folder), 1)
    rewrite(folder, lambda rows: [rows[0], *rows[:0:-1]])
    after = points_of(opened(folder), 1)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_crop_moves_points_and_leaves_out_others(folder, tmp_path):
    crop = [(1, 6), (1, 9), (2, 8)]
    stored = prepared(folder, tmp_path / "store", crop=crop)
    assert stored.shape == (2, 2, 5, 8, 6)
    np.testing.assert_array_equal(stored.image[:].read().result(), images()[:, :, 1:, 1:, 2:])
    # Prediction sees whole frames: grey values are scaled as theirs.
    whole = [normalise.percentiles(frame) for frame in images()]
    np.testing.assert_allclose(stored.percentiles, whole, rtol=1e-6)
    expected = [[0, 0.25, 1, 1, 1], [0, 3, 6.5, 1, 2], [1, 0, 1, 1.5, 1], [1, 4, 0, 0, 3]]
    np.testing.assert_array_equal(stored.points[:, :5], expected)
    with pytest.raises(InputError, match=r"crop .* correct --crop"):
        prepared(folder, tmp_path / "store", crop=[(0, 6), (1, 9), (2, 8)])
    with pytest.raises(InputError, match=r"t000.h5 \(frame 0\) has shape .* give a --crop"):
        sources.cropped(opened(folder), [(0, 7), (0, 9), (0, 8)]).read(0)


def test_a_point_outside_is_left_out_and_named(folder):
    rewrite(folder, lambda rows: [*rows, ["a.b.Pair7_1", "1", "8.5", "2", "2"]])
    source = opened(folder)
    assert len(points_of(source, 1).label) == 2
    assert (
        "outside of the volume of 6 x 9 x 8 (z, y, x) are left out, 1 in all: Pair7_1 (time point 1); "
        in (source.notes[0])
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["a.b.Pair1_1", "0", "1", "1", "1"], r"line 7: time point 0 has Pair1_1 already, in line 2"),
        (
            ["a.b.Pair8_1", "0", "3", "2", "1.25"],
            r"line 7: time point 0 has a kinetochore at this place already",
        ),
        (
            ["a.b.Pair8_3", "0", "1", "1", "1"],
            r"line 7: the tag 'a.b.Pair8_3' has no third word Pair<number>",
        ),
        (["Pair8_1", "0", "1", "1", "1"], r"line 7: the tag 'Pair8_1' has no third word"),
        (["a.b.Pair8_1", "0", "1", "nan", "1"], r"line 7: .*Y \(px\) 'nan' is not a number"),
        (["a.b.Pair8_1", "0.5", "1", "1", "1"], r"line 7: Time Point '0.5' is not a whole number"),
        (["a.b.Pair8_1", "4", "1", "1", "1"], r"has time point 4, of which there is no volume"),
    ],
)
def test_a_bad_row_is_refused(folder, row, message):
    rewrite(folder, lambda rows: [*rows, row])
    with pytest.raises(InputError, match=message):
        opened(folder)


@pytest.mark.parametrize(
    ("name", "message"), [("Tags", "no column 'Tags'"), ("Time Point", "no column 'Time Point'")]
)
def test_a_column_that_misses_is_named(folder, name, message):
    rewrite(folder, lambda rows: [[word.replace(name, "?") for word in rows[0]], *rows[1:]])
    with pytest.raises(InputError, match=message):
        opened(folder)


def test_other_columns_do_not_matter(folder):
    """Coordinates in micrometres, or of the unweighted centre, beside those in pixels."""
    before = points_of(opened(folder), 0)
    more = ["Volume, um3", "Center of Mass (Intensities), X (um)", "Center of Geometry, X (px)"]
    rewrite(folder, lambda rows: [more + rows[0], *(["1", "2", "3", *row] for row in rows[1:])])
    np.testing.assert_array_equal(points_of(opened(folder), 0).position, before.position)


@pytest.mark.parametrize(
    "name", ["Center of Mass (Intensities), X (µm)", "Center of Mass (Geometry), X (px)", "Center of Mass X"]
)
def test_coordinates_that_are_not_weighted_pixels_are_no_substitute(folder, name):
    wanted = "Center of Mass (Intensities), X (px)"
    rewrite(folder, lambda rows: [[name if word == wanted else word for word in rows[0]], *rows[1:]])
    with pytest.raises(InputError, match=r"no column 'Center of Mass \(Intensities\), X \(px\)'"):
        opened(folder)


def test_a_time_point_without_rows_is_not_annotated(folder, tmp_path):
    rewrite(folder, lambda rows: [row for row in rows if row[1] != "1"])
    source = opened(folder)
    assert source.read(1).points is None
    assert source.notes[-1].endswith("has no row of time points 1: they are taken for not annotated")
    assert prepared(folder, tmp_path / "store").pointed.tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda row: [*row[:4], str(float(row[4]) + 40)],
            "all 5 points lie outside .* give the whole volumes",
        ),
        (lambda row: None, "has no row of a kinetochore"),
    ],
)
def test_a_table_without_a_point_inside_is_refused(folder, change, message):
    rewrite(folder, lambda rows: [rows[0], *filter(None, map(change, rows[1:]))])
    with pytest.raises(InputError, match=message):
        opened(folder)


def test_a_channel_without_volumes_is_refused(folder):
    (folder / "zygote1" / "notes").mkdir()
    with pytest.raises(
        InputError, match=r"zygote1/notes holds no volumes .* every folder of a movie is a channel"
    ):
        opened(folder)


def test_movies_of_other_channels_are_refused(folder):
    kinetochores.write_movie(folder / "zygote2", images(), table())
    (folder / "zygote2" / "EGFP").rename(folder / "zygote2" / "sfGFP")
    with pytest.raises(
        InputError, match=r"zygote2 has the channels mCherry, sfGFP, zygote1 has EGFP, mCherry"
    ):
        sources.open_sources(folder, "kinetochores", None)


def test_masks_are_volumes_too(tmp_path):
    values = images()[0, 0] > 400
    with h5py.File(tmp_path / "t000.h5", "w") as file:
        file["exported_data"] = values
    found = volumes.read_volume(tmp_path / "t000.h5", 0)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values)


def test_a_channel_that_misses_at_a_time_point_is_named(folder):
    (folder / "zygote1" / "mCherry" / "t001.h5").unlink()
    with pytest.raises(InputError, match=r"mCherry lacks frame 1, which other channels \(EGFP\) have"):
        opened(folder)


def test_a_time_point_that_misses_is_named_unless_allowed(folder):
    for channel in kinetochores.CHANNELS:
        (folder / "zygote1" / channel / "t001.h5").rename(folder / "zygote1" / channel / "t003.h5")
    rewrite(folder, lambda rows: [row for row in rows if row[1] != "1"])
    with pytest.raises(InputError, match=r"allow_gaps"):
        opened(folder)
    assert list(opened(folder, allow_gaps=True).files) == [0, 3]


def test_channels_of_different_shapes_are_refused(folder):
    volumes.write_volume(folder / "zygote1" / "mCherry" / "t001.h5", np.zeros((6, 9, 7), np.uint16))
    with pytest.raises(InputError, match=r"mCherry/t001.h5 \(frame 1\) is \(6, 9, 7\) uint16, EGFP is"):
        opened(folder).read(1)


def test_nan_voxels_are_refused(tmp_path):
    values = images(dtype=np.float32)
    values[1, 0, 2, 3, 4] = np.nan
    kinetochores.write_movie(tmp_path / "set" / "zygote1", values, table())
    with pytest.raises(InputError, match=r"t001.h5 \(frame 1\) has values that are not finite"):
        prepared(tmp_path / "set", tmp_path / "store")


@pytest.mark.parametrize("shape", [(1, *SHAPE, 1), (*SHAPE, 1), SHAPE])
def test_axes_of_length_one_do_not_matter(tmp_path, shape):
    values = images()[0, 0]
    with h5py.File(tmp_path / "t000.h5", "w") as file:
        file["exported_data"] = values.reshape(shape)
    np.testing.assert_array_equal(volumes.read_volume(tmp_path / "t000.h5", 0), values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": np.zeros(SHAPE)}, r"has no data set 'exported_data', but \['other'\]"),
        ({"exported_data": np.zeros((*SHAPE, 2))}, r"exported_data has shape \(6, 9, 8, 2\)"),
        ({"exported_data": np.zeros((9, 8))}, r"exported_data has shape \(9, 8\)"),
        (None, "cannot read"),
    ],
)
def test_a_bad_volume_is_refused(tmp_path, content, message):
    path = tmp_path / "t000.h5"
    if content is None:
        path.write_bytes(b"no volume")
    else:
        with h5py.File(path, "w") as file:
            for name, values in content.items():
                file[name] = values
    with pytest.raises(InputError, match=message):
        volumes.read_volume(path, 0)


def test_the_folder_above_is_told_apart(folder):
    with pytest.raises(InputError, match="holds no movies but its folders set do"):
        opened(folder.parent)


def test_a_movie_is_predicted_from_its_volumes(folder):
    movie = movies.open_movie(folder / "zygote1")
    assert movie.shape == (2, *SHAPE)
    assert movie.frames == [0, 1]
    np.testing.assert_array_equal(movie.read(1), images()[1])


SPEC = synthetic.KinetochoreSpec(frames=3)


def test_simulated_movies_are_as_specified():
    movie = synthetic.make_movie(SPEC, 0)
    assert movie.images.shape == (3, 2, 48, 128, 128)
    assert np.bincount(movie.cells.frame).tolist() == [79] * 3
    assert synthetic.MISSING not in movie.cells.label
    first = movie.truth.frame == 0
    place = movie.truth.position[first] * SPEC.spacing_um
    nearest = np.percentile(cKDTree(place).query(place, 2)[0][:, 1], [5, 50])
    assert nearest[0] > 0.3
    assert 0.7 < nearest[1] < 1.0
    label = movie.truth.label[first]
    apart = [
        np.linalg.norm(place[label == name] - place[label == name + 1])
        for name in range(1, 80, 2)
        if name != 5
    ]
    assert np.mean(apart) == pytest.approx(0.9, abs=0.08)
    # Bright where the points say so: the brightest voxel around a point, of the first channel, is at its place.
    voxel = np.rint(movie.truth.position[first]).astype(int)
    light = movie.images[0, 0].astype(float)
    assert np.median(light[tuple(voxel.T)]) > np.percentile(light, 99)


def test_labels_are_noisy_only_where_asked(tmp_path):
    noisy = synthetic.KinetochoreSpec(frames=2, drop=0.1, shift=0.1, jitter_um=0.05)
    exact, rough = (synthetic.make_movie(spec, 3) for spec in (SPEC, noisy))
    assert np.array_equal(exact.truth.position[:79], rough.truth.position[:79])
    assert np.array_equal(exact.cells.position, exact.truth.position)
    assert 0.02 < 1 - len(rough.cells.frame) / len(rough.truth.frame) < 0.3
    small = synthetic.KinetochoreSpec(frames=1, shape=(40, 100, 100), drop=0.3)
    synthetic.write_movies(tmp_path, train=1, test=1, spec=small, seed=0)
    counts = [len(points_of(opened(tmp_path / split), 0).label) for split in ("train", "test")]
    assert counts[0] < 70 < counts[1]


def test_too_many_pairs_are_refused():
    with pytest.raises(InputError, match="do not fit into a cloud"):
        synthetic.make_movie(synthetic.KinetochoreSpec(frames=1, pairs=400, cloud_um=(2, 2, 2)), 0)


def test_tags_name_sisters():
    assert [kinetochores.tag(label) for label in (1, 2, 5, 6)] == ["Pair1_1", "Pair1_2", "Pair3_1", "Pair3_2"]
    assert re.fullmatch(r"Pair\d+_[12]", kinetochores.tag(79))
