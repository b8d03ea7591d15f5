"""Overlaps against a literal count, for every dtype, shape and size of labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.metrics import overlap as overlap_module
from celltrack_jax.metrics.overlap import jaccard, matches, overlap

DTYPES = [np.uint8, np.uint16, np.uint32, np.uint64, np.int32, np.int64]


@st.composite
def masks(draw, shape):
    """Draws a mask in runs, with labels up to the dtype's largest (or to 2**40)."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    largest = min(np.iinfo(dtype).max, 2**40)
    labels = [*draw(st.lists(st.integers(0, largest), min_size=1, max_size=4)), 0, largest]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = int(np.prod(shape))
    runs = np.repeat(rng.choice(np.array(labels, dtype), size), rng.integers(1, 6, size))
    return runs[:size].reshape(shape)


@st.composite
def mask_pairs(draw):
    shape = draw(st.sampled_from([(7, 9), (3, 4, 5), (1, 1), (0, 4), (12,)]))
    return draw(masks(shape)), draw(masks(shape))


def literal(ref, comp):
    """Returns sizes by label and intersections by pair of labels."""
    sizes = [{int(k): int((m == k).sum()) for k in np.unique(m) if k} for m in (ref, comp)]
    pairs = {(r, c): int(((ref == r) & (comp == c)).sum()) for r in sizes[0] for c in sizes[1]}
    return *sizes, {pair: pixels for pair, pixels in pairs.items() if pixels}


@pytest.mark.parametrize("max_table", [overlap_module.MAX_TABLE, 3])
@given(pair=mask_pairs())
def test_overlap_counts_pixels(max_table, pair):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap_module, "MAX_TABLE", max_table)
        found = overlap(pair[0], pair[1], 5)
    ref, comp, both = literal(*pair)
    assert found.frame == 5
    assert dict(zip(found.ref_label.tolist(), found.ref_size.tolist(), strict=True)) == ref
    assert dict(zip(found.comp_label.tolist(), found.comp_size.tolist(), strict=True)) == comp
    names = zip(found.ref_label[found.ref].tolist(), found.comp_label[found.comp].tolist(), strict=True)
    assert dict(zip(names, found.intersection.tolist(), strict=True)) == both
    assert all(array.dtype == np.int64 for array in found[1:])
    assert np.all(np.diff(found.ref_label) > 0)
    assert np.all(np.diff(found.comp_label) > 0)


def test_strided_masks_count_as_their_copies():
    ref = np.arange(60).reshape(6, 10) // 7
    found, copied = (
        overlap(ref.T[::2], ref[:, ::-1].T[::2], 0),
        overlap(ref.T[::2].copy(), ref[:, ::-1].T[::2].copy(), 0),
    )
    assert all(np.array_equal(one, other) for one, other in zip(found, copied, strict=True))


def test_a_match_covers_more_than_half():
    ref = np.array([1, 1, 1, 1, 2, 2, 2, 3])
    found = overlap(ref, np.array([7, 7, 8, 8, 8, 8, 0, 0]), 0)
    assert matches(found).tolist() == [-1, 1, -1]
    assert jaccard(found).tolist() == [2 / 4, 2 / 6, 2 / 5]


def test_two_cells_in_one_cell_have_one_match():
    found = overlap(np.array([1, 1, 2, 2]), np.array([5, 5, 5, 5]), 0)
    assert matches(found).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("ref", "comp", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"frame 4: .*shape \(2, 3\).*\(3, 2\): write"),
        (np.zeros(3, int), np.array([0, -1, 2]), "frame 4: a mask has the negative label -1: use 0"),
        (np.zeros(3), np.zeros(3, int), "frame 4: a mask has dtype float64: labels are integers"),
    ],
)
def test_masks_that_do_not_fit_are_refused(ref, comp, message):
    with pytest.raises(InputError, match=message):
        overlap(ref, comp, 4)
