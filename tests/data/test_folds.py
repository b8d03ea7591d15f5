"""Folds: each annotated frame in one, each category in all, and the same for every run."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.data import folds
from celltrack_jax.data.store import StoredSequence
from celltrack_jax.errors import InputError


def sequence(name: str, category: str | None, annotation: list[str]) -> StoredSequence:
    fields: dict[str, Any] = dict.fromkeys(StoredSequence._fields)
    known = {"name": name, "category": category, "annotation": annotation, "annotation_silver": annotation}
    return StoredSequence(**fields | known)


stores = st.dictionaries(
    st.sampled_from(["astro", "cort", "cort_5x5", "who"]),
    st.lists(st.sampled_from(["full", "full", "none"]), max_size=30),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(stores, st.integers(2, 6))
def test_folds_are_equal_parts_of_each_category(drawn, count):
    kinds = {"astro": "astro", "cort": "cort", "cort_5x5": "cort", "who": None}
    sequences = [sequence(name, kinds[name], annotation) for name, annotation in drawn.items()]
    every = {
        (name, t) for name, annotation in drawn.items() for t, kind in enumerate(annotation) if kind == "full"
    }
    if len(every) < count:
        with pytest.raises(InputError, match=f"{len(every)} annotated frames make no {count} folds"):
            folds.deal(sequences, count, 0)
        return
    dealt = [folds.deal(sequences, count, fold) for fold in range(count)]
    flat = [[(name, t) for name, frames in one.items() for t in frames] for one in dealt]
    assert sorted(pair for one in flat for pair in one) == sorted(every)
    for chosen in ({None}, {"cort"}, {"astro"}, set(kinds.values())):
        sizes = [sum(kinds[name] in chosen for name, _ in one) for one in flat]
        assert max(sizes) - min(sizes) <= 1


def test_folds_of_the_competition():
    """320, 155 and 131 images in five folds: 64, 31 and 26 or 27 (docs/originals.md, 3.1), in no order."""
    counts = {"astro": 131, "cort": 320, "shsy5y": 155}
    sequences = [sequence(name, name, ["full"] * count) for name, count in counts.items()]
    dealt = [folds.deal(sequences, 5, fold) for fold in range(5)]
    assert [[len(one[name]) for name in counts] for one in dealt] == [
        [27, 64, 31],
        [26, 64, 31],
        [26, 64, 31],
        [26, 64, 31],
        [26, 64, 31],
    ]
    assert np.std(np.diff(dealt[0]["cort"])) > 2
    assert dealt == [folds.deal(sequences, 5, fold) for fold in range(5)]


def test_single_images_are_dealt_too():
    sequences = [sequence(f"{k:02d}", None, ["full"]) for k in range(10)]
    found = [[name for name, frames in folds.deal(sequences, 3, fold).items() if frames] for fold in range(3)]
    assert sorted(name for one in found for name in one) == [one.name for one in sequences]
    assert [len(one) for one in found] == [4, 3, 3]
    assert found[0] != [f"{k:02d}" for k in range(0, 10, 3)]


@pytest.mark.parametrize(("count", "fold"), [(1, 0), (5, 5), (5, -1)])
def test_folds_that_do_not_exist_are_refused(count, fold):
    with pytest.raises(
        InputError, match=f"evaluation.fold is {fold} of {count}: set evaluation.folds to 2 or more"
    ):
        folds.deal([sequence("a", None, ["full"] * 9)], count, fold)
