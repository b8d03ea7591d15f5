"""Synthetic movies keep the CTC rules, move and divide as specified, and are lit as specified."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from celltrack_jax.data.synthetic import SyntheticSpec, make_movie, write_ctc
from celltrack_jax.data.synthetic.microscope import expose
from celltrack_jax.data.synthetic.nuclei import advance, first_nuclei
from celltrack_jax.errors import InputError
from celltrack_jax.io import ctc
from tests.ctc_validators import validate_truth

FLAT = SyntheticSpec(frames=8, shape=(64, 64), spacing_um=(1.0, 1.0), cells=8, cell_cycle_frames=10)
DEEP = SyntheticSpec(
    frames=4,
    shape=(8, 32, 32),
    spacing_um=(2.0, 1.0, 1.0),
    psf_um=(1.5, 0.6, 0.6),
    cells=6,
    radius_um=5.0,
    cell_cycle_frames=6,
)
STILL = replace(
    FLAT, shape=(96, 96), cells=10, speed_um=0.0, turn_rad=0.0, roughness=0.0, elongation=0.0,
    cell_cycle_frames=1e9, confluence=0.0, separation=0.0,
)  # fmt: skip


def assert_keeps_ctc_rules(labels, lineage):
    tracks = {row[0]: row[1:] for row in lineage.rows().tolist()}
    assert sorted(tracks) == list(range(1, len(tracks) + 1))
    frames_of: dict[int, list[int]] = {label: [] for label in tracks}
    for frame, mask in enumerate(labels):
        for label in np.unique(mask[mask > 0]).tolist():
            frames_of[label].append(frame)
    children: dict[int, int] = {}
    for label, (begin, end, parent) in tracks.items():
        assert frames_of[label] == list(range(begin, end + 1))
        if parent:
            assert tracks[parent][1] == begin - 1
            children[parent] = children.get(parent, 0) + 1
    assert set(children.values()) <= {2}


@settings(max_examples=30, deadline=None)
@given(
    base=st.sampled_from([FLAT, DEEP]),
    frames=st.integers(1, 8),
    cells=st.integers(0, 8),
    speed=st.sampled_from([0.0, 1.0, 6.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_truth_keeps_the_ctc_rules(base, frames, cells, speed, seed):
    movie = make_movie(replace(base, frames=frames, cells=cells, speed_um=speed), seed)
    assert movie.images.shape == movie.labels.shape == (frames, *base.shape)
    assert movie.images.dtype == movie.labels.dtype == np.uint16
    assert_keeps_ctc_rules(movie.labels, movie.lineage)


def test_nuclei_touch_but_every_one_is_one_piece():
    movie = make_movie(SyntheticSpec(frames=3, cells=60), 3)
    touching = set()
    for mask in movie.labels:
        for label in np.unique(mask[mask > 0]):
            assert ndimage.label(mask == label, np.ones((3, 3)))[1] == 1  # pyright: ignore
        pairs = np.stack([mask[:, :-1].ravel(), mask[:, 1:].ravel()])
        pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs > 0).all(axis=0)]
        touching |= set(map(tuple, np.sort(pairs, axis=0).T.tolist()))
    assert len(touching) > 10


def test_centres_stay_apart():
    spec = replace(FLAT, shape=(128, 128), cells=25)
    rng = np.random.default_rng(0)
    nuclei = first_nuclei(spec, rng)
    for _ in range(20):
        nuclei = advance(nuclei, spec, rng)
    distance = np.linalg.norm(nuclei.position[:, None] - nuclei.position[None], axis=-1)
    radius = nuclei.radius(spec)
    relative = distance / (radius[:, None] + radius[None])
    settled = (nuclei.recovery == 0)[:, None] & ~np.eye(len(radius), dtype=bool)
    assert relative[settled].min() > 0.5


@pytest.mark.parametrize("spec", [FLAT, DEEP])
def test_motion_is_bounded(spec):
    spec = replace(spec, speed_um=5.0, max_step_um=1.5)
    rng = np.random.default_rng(0)
    nuclei = first_nuclei(spec, rng)
    for _ in range(10):
        after = advance(nuclei, spec, rng)
        _, old, new = np.intersect1d(nuclei.identity, after.identity, return_indices=True)
        step = np.linalg.norm(after.position[new] - nuclei.position[old], axis=1)
        assert step.max() <= 1.5 + 1e-9
        assert step.mean() > 0.5
        nuclei = after


def test_divisions_come_once_per_cycle_and_share_the_volume():
    spec = SyntheticSpec(frames=20, shape=(200, 200), cells=25, cell_cycle_frames=20, speed_um=0.2)
    movie = make_movie(spec, 1)
    parents = np.unique(movie.lineage.parent)
    divisions = parents[parents > 0]
    # 19 of 20 frames of a cycle are seen; nuclei that leave, and the spread of the cycle, blur the count.
    assert 0.5 * 25 < len(divisions) < 2 * 25
    shares = []
    for mother in divisions:
        begin = movie.lineage.end[mother - 1]
        daughters = movie.lineage.label[movie.lineage.parent == mother]
        before = movie.labels[begin] == mother
        after = np.isin(movie.labels[begin + 1], daughters)
        if not any(
            np.concatenate([m[[0, -1]].ravel(), m[:, [0, -1]].ravel()]).any() for m in (before, after)
        ):
            shares.extend((movie.labels[begin + 1] == d).sum() / before.sum() for d in daughters)
    assert len(shares) > 10
    np.testing.assert_allclose(shares, 0.5, atol=0.15)


def test_no_divisions_without_a_cycle():
    movie = make_movie(replace(FLAT, cell_cycle_frames=1e9), 0)
    assert not movie.lineage.parent.any()


def test_nuclei_leave_and_enter():
    movie = make_movie(replace(FLAT, frames=20, speed_um=3.0, cell_cycle_frames=1e9), 0)
    assert (movie.lineage.begin > 0).any()
    assert (movie.lineage.end < 19).any()


@pytest.mark.parametrize("spec", [FLAT, DEEP])
def test_a_seed_gives_the_same_bytes(spec):
    first, second, other = make_movie(spec, 5), make_movie(spec, 5), make_movie(spec, 6)
    assert first.images.tobytes() == second.images.tobytes()
    assert first.labels.tobytes() == second.labels.tobytes()
    np.testing.assert_array_equal(first.lineage.rows(), second.lineage.rows())
    assert first.images.tobytes() != other.images.tobytes()
    assert first.labels.tobytes() != other.labels.tobytes()


def test_light_does_not_change_the_truth():
    dark = replace(
        FLAT, contrast=0.1, read_noise=9.0, bleaching=0.1, psf_um=(2.0, 2.0), brightness_spread=0.0
    )
    np.testing.assert_array_equal(make_movie(FLAT, 2).labels, make_movie(dark, 2).labels)


def test_bleaching_takes_its_share_per_frame():
    spec = replace(STILL, bleaching=0.08, illumination=0.0, background_photons=400.0, haze=0.0)
    movie = make_movie(spec, 0)
    inside = ndimage.binary_erosion(movie.labels[0] > 0, iterations=2)
    background = spec.offset_counts + spec.counts_per_photon * spec.background_photons
    light = np.array([image[inside].mean() - background for image in movie.images])
    np.testing.assert_allclose(light / light[0], 0.92 ** np.arange(spec.frames), rtol=0.02)


def test_noise_is_poisson_and_gaussian():
    spec = SyntheticSpec(
        frames=1, cells=0, illumination=0.0, background_photons=30.0, read_noise=3.0, counts_per_photon=4.0
    )
    image = make_movie(spec, 0).images[0].astype(float)
    assert image.mean() == pytest.approx(100 + 4 * 30, rel=0.01)
    assert image.var() == pytest.approx(16 * (30 + 9), rel=0.05)


def test_light_falls_towards_a_corner():
    spec = SyntheticSpec(
        frames=1, cells=0, illumination=0.4, background_photons=4000.0, counts_per_photon=1.0
    )
    image = ndimage.uniform_filter(make_movie(spec, 0).images[0].astype(float) - 100, 9)
    assert image.min() / image.max() == pytest.approx(0.6, abs=0.03)


def test_point_spread_function_has_its_width_on_every_axis():
    spec = SyntheticSpec(
        shape=(21, 41, 41), spacing_um=(2.0, 1.0, 1.0), psf_um=(4.0, 2.0, 3.0), haze=0.0, contrast=1e6,
        background_photons=1.0, read_noise=0.0, counts_per_photon=1.0, offset_counts=0.0,
    )  # fmt: skip
    point = np.zeros(spec.shape, np.float32)
    point[10, 20, 20] = 1
    image = expose(point, np.ones(spec.shape, np.float32), spec, np.random.default_rng(0)).astype(float)
    image[image < 5] = 0  # the background's own photons
    for axis, (spacing, width) in enumerate(zip(spec.spacing_um, spec.psf_um, strict=True)):
        profile = image.sum(axis=tuple(a for a in range(3) if a != axis))
        at = spacing * (np.arange(len(profile)) - len(profile) // 2)
        assert np.sqrt(np.average(at**2, weights=profile)) == pytest.approx(width, rel=0.08)


@pytest.mark.parametrize("spec", [FLAT, DEEP])
def test_written_movie_is_valid_and_reads_back(spec, tmp_path):
    movie = make_movie(spec, 0)
    write_ctc(tmp_path, "01", movie)
    assert ctc.find_sequences(tmp_path) == ["01"]
    sequence = ctc.open_sequence(tmp_path, "01")
    assert validate_truth(tmp_path / "01_GT") == []
    for frame in range(spec.frames):
        np.testing.assert_array_equal(ctc.read_image(sequence.images[frame]), movie.images[frame])
        np.testing.assert_array_equal(ctc.read_image(sequence.markers[frame]), movie.labels[frame])
        [(plane, path)] = sequence.segmentation[frame]
        assert plane is None
        np.testing.assert_array_equal(ctc.read_image(path), movie.labels[frame])
    assert sequence.tracks is not None
    np.testing.assert_array_equal(sequence.tracks.rows(), movie.lineage.rows())


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"cells": 5000}, "lower cells"),
        ({"shape": (8, 64, 64)}, "one entry per axis"),
        ({"frames": 0}, "must be positive"),
        ({"read_noise": -1.0}, "read_noise=-1.0"),
        ({"cell_cycle_frames": 3.0}, "must exceed"),
    ],
)
def test_impossible_specs_are_refused(knobs, words):
    with pytest.raises(InputError, match=words):
        make_movie(replace(FLAT, **knobs), 0)
