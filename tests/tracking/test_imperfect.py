"""Imperfect detections against a walk over ancestors, and what each kind of error keeps."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.tracking.cells import Cells, measure_cells, select
from celltrack_jax.tracking.graph import candidates, edge_features
from celltrack_jax.tracking.handmade import ben_haim2022, physical
from celltrack_jax.tracking.imperfect import ImperfectSpec, degrade

PERFECT = ImperfectSpec(drop=0, false=0, split=0, merge=0, jitter=0, scale=0, max_gap=2)
SPACING = np.array([2.0, 0.5, 0.25])


def movie(seed: int, volume: bool = False, images: bool = True, margin: int = 0) -> tuple[Cells, np.ndarray]:
    """Cells of random pixels, so far from the border, numbered by their embeddings, and random predecessors."""
    rng = np.random.default_rng(seed)
    shape = (3, 9, 8) if volume else (9, 8)
    frames = [
        (frame, rng.choice(9, shape, p=[0.52, *[0.06] * 8]), rng.random(shape) if images else None)
        for frame in (0, 1, 2, 3, 5, 6)
    ]
    padded = ((f, np.pad(m, margin), None if i is None else np.pad(i, margin)) for f, m, i in frames)
    cells = measure_cells(padded, SPACING)
    frame = cells.detections.frame
    cells = cells._replace(embedding=np.arange(len(frame), dtype=np.float32)[:, None])
    parents = [rng.choice(np.append(np.flatnonzero((frame < f) & (frame > f - 4)), -1)) for f in frame]
    return cells, np.array(parents)


def degraded(cells: Cells, parents: np.ndarray, seed: int = 0, **changes: Any):
    """Degrades perfect cells by what is given."""
    return degrade(cells, parents, np.random.default_rng(seed), PERFECT._replace(**changes))


def names(cells: Cells) -> list[tuple[int, int]]:
    """Frame and label of each."""
    return list(zip(cells.detections.frame.tolist(), cells.detections.label.tolist(), strict=True))


def assert_equal(one: Cells, two: Cells) -> None:
    """Compares everything."""
    for a, b in zip(one.detections + one[1:], two.detections + two[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("volume", [False, True])
def test_nothing_happens_at_zero_rates(volume):
    cells, parents = movie(0, volume)
    same, links, real = degraded(cells, parents)
    assert_equal(same, cells)
    np.testing.assert_array_equal(links, parents)
    assert real.all()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 999), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 4))
def test_links_go_to_the_nearest_ancestor_that_is_left(seed, drop, max_gap):
    cells, parents = movie(seed % 5)
    fewer, links, real = degraded(cells, parents, seed, drop=drop, max_gap=max_gap)
    assert real.all()
    before, after = names(cells), names(fewer)
    assert_equal(fewer, select(cells, np.array([before.index(name) for name in after], np.int64)))
    for name, link in zip(after, links.tolist(), strict=True):
        ancestor = parents[before.index(name)]
        while ancestor >= 0 and before[ancestor] not in after:
            ancestor = parents[ancestor]
        far = ancestor < 0 or name[0] - before[ancestor][0] > max_gap + 1
        assert (before[ancestor] if not far else None) == (after[link] if link >= 0 else None)


def test_daughters_of_a_dropped_mother_follow_what_is_left_of_her():
    masks = [np.diag([1, 0, 0]), np.diag([1, 0, 0]), np.diag([2, 0, 3])]
    cells = measure_cells([(n, mask, None) for n, mask in enumerate(masks)], np.ones(3))
    parents = np.array([-1, 0, 1, 1])
    results = [degraded(cells, parents, seed, drop=0.3, max_gap=1) for seed in range(30)]
    links = [links.tolist() for fewer, links, _ in results if names(fewer) == [(0, 1), (2, 2), (2, 3)]]
    assert links
    assert all(link == [-1, 0, 0] for link in links)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 999), st.booleans(), st.booleans())
def test_whatever_goes_wrong_the_cells_stay_cells(seed, volume, images):
    cells, parents = movie(seed % 5, volume, images)
    rates: Any = dict.fromkeys(("drop", "false", "split", "merge", "jitter", "scale"), 0.3)
    result, links, real = degraded(cells, parents, seed, **rates)
    again = degraded(cells, parents, seed, **rates)
    assert_equal(result, again[0])
    np.testing.assert_array_equal(links, again[1])
    found = names(result)
    assert found == sorted(set(found))
    assert set(np.array(names(cells))[:, 0]) >= {frame for frame, _ in found}
    assert (links[~real] == -1).all()
    linked = links >= 0
    assert real[links[linked]].all()
    assert (result.detections.frame[links[linked]] < result.detections.frame[linked]).all()
    assert (result.low >= 0).all()
    assert (result.high <= result.shape).all()
    assert (result.low < result.high).all()
    position = result.detections.position_um
    assert ((position >= 0) & (position <= (result.shape - 1) * cells.spacing_um)).all()
    assert (np.linalg.eigvalsh(result.covariance_um.astype(np.float64)) > -1e-4).all()
    assert np.isfinite(result.intensity).all() == images
    for before, after in zip(cells.detections + cells[1:], result.detections + result[1:], strict=True):
        assert before.dtype == after.dtype
    edges = candidates(result.detections, radius_um=9, max_gap=1, max_neighbours=3)
    assert np.isfinite(edge_features(result, edges, 1.0)).all()
    assert np.isfinite(physical(result, 1.0)).all()
    assert np.isfinite(ben_haim2022(result, "3d" if volume else "2d")).all()


def mixture(cells: Cells) -> tuple[float, np.ndarray, np.ndarray]:
    """Volume, centre and covariance of all cells together."""
    weight = cells.detections.volume_um / cells.detections.volume_um.sum()
    centre = weight @ cells.detections.position_um
    offset = cells.detections.position_um - centre
    spread = cells.covariance_um + offset[:, :, None] * offset[:, None]
    return float(cells.detections.volume_um.sum()), centre, np.einsum("n,nij->ij", weight, spread)


@pytest.mark.parametrize("volume", [False, True])
def test_parts_of_a_split_cell_make_it_up(volume):
    cells, parents = movie(1, volume, margin=9)
    parts, links, real = degraded(cells, parents, 0, split=1)
    assert len(real) == 2 * len(parents)
    assert real.sum() == len(parents)
    before, after = names(cells), names(parts)
    for index, name in enumerate(before):
        larger = after.index(name)
        assert real[larger]
        assert parts.embedding[larger] == index
        parent = parents[index]
        assert (before[parent] if parent >= 0 else None) == (
            after[links[larger]] if links[larger] >= 0 else None
        )
    for frame in np.unique(cells.detections.frame):
        whole, halves = (select(c, c.detections.frame == frame) for c in (cells, parts))
        for one, two in zip(mixture(whole), mixture(halves), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("volume", [False, True])
def test_merged_cells_are_both_together(volume):
    shape = (5, 12, 30) if volume else (12, 30)
    mask = np.zeros(shape, np.int64)
    mask[..., 2:7, 2:9], mask[..., 3:6, 10:14], mask[..., 4:6, 26:29] = 1, 2, 3
    image = np.random.default_rng(0).random(shape)
    cells = measure_cells([(4, mask, image), (5, mask, image)], np.array([1.0, 0.5, 0.5]))
    parents = np.array([-1, -1, -1, 0, 1, 2])
    fewer, links, real = degraded(cells, parents, merge=1)
    assert names(fewer) == [(4, 1), (4, 3), (5, 1), (5, 3)]
    assert links.tolist() == [-1, -1, 0, 1]
    assert real.all()
    union = measure_cells([(4, np.where(mask == 2, 1, mask), image)], np.array([1.0, 0.5, 0.5]))
    first = select(fewer, np.arange(2))
    for one, two in zip(first.detections + first[1:], union.detections + union[1:], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("volume", [False, True])
def test_false_ones_are_of_the_size_of_cells_and_linked_to_none(volume):
    cells, parents = movie(2, volume)
    more, links, real = degraded(cells, parents, false=1)
    assert (links[~real] == -1).all()
    false = select(more, ~real)
    assert len(false.low) == len(parents)
    assert set(false.detections.volume_um) <= set(cells.detections.volume_um)
    assert {tuple(row) for row in false.intensity} <= {tuple(row) for row in cells.intensity}
    shown = false.embedding[:, 0].astype(int)
    np.testing.assert_array_equal(false.intensity, cells.intensity[shown])
    assert len(set(shown)) > len(shown) / 3
    factor = 5 if volume else 4
    radius = np.sqrt(factor * false.covariance_um[:, 2, 2])
    size = 4 / 3 * np.pi * radius**3 if volume else np.pi * radius**2
    np.testing.assert_allclose(size, false.detections.volume_um, rtol=1e-4)
    assert (false.covariance_um[:, 0, 0] > 0).all() == volume
    assert_equal(select(more, real), cells)


def test_jitter_and_scale_are_as_large_as_told():
    mask = np.zeros((300, 300), np.int64)
    places = np.arange(400)
    for dy in range(5):
        for dx in range(5):
            mask[10 + 14 * (places // 20) + dy, 10 + 14 * (places % 20) + dx] = places + 1
    cells = measure_cells([(0, mask, None)], np.full(3, 0.5))
    parents = np.full(400, -1)
    moved, _, _ = degraded(cells, parents, jitter=0.2, scale=0.1)
    diameter = 2 * np.sqrt(25 * 0.25 / np.pi)
    step = (moved.detections.position_um - cells.detections.position_um) / diameter
    assert (step[:, 0] == 0).all()
    assert step[:, 1:].std() == pytest.approx(0.2, rel=0.1)
    growth = moved.detections.volume_um / cells.detections.volume_um
    assert np.log(growth).std() == pytest.approx(0.1, rel=0.15)
    np.testing.assert_allclose(moved.covariance_um[:, 1, 1] / cells.covariance_um[:, 1, 1], growth, rtol=1e-4)
    middle = (moved.low + moved.high - 1) / 2 * 0.5
    assert np.abs(middle - moved.detections.position_um).max() <= 0.5
    extent = np.prod((moved.high - moved.low)[:, 1:], axis=1).mean()
    assert extent == pytest.approx(25, rel=0.05)


def test_a_movie_without_cells_stays_empty():
    cells = measure_cells([(0, np.zeros((3, 3), np.uint8), None)], SPACING)
    rates: Any = dict.fromkeys(("drop", "false", "split", "merge", "jitter", "scale"), 1.0)
    result, links, real = degraded(cells, np.zeros(0, np.int64), **rates)
    assert len(result.low) == len(links) == len(real) == 0
