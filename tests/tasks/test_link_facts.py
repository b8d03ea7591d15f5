"""What is said of a movie that is unlike those of the training."""

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.tasks import link_facts
from celltrack_jax.tasks.link_truth import Truth
from celltrack_jax.tracking import links
from celltrack_jax.tracking.cells import measure_cells


def cells(width=4, spacing=(1.0, 1.0, 1.0), images=True, deep=False):
    """One square cell in each of two frames."""
    labels = np.zeros((30, 30), np.int32)
    labels[3 : 3 + width, 5 : 5 + width] = 1
    labels = np.repeat(labels[None], 5, 0) if deep else labels
    image = np.ones(labels.shape) if images else None
    return measure_cells([(t, labels, image) for t in range(2)], np.array(spacing))


def diameter(cells):
    return links.typical_diameter(cells.detections)


def compared(movie, trained, **settings):
    said = []
    found = [Truth("01", trained, np.zeros(2, np.int64), np.ones(2, bool), (0, 1))]
    facts = link_facts.facts(found, diameter, 2.0)
    settings = {"in_voxels": False, "needs_light": False, "fixed_um": 0.0} | settings
    return link_facts.fitting(movie, facts, say=said.append, **settings), said


def test_facts_are_what_was_measured():
    truth = Truth("01", cells(spacing=(1, 0.5, 0.5)), np.zeros(2, np.int64), np.ones(2, bool), (0, 1))
    (row,) = link_facts.facts([truth], diameter, 2.0)["movies"]
    wide = 2 * np.sqrt(16 * 0.25 / np.pi)
    assert row["diameter_um"] == pytest.approx(wide)
    assert row["radius_um"] == pytest.approx(2 * wide)
    assert (row["name"], row["spacing_um"], row["images"]) == ("01", [1, 0.5, 0.5], True)


@pytest.mark.parametrize("in_voxels", [False, True])
def test_a_movie_like_those_of_the_training_stays_as_it_is(in_voxels):
    movie = cells()
    found, said = compared(movie, cells(width=5), in_voxels=in_voxels, needs_light=True)
    assert found is movie
    assert said == []


def test_a_linker_that_never_saw_the_dark_needs_images():
    with pytest.raises(
        InputError, match="no images and this linker was trained with images alone: give --images"
    ):
        compared(cells(images=False), cells(), needs_light=True)
    _, said = compared(cells(images=False), cells())
    assert said == [
        "note: this linker was trained with images and the movie has none: give --images for better links"
    ]


def test_a_linker_that_never_saw_images_does_not_look_at_them():
    found, said = compared(cells(), cells(images=False))
    assert np.isnan(found.intensity).all()
    assert said == ["note: this linker was trained without images and does not look at them"]


def test_spacing_and_size_are_named_with_both_numbers():
    fine = (1.0, 0.25, 0.25)
    _, said = compared(cells(spacing=fine), cells(spacing=(1.0, 0.5, 0.5)), in_voxels=True)
    assert len(said) == 1
    assert "voxels of 0.25, 0.25 µm here and 0.5, 0.5 in training" in said[0]
    # Features in diameters do not mind, unless the cells are of another kind.
    assert compared(cells(spacing=fine), cells(spacing=(1.0, 0.5, 0.5)))[1] == []
    _, said = compared(cells(width=16), cells(width=4))
    assert said == ["note: a typical cell is 18.1 voxels wide here and 4.51 in training; links may be worse than on "
                    "movies like those"]  # fmt: skip
    # Micrometres do not compare with voxels.
    assert compared(cells(width=16), cells(spacing=fine))[1] == []
    for here, there, units in (
        (fine, (1.0, 1.0, 1.0), "µm here and in voxels"),
        ((1.0, 1.0, 1.0), fine, "voxels here and in µm"),
    ):
        (said,) = compared(cells(spacing=here), cells(spacing=there), fixed_um=4.0)[1]
        assert f"lengths are in {units} in training" in said
        assert "give --spacing as the training had it" in said
    assert compared(cells(spacing=fine), cells(spacing=fine), fixed_um=4.0)[1] == []
    _, said = compared(cells(deep=True, spacing=(2.0, 1.0, 1.0)), cells(deep=True, spacing=(5.0, 1.0, 1.0)))
    assert len(said) == 1
    assert "voxels are 2 times as deep as wide here and 5 times in training" in said[0]


def test_a_fixed_diameter_does_not_hide_that_cells_are_others():
    found = [Truth("01", cells(), np.zeros(2, np.int64), np.ones(2, bool), (0, 1))]
    facts = link_facts.facts(found, lambda _: 8.0, 2.0)
    assert facts["movies"][0]["radius_um"] == 16
    said = []
    settings = {"in_voxels": False, "needs_light": False, "fixed_um": 8.0}
    link_facts.fitting(cells(width=16), facts, say=said.append, **settings)
    assert len(said) == 1
    assert "a typical cell is 18.1 voxels wide here and 4.51 in training" in said[0]
