"""Tiles put together are the whole frame, for any tile size, in 2D and 3D."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.inference import tiles
from tests.inference.toys import Toy, whole


def by_tiles(toy, frame: np.ndarray, tiling: tiles.Tiling) -> np.ndarray:
    """Applies tile by tile to a frame (*S, C)."""
    result = np.zeros((*frame.shape[:-1], toy.channels), np.float32)
    channels_first = np.moveaxis(frame, -1, 0)
    for position in tiling.positions():
        tile = np.moveaxis(tiles.cut(channels_first, tiling, position), 0, -1)
        assert tile.shape[:-1] == tiling.tile
        tiles.add(result, toy(tile[None])[0], tiling, position)
    return result


@st.composite
def cases(draw):
    """A toy, a frame size and a tile size."""
    ndim = draw(st.sampled_from([2, 2, 3]))
    toy = Toy(ndim, radius=draw(st.integers(0, 2)), stride=draw(st.integers(1, 4)))
    most = 60 if ndim == 2 else 25
    size = tuple(draw(st.integers(1, most)) for _ in range(ndim))
    tile = tuple(draw(st.integers(1, most)) for _ in range(ndim))
    return toy, size, tile


@settings(deadline=None)
@given(cases(), st.integers(0, 99))
def test_tiles_give_the_whole_frame(case, seed):
    toy, size, tile = case
    frame = np.random.default_rng(seed).random((*size, 2), np.float32)
    tiling = tiles.make_tiling(size, tile, toy.halo, toy.stride)
    np.testing.assert_allclose(
        by_tiles(toy, frame, tiling), whole(toy, frame, toy.stride), rtol=1e-5, atol=1e-6
    )


def test_a_halo_that_is_too_small_gives_something_else():
    toy = Toy(2)
    frame = np.random.default_rng(0).random((61, 47, 1), np.float32)
    halo = tuple(radius - 2 for radius in toy.halo)
    tiling = tiles.make_tiling((61, 47), (20, 20), halo, toy.stride)
    assert np.abs(by_tiles(toy, frame, tiling) - whole(toy, frame, toy.stride)).max() > 1e-3


@settings(deadline=None)
@given(cases())
def test_weights_sum_to_one_and_fade_between_neighbours(case):
    toy, size, tile = case
    for length, axis in zip(size, tiles.make_tiling(size, tile, toy.halo, toy.stride).axes, strict=True):
        total = np.zeros(axis.padded)
        for start, weight in zip(axis.start, axis.weight, strict=True):
            total[start : start + axis.tile] += weight
            assert start % toy.stride[0] == 0
            # No jump: a tile's weight changes by less than a half from one place to the next.
            assert np.abs(np.diff(weight)).max(initial=0) <= 0.5 + 1e-6
        np.testing.assert_allclose(total, 1, atol=1e-6)
        assert 0 <= axis.padded - length < toy.stride[0]
        assert axis.tile <= axis.padded


@settings(deadline=None)
@given(cases())
def test_a_tile_that_is_large_enough_is_not_grown(case):
    toy, size, extra = case
    tile = tuple(4 * h + 4 * s + e for h, s, e in zip(toy.halo, toy.stride, extra, strict=True))
    made = tiles.make_tiling(size, tile, toy.halo, toy.stride)
    for asked, axis, stride in zip(tile, made.axes, toy.stride, strict=True):
        assert axis.tile < asked + stride


@settings(deadline=None)
@given(cases(), st.integers(1, 2000))
def test_the_chosen_shape_is_allowed_and_wastes_least(case, voxels):
    toy, size, _ = case
    chosen = tiles.fit_tile(size, voxels, toy.halo, toy.stride)
    made = tiles.make_tiling(size, chosen, toy.halo, toy.stride)
    assert made.tile == chosen
    smallest = tiles.make_tiling(size, (1,) * len(size), toy.halo, toy.stride)
    if np.prod(chosen) > voxels:
        assert np.prod(chosen) <= np.prod(smallest.tile)
    else:
        # A cube of as many voxels is one of the other possibilities.
        side = int(voxels ** (1 / len(size))) // toy.stride[0] * toy.stride[0]
        cube = tiles.make_tiling(size, (side,) * len(size), toy.halo, toy.stride)
        if np.prod(cube.tile) <= voxels:
            assert work(made) <= 1.2 * work(cube)


def work(tiling: tiles.Tiling) -> int:
    """Voxels that a frame's tiles have together."""
    return len(tiling.positions()) * int(np.prod(tiling.tile))


def test_a_deep_stack_is_cut_along_its_longest_axes():
    # The z halo leaves nothing of 32 planes; whole columns of 36 need a tenth of the work of cubes.
    shape = tiles.fit_tile((35, 512, 708), 2**21, (23, 51, 51), (4, 8, 8))
    assert shape[0] == 36
    assert np.prod(shape) <= 2**21
    cube = tiles.make_tiling((35, 512, 708), (128, 128, 128), (23, 51, 51), (4, 8, 8))
    assert 10 * work(tiles.make_tiling((35, 512, 708), shape, (23, 51, 51), (4, 8, 8))) < work(cube)


def test_a_frame_in_one_tile_is_not_copied():
    frame = np.zeros((1, 16, 8), np.uint16)
    tiling = tiles.make_tiling((16, 8), (512, 512), (4, 4), (8, 8))
    assert tiling.tile == (16, 8)
    assert np.shares_memory(tiles.cut(frame, tiling, (0, 0)), frame)
