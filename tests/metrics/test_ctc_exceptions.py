"""Where an oracle is not followed: each case by its name, with what the oracles give today.

When an oracle is upgraded and one of these fails, it has been repaired: move the case to test_ctc_oracles.py.
"""

import math

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.ctc import ctc_measures, overlap
from tests.metrics.movies import Movie, measure, measure_pyctc, measure_traccuracy, painted

A, B, C = range(4), range(4, 8), range(8, 12)
NO_TRACKS = Lineage.from_rows([])


@pytest.mark.slow
def test_a_cell_over_three_needs_two_splits(tmp_path):
    """traccuracy counts the vertex once."""
    truth = painted([{1: A, 2: B, 3: C}] * 3, [(label, 0, 2, 0) for label in (1, 2, 3)])
    result = painted([{1: range(12)}] * 3, [(1, 0, 2, 0)])
    ours, py = measure(truth, result), measure_pyctc(tmp_path, truth, result)
    traccuracy = measure_traccuracy(tmp_path, truth, result)
    assert ours["AOGM_NS"] == py["AOGM_NS"] == 6
    assert ours["AOGM"] == py["AOGM"] == 39
    assert traccuracy["AOGM_NS"] == 3


def test_a_link_to_an_only_child_where_the_truth_goes_on_has_wrong_semantics(tmp_path):
    """As in the official software; for traccuracy it is the same link."""
    truth = painted([{1: A}] * 4, [(1, 0, 3, 0)])
    result = painted([{1: A}] * 2 + [{2: A}] * 2, [(1, 0, 1, 0), (2, 2, 3, 1)])
    ours, py = measure(truth, result), measure_pyctc(tmp_path, truth, result)
    assert ours["AOGM_EC"] == py["AOGM_EC"] == 1
    assert ours["TRA"] == py["TRA"] == pytest.approx(1 - 1 / 44.5)
    assert ours["LNK"] == py["LNK"] == pytest.approx(1 - 1 / 4.5)
    assert measure_traccuracy(tmp_path, truth, result)["TRA"] == 1


def test_a_link_to_one_of_two_daughters_has_right_semantics(tmp_path):
    """For traccuracy a parent link needs several children."""
    frames = [{1: range(8)}] * 2 + [{2: A, 3: B}] * 2
    truth = painted(frames, [(1, 0, 1, 0), (2, 2, 3, 1), (3, 2, 3, 1)])
    result = painted(frames, [(1, 0, 1, 0), (2, 2, 3, 1), (3, 2, 3, 0)])
    ours, py = measure(truth, result), measure_pyctc(tmp_path, truth, result)
    assert (ours["AOGM_EC"], ours["AOGM_EA"]) == (py["AOGM_EC"], py["AOGM_EA"]) == (0, 1)
    assert measure_traccuracy(tmp_path, truth, result)["AOGM_EC"] == 1


def test_an_empty_result_scores_zero(tmp_path):
    truth = painted([{1: range(8)}] * 2 + [{2: A, 3: B}] * 2, [(1, 0, 1, 0), (2, 2, 3, 1), (3, 2, 3, 1)])
    result = Movie(np.zeros_like(truth.masks), NO_TRACKS)
    ours = measure(truth, result)
    zero = (
        "DET",
        "SEG",
        "TRA",
        "LNK",
        "OP_CSB",
        "OP_CTB",
        "CT",
        "TF",
        "BC0",
        "BC3",
        "BIO",
        "OP_CLB",
        "CHOTA",
    )
    assert {key: ours[key] for key in zero} == dict.fromkeys(zero, 0)
    assert ours["CCA"] is None
    assert ours["AOGM"] == ours["AOGM_0"] == 6 * 10 + 5 * 1.5
    with pytest.raises((IndexError, ValueError)):
        measure_pyctc(tmp_path, truth, result)
    with pytest.raises((TypeError, ValueError)):
        measure_traccuracy(tmp_path, truth, result)


def test_cells_without_tracks_are_refused():
    truth = painted([{1: A}] * 2, [(1, 0, 1, 0)])
    with pytest.raises(InputError, match=r"frame 0: the result mask has label 1, .*add its line"):
        measure(truth, truth._replace(tracks=NO_TRACKS))


def test_frames_of_background_are_fine(tmp_path):
    movie = painted([{1: A}, {}, {2: A}], [(1, 0, 0, 0), (2, 2, 2, 1)])
    ours = measure(movie, movie)
    assert ours["TRA"] == ours["SEG"] == ours["LNK"] == ours["CT"] == ours["CHOTA"] == 1
    assert measure_traccuracy(tmp_path, movie, movie)["TRA"] == 1
    with pytest.raises(IndexError):
        measure_pyctc(tmp_path, movie, movie)


def test_links_of_a_single_frame_are_undefined(tmp_path):
    movie = painted([{1: A, 2: B}], [(1, 0, 0, 0), (2, 0, 0, 0)])
    ours = measure(movie, movie)
    assert ours["TRA"] == ours["DET"] == ours["SEG"] == ours["CT"] == ours["TF"] == ours["CHOTA"] == 1
    assert ours["LNK"] is ours["OP_CLB"] is ours["CCA"] is ours["BC0"] is None
    assert math.isnan(measure_traccuracy(tmp_path, movie, movie)["LNK"])
    with pytest.raises(ValueError, match="need at least one array"):
        measure_pyctc(tmp_path, movie, movie)


def test_labels_near_the_end_of_uint16_are_counted(tmp_path):
    """py-ctcmetrics adds the labels of both masks in uint16 and scores 0 when they overflow."""
    movie = painted([{40000: A}] * 2, [(40000, 0, 1, 0)])
    assert measure(movie, movie)["TRA"] == 1
    assert measure_traccuracy(tmp_path, movie, movie)["TRA"] == 1
    assert measure_pyctc(tmp_path, movie, movie)["TRA"] == 0


def test_an_only_child_with_a_smaller_label_keeps_its_ancestors_in_chota(tmp_path):
    """py-ctcmetrics keeps the parent of the track's part with the smallest label, here the part's own head."""
    frames = [{1: range(12)}] + [{5: range(8), 4: C}] + [{3: range(8), 4: C}] * 2
    rows = [(1, 0, 0, 0), (4, 1, 3, 1), (5, 1, 1, 1), (3, 2, 3, 5)]
    truth = painted(frames, rows)
    swapped = {1: 1, 4: 4, 5: 3, 3: 5}
    renamed = [{swapped[label]: pixels for label, pixels in cells.items()} for cells in frames]
    tracks = [(swapped[row[0]], row[1], row[2], swapped.get(row[3], 0)) for row in rows]
    # The result loses the link to the first daughter.
    result = painted(frames, [(1, 0, 0, 0), (4, 1, 3, 1), (5, 1, 1, 0), (3, 2, 3, 5)])
    chota = measure(truth, result)["CHOTA"]
    assert chota == pytest.approx(measure(painted(renamed, tracks), result)["CHOTA"])
    assert chota == pytest.approx(measure_traccuracy(tmp_path, truth, result)["CHOTA"])
    assert chota == pytest.approx(measure_pyctc(tmp_path, painted(renamed, tracks), result)["CHOTA"])
    assert chota != pytest.approx(measure_pyctc(tmp_path, truth, result)["CHOTA"])


def test_track_fractions_depend_on_the_order_of_reference_labels(tmp_path):
    """We follow py-ctcmetrics, which follows the challenge: a computed track that follows a whole reference track
    is not looked for in those of greater labels."""
    result = painted([{1: A}] * 4, [(1, 0, 3, 0)])
    # The computed track follows one reference track for all of its 2 frames, then another for 2 of its 4.
    for whole, part, expected in ((1, 2, 1.0), (2, 1, (1 + 0.5) / 2)):
        frames = [{whole: A, part: B}] * 2 + [{part: A}] * 2
        truth = painted(frames, [(whole, 0, 1, 0), (part, 0, 3, 0)])
        ours = measure(truth, result)["TF"]
        assert ours == pytest.approx(expected)
        assert ours == pytest.approx(measure_pyctc(tmp_path, truth, result)["TF"])


def test_annotated_planes_count_for_themselves():
    """py-ctcmetrics stacks the planes of a frame into one object, here of SEG 0.7, once for each file."""
    ref = np.zeros((3, 1, 10), int)
    ref[:, 0, :10] = 1
    comp = np.zeros_like(ref)
    for plane, pixels in enumerate((10, 6, 5)):  # exactly half is no match
        comp[plane, 0, :pixels] = 1
    planes = [overlap(ref[z], comp[z], 0) for z in range(3)]
    assert ctc_measures(None, None, None, planes)["SEG"] == pytest.approx((1 + 0.6 + 0) / 3)
    assert ctc_measures(None, None, None, [overlap(ref, comp, 0)])["SEG"] == pytest.approx(0.7)
