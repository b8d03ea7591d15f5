"""Ways to choose links by name: each is the function of its name, with the config's settings."""

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.lineage import Detections
from celltrack_jax.tracking import choose
from celltrack_jax.tracking.cells import Cells
from celltrack_jax.tracking.expected_aogm import expected_aogm
from celltrack_jax.tracking.graph import Candidates
from celltrack_jax.tracking.ilp import ilp
from celltrack_jax.tracking.scored_links import Costs, greedy_ben_haim2022, hungarian_scored

FALSE_PENALTY = 2.3


@pytest.fixture
def movie():
    """Detections, each at a whole voxel of 0.5 x 0.2 µm, and scored candidates from frame to frame."""
    rng = np.random.default_rng(0)
    frame = np.repeat(np.arange(5), 6)
    voxel = np.stack([np.zeros(30), *rng.integers(0, 40, (2, 30))], 1)
    spacing = np.array([1.0, 0.5, 0.2])
    found = Detections(frame, np.arange(1, 31), voxel * spacing, np.ones(30))
    source, target = (each.ravel() for each in np.meshgrid(np.arange(30), np.arange(30), indexing="ij"))
    near = (frame[target] == frame[source] + 1) & (rng.random(900) < 0.6)
    order = np.lexsort((source[near], target[near]))
    edges = Candidates(source[near][order], target[near][order])
    costs = Costs(rng.normal(size=near.sum()), *np.split(rng.normal(1, 1, 120), 4))
    empty = np.zeros((30, 3), np.int64)
    cells = Cells(
        found,
        np.zeros((30, 3, 3)),
        empty,
        empty + 1,
        np.zeros((30, 4)),
        np.array([1, 40, 40]),
        spacing,
        np.zeros((30, 0)),
    )
    return cells, edges, costs, voxel


def check_same(ours, expected):
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (ours.parent >= 0).any()


def test_a_false_detection_costs_the_penalty_more(movie):
    cells, edges, costs, _ = movie
    frame = cells.detections.frame
    dearer = costs._replace(false=costs.false + FALSE_PENALTY)
    limits = {"window": 3, "overlap": 1, "time_limit_s": 10.0}
    chosen = choose.chooser("ilp", **limits, false_penalty=FALSE_PENALTY)(cells, edges, costs)
    check_same(chosen, ilp(frame, edges.source, edges.target, dearer, **limits))
    chosen = choose.chooser("hungarian", false_penalty=FALSE_PENALTY)(cells, edges, costs)
    check_same(chosen, hungarian_scored(frame, edges.source, edges.target, dearer))
    assert not np.array_equal(hungarian_scored(frame, edges.source, edges.target, costs).kept, chosen.kept)


def test_expected_aogm_is_what_the_integer_program_makes_least(movie):
    cells, edges, costs, _ = movie
    frame = cells.detections.frame
    limits = {"window": 3, "overlap": 1, "time_limit_s": 10.0}
    chosen = choose.chooser("expected_aogm", **limits, reject=4.0, drawn=0.5)(cells, edges, costs)
    expected = expected_aogm(frame, edges.source, edges.target, costs, reject=4.0, drawn=0.5)
    check_same(chosen, ilp(frame, edges.source, edges.target, expected, **limits))


def test_the_original_measures_in_voxels(movie):
    cells, edges, costs, voxel = movie
    frame = cells.detections.frame
    probability = 1 / (1 + np.exp(costs.edge))
    chosen = choose.chooser("greedy_ben_haim2022")(cells, edges, costs)
    check_same(chosen, greedy_ben_haim2022(frame, voxel, edges.source, edges.target, probability))
    physical = greedy_ben_haim2022(
        frame, cells.detections.position_um, edges.source, edges.target, probability
    )
    assert not np.array_equal(physical.parent, chosen.parent)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("magic", {}, "linking.name 'magic' is none of expected_aogm, ilp, hungarian, greedy_ben_haim2022"),
        ("hungarian", {}, "config.linking has nothing beside its name; hungarian takes false_penalty"),
        (
            "greedy_ben_haim2022",
            {"window": 3},
            "has window beside its name; greedy_ben_haim2022 takes nothing",
        ),
    ],
)
def test_other_names_and_settings_are_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        choose.chooser(name, **settings)
