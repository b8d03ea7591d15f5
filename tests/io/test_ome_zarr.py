"""OME-Zarr: what we write others read, and what others write we read."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.io import ome_zarr as ours

sizes = st.tuples(*(st.integers(1, most) for most in (500, 3, 300, 5000, 5000)))


@settings(deadline=None)
@given(sizes)
def test_shards_are_whole_chunks_and_bounded(shape):
    chunk, shard = ours.chunk_shape(shape), ours.shard_shape(shape)
    assert all(big % small == 0 for big, small in zip(shard, chunk, strict=True))
    assert math.prod(shard) <= ours.SHARD_VOXELS
    # No shard reaches beyond the array by a chunk or more.
    assert all(big < size + small for big, size, small in zip(shard, shape, chunk, strict=True))


@settings(deadline=None)
@given(sizes)
def test_shards_are_as_large_as_the_bound_allows(shape):
    chunk, shard = ours.chunk_shape(shape), ours.shard_shape(shape)
    whole = all(big >= size for axis, (big, size) in enumerate(zip(shard, shape, strict=True)) if axis != 1)
    assert whole or 2 * math.prod(shard) > ours.SHARD_VOXELS - math.prod(chunk)


@pytest.mark.parametrize("shape", [(3, 2, 1, 300, 40), (2, 1, 35, 140, 9)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
def test_zarr_reads_what_we_write(tmp_path, shape, dtype):
    import zarr

    values = np.random.default_rng(0).integers(0, 250, shape).astype(dtype)
    array = ours.create_array(tmp_path / "0", shape, dtype, ts.Context())
    array.write(values).result()
    ours.write_group(tmp_path, {"ome": ours.image_attributes("a", (2, 0.5, 0.25))})
    found: Any = zarr.open_group(tmp_path, mode="r")["0"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[:], values)
    assert found.metadata.codecs[0].to_dict()["name"] == "sharding_indexed"
    opened = ours.open_image(tmp_path)
    np.testing.assert_array_equal(opened.array.read().result(), values)
    assert (opened.spacing_um.tolist(), opened.spacing_known) == ([2, 0.5, 0.25], True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the reference writer warns about its own default
def test_paths_may_climb(tmp_path):
    (tmp_path / "a").mkdir()
    climbing = tmp_path / "a" / ".." / "b"
    ours.create_array(climbing / "0", (1, 1, 1, 4, 5), np.uint8, ts.Context()).write(7).result()
    ours.write_group(climbing, {"ome": ours.image_attributes("b", (1, 1, 1))})
    assert np.all(ours.open_image(climbing).array.read().result() == 7)
    assert ours.open_array(climbing / "0", ts.Context()).result().shape == (1, 1, 1, 4, 5)


@pytest.mark.parametrize("axes", ["yx", "tyx", "cyx", "zyx", "tzyx", "tczyx", "ctyx"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_images_of_others_open_with_five_axes(tmp_path, axes, version):
    """The writer is the reference implementation; axes that it refuses to write (c before t) we write as zarr."""
    import ome_zarr.format as formats
    import ome_zarr.writer
    import zarr

    lengths = dict(zip("tczyx", (2, 3, 4, 5, 6), strict=True))
    values = np.random.default_rng(0).integers(0, 99, [lengths[axis] for axis in axes]).astype(np.uint16)
    kinds = {"t": "time", "c": "channel"}
    described = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for axis in described:
        if axis["type"] == "space":
            axis["unit"] = "nanometer"
    scale = [{"z": 2000.0, "y": 500.0, "x": 250.0}.get(axis, 1.0) for axis in axes]
    transforms = [[{"type": "scale", "scale": scale}]]
    group = zarr.open_group(tmp_path, mode="w", zarr_format=2 if version == "0.4" else 3)
    if axes == "ctyx":
        group.create_array("0", data=values)
        multiscale = {
            "axes": described,
            "datasets": [{"path": "0", "coordinateTransformations": transforms[0]}],
        }
        ome = {"version": version, "multiscales": [multiscale]}
        group.attrs.update(ome if version == "0.4" else {"ome": ome})
    else:
        fmt = formats.FormatV04() if version == "0.4" else formats.FormatV05()
        ome_zarr.writer.write_multiscale(
            [values], group, fmt=fmt, axes=described, coordinate_transformations=transforms
        )
    opened = ours.open_image(tmp_path)
    there = [axes.index(axis) for axis in "tczyx" if axis in axes]
    expected = values.transpose(there).reshape([lengths[a] if a in axes else 1 for a in "tczyx"])
    np.testing.assert_array_equal(opened.array.read().result(), expected)
    np.testing.assert_allclose(opened.spacing_um, [2.0 if "z" in axes else 1.0, 0.5, 0.25])
    assert opened.spacing_known


def test_part_of_an_opened_image_is_read_by_plain_indices(tmp_path):
    values = np.arange(2 * 5 * 6, dtype=np.uint8).reshape(2, 1, 1, 5, 6)
    ours.create_array(tmp_path / "0", values.shape, np.uint8, ts.Context()).write(values).result()
    ours.write_group(tmp_path, {"ome": ours.image_attributes("a", None)})
    opened = ours.open_image(tmp_path)
    np.testing.assert_array_equal(opened.array[1, 0, 0, 2:4, 1:].read().result(), values[1, 0, 0, 2:4, 1:])
    assert not opened.spacing_known


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, "no OME-Zarr image metadata"),
        ({"ome": {"multiscales": []}}, "no OME-Zarr image metadata"),
        ({"ome": {"multiscales": [{"axes": [{"name": "q"}], "datasets": [{"path": "0"}]}]}}, "axes 'q'"),
        (
            {"ome": {"multiscales": [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]}]}},
            "cannot open",
        ),
    ],
)
def test_a_group_that_is_no_image_is_refused(tmp_path, attributes, words):
    ours.write_group(tmp_path, attributes)
    with pytest.raises(InputError, match=words):
        ours.open_image(tmp_path)


def test_a_folder_that_is_no_group_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a zarr group"):
        ours.open_image(tmp_path)
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="cannot read"):
        ours.open_image(tmp_path)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_tables_are_read_back(tmp_path, rows):
    table = np.random.default_rng(0).integers(-9, 9, (rows, 3)).astype(np.int32)
    ours.write_table(tmp_path / "t", table, ts.Context())
    found = ours.open_array(tmp_path / "t", ts.Context()).result()
    assert found.dtype.numpy_dtype == np.int32
    np.testing.assert_array_equal(found.read().result(), table)


def test_equal_groups_are_equal_bytes(tmp_path):
    items = [("a", 1), ("b", {"d": 2, "c": 3})]
    for name, order in zip("xyz", itertools.permutations(items), strict=False):
        ours.write_group(tmp_path / name, dict(order))
    assert (tmp_path / "x" / "zarr.json").read_bytes() == (tmp_path / "y" / "zarr.json").read_bytes()
