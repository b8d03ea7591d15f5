"""What must hold of the measures whatever the movie, and CHOTA against its literal definition."""

import itertools
import math

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics import chota as chota_module
from celltrack_jax.metrics.aogm import WEIGHTS
from celltrack_jax.metrics.ctc import MEASURES, aogm_operations, ctc_measures, overlap
from celltrack_jax.metrics.matching import match_frames
from tests.metrics.movies import Movie, measure, painted, random_pair

SEEDS = range(3000, 3030)


def approx(measures: dict) -> dict:
    return {key: value if value is None else pytest.approx(value) for key, value in measures.items()}


def relabelled(movie: Movie, names: np.ndarray) -> Movie:
    """Gives label k the name names[k]; names[0] is 0."""
    rows = movie.tracks.rows()
    rows[:, [0, 3]] = names[rows[:, [0, 3]]]
    return Movie(names[movie.masks], Lineage.from_rows(rows))


def overlaps_of(truth: Movie, result: Movie) -> list:
    return [overlap(*pair, t) for t, pair in enumerate(zip(truth.masks, result.masks, strict=True))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_perfect_result_scores_one(seed):
    truth, _ = random_pair(seed)
    measures = measure(truth, truth)
    scores = {key: value for key, value in measures.items() if not key.startswith("AOGM")}
    assert {value for value in scores.values() if value is not None} == {1.0}
    assert [measures[f"AOGM_{kind}"] for kind in WEIGHTS] == [0] * 6


@pytest.mark.parametrize("seed", SEEDS)
def test_the_names_of_tracks_do_not_matter(seed):
    truth, result = random_pair(seed)
    rng = np.random.default_rng(seed)
    names = [np.append(0, rng.permutation(4_000_000_000 - np.arange(60))) for _ in range(2)]
    names[0][1:].sort()  # TF depends on the order of reference labels: test_ctc_exceptions.py
    renamed = relabelled(truth, names[0]), relabelled(result, names[1])
    assert measure(*renamed) == approx(measure(truth, result))
    names[0] = np.append(0, rng.permutation(names[0][1:]))
    without_tf = {
        key: value for key, value in measure(truth, result).items() if key not in ("TF", "BIO", "OP_CLB")
    }
    shuffled = measure(relabelled(truth, names[0]), renamed[1])
    assert {key: shuffled[key] for key in without_tf} == approx(without_tf)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_overlaps_and_the_first_frame_number_do_not_matter(seed):
    truth, result = random_pair(seed)
    overlaps = overlaps_of(truth, result)
    late = [one._replace(frame=one.frame + 997) for one in overlaps][::-1]
    shifted = [t._replace(begin=t.begin + 997, end=t.end + 997) for t in (truth.tracks, result.tracks)]
    assert ctc_measures(late, shifted[0], shifted[1], late) == approx(measure(truth, result))


@pytest.mark.parametrize("seed", SEEDS)
def test_operations_add_up_to_the_measures(seed):
    truth, result = random_pair(seed)
    measures = measure(truth, result)
    operations = aogm_operations(overlaps_of(truth, result), truth.tracks, result.tracks)
    counts = {kind: sum(op.kind == kind for op in operations) for kind in WEIGHTS}
    assert counts == {kind: measures[f"AOGM_{kind}"] for kind in WEIGHTS}
    assert measures["AOGM"] == sum(WEIGHTS[op.kind] for op in operations)
    assert measures["TRA"] == pytest.approx(max(0, 1 - measures["AOGM"] / measures["AOGM_0"]))


def test_what_is_not_known_is_none():
    truth, result = random_pair(0)
    overlaps = overlaps_of(truth, result)
    known = {
        "SEG": ctc_measures(None, None, None, overlaps),
        "DET": ctc_measures(overlaps, truth.tracks, None, None),
        "both": ctc_measures(overlaps, None, None, overlaps),
    }
    kinds = {"DET", "AOGM_NS", "AOGM_FN", "AOGM_FP"}
    expected = {"SEG": {"SEG"}, "DET": kinds, "both": kinds | {"SEG", "OP_CSB"}}
    full = measure(truth, result)
    for case, measures in known.items():
        assert tuple(measures) == MEASURES
        found = {key: value for key, value in measures.items() if value is not None}
        assert found == {key: full[key] for key in expected[case]}


def test_an_empty_reference_leaves_all_scores_undefined():
    nothing, something = painted([{}] * 2, []), painted([{1: range(4)}] * 2, [(1, 0, 1, 0)])
    assert {v for k, v in measure(nothing, nothing).items() if not k.startswith("AOGM")} == {None}
    measures = measure(nothing, something)
    assert measures["AOGM_FP"] == 2
    assert measures["DET"] is measures["TRA"] is measures["SEG"] is measures["LNK"] is measures["TF"] is None
    assert measures["CT"] == measures["CHOTA"] == 0


def test_frames_that_are_missing_break_track_links():
    movie = painted([{1: range(4)}] * 4, [(1, 0, 3, 0)])
    overlaps = [one for one in overlaps_of(movie, movie) if one.frame != 1]
    measures = ctc_measures(overlaps, movie.tracks, movie.tracks, None)
    assert measures["AOGM_0"] == 3 * 10 + 1.5
    assert measures["TRA"] == measures["LNK"] == measures["CT"] == measures["TF"] == measures["CHOTA"] == 1


def test_a_frame_given_twice_is_a_mistake():
    movie = painted([{1: range(4)}], [(1, 0, 0, 0)])
    with pytest.raises(ValueError, match="every frame"):
        ctc_measures(overlaps_of(movie, movie) * 2, movie.tracks, movie.tracks, None)


@pytest.mark.parametrize("seed", SEEDS)
def test_chota_is_its_definition(seed, monkeypatch):
    truth, result = random_pair(seed)
    matching = match_frames(overlaps_of(truth, result))
    expected = literal_chota(matching, truth.tracks, result.tracks)
    assert chota_module.chota(matching, truth.tracks, result.tracks) == pytest.approx(expected)
    monkeypatch.setattr(chota_module, "MAX_ENTRIES", 7)
    assert chota_module.chota(matching, truth.tracks, result.tracks) == pytest.approx(expected)


def literal_chota(matching, truth: Lineage, result: Lineage) -> float:
    """Kaiser et al. 2024, with sets of vertices."""
    ref_family, comp_family = families(truth), families(result)
    ref, comp = matching.ref.label.tolist(), matching.comp.label.tolist()
    pairs = [(v, w) for v, w in enumerate(matching.match.tolist()) if w >= 0]
    missed = set(range(len(ref))) - {v for v, _ in pairs}
    invented = set(range(len(comp))) - {w for _, w in pairs}
    total = 0.0
    for v, w in pairs:
        mine, theirs = ref_family[ref[v]], comp_family[comp[w]]
        tpa = sum(ref[a] in mine and comp[b] in theirs for a, b in pairs)
        fna = sum(ref[a] in mine and comp[b] not in theirs for a, b in pairs) + sum(
            ref[a] in mine for a in missed
        )
        fpa = sum(ref[a] not in mine and comp[b] in theirs for a, b in pairs) + sum(
            comp[b] in theirs for b in invented
        )
        total += tpa / (tpa + fna + fpa)
    return math.sqrt(total / (len(pairs) + len(missed) + len(invented)))


def families(lineage: Lineage) -> dict[int, set[int]]:
    """Returns the tracks that make up the clique of each track; only children belong to their parent's track."""
    parent = dict(zip(lineage.label.tolist(), lineage.parent.tolist(), strict=True))

    def above(label: int) -> set[int]:
        return {label} | (above(parent[label]) if parent[label] else set())

    clique = {label: above(label) | {d for d in parent if label in above(d)} for label in parent}
    children = [p for p in parent.values() if p]
    only = [(label, p) for label, p in parent.items() if children.count(p) == 1]
    while any(clique[a] != clique[b] for a, b in only):
        for a, b in only:
            clique[a] = clique[b] = clique[a] | clique[b]
    return clique


def test_chota_of_three_thousand_tracks():
    """Literal loops over pairs of tracks would take hours and dense matrices of pairs gigabytes."""
    tracks, length = 3000, 4
    label = np.arange(1, tracks + 1)
    begin = length * np.log2(label).astype(int)
    lineage = Lineage(label, begin, begin + length - 1, np.where(label > 1, label // 2, 0))
    frames = []
    for frame in range(begin.max() + length):
        alive = label[(lineage.begin <= frame) & (frame <= lineage.end)]
        mask = np.repeat(alive, 3)
        frames.append(overlap(mask, mask, frame))
    matching = match_frames(frames)
    assert chota_module.chota(matching, lineage, lineage) == 1
    # Without any parent every track is a family of its own: 1 / (tracks of its clique) of each vertex is right.
    lonely = lineage._replace(parent=np.zeros(tracks, np.int64))
    depth = np.log2(label).astype(int)
    below = [
        sum(min(tracks + 1, (k + 1) << d) - (k << d) for d in range(1, 12) if (k << d) <= tracks)
        for k in label
    ]
    expected = math.sqrt(np.mean(1 / (1 + depth + np.array(below))))
    assert chota_module.chota(matching, lineage, lonely) == pytest.approx(expected)


def test_a_track_that_is_its_own_ancestor_is_refused():
    movie = painted([{1: range(4), 2: range(4, 8), 3: range(8, 9), 4: range(9, 12)}], [])
    rows = [(1, 0, 0, 2), (2, 0, 0, 1), (3, 0, 0, 1), (4, 0, 0, 2)]
    looped = movie._replace(tracks=Lineage.from_rows(rows))
    with pytest.raises(InputError, match="own ancestor"):
        measure(looped, looped)


def test_operations_read_as_in_the_official_log():
    truth = painted([{1: range(4)}] * 2, [(1, 0, 1, 0)])
    result = painted([{1: range(4)}, {7: range(6, 9)}], [(1, 0, 0, 0), (7, 1, 1, 0)])
    operations = aogm_operations(overlaps_of(truth, result), truth.tracks, result.tracks)
    lines = ["T=1 GT_label=1", "T=1 Label=7", "[T=0 GT_label=1] -> [T=1 GT_label=1]"]
    assert [str(op) for op in operations] == lines
    assert list(itertools.chain(*(op.frame for op in operations))) == [1, 1, 0, 1]
