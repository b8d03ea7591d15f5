"""Cells as flows: what decoding true flows gives back, what is dropped, and what compiles."""

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile

from celltrack_jax import representations
from celltrack_jax.errors import InputError
from celltrack_jax.inference import decode
from celltrack_jax.representations import VectorRepresentation, flow
from celltrack_jax.representations.flow import Flow
from tests.representations.arms import FLOW, answer, cost, decoded, targets
from tests.representations.cells import branched, dense, ellipses, ious, seg_score, touching_cells

ONES = np.ones(2, np.float32)


def make(**changes) -> Flow:
    made = representations.build("flow", **FLOW | changes)
    assert isinstance(made, Flow)
    return made


def test_it_has_the_published_loss():
    representation = make()
    labels = touching_cells((24, 20), (1, 1), 6.0, seed=0)
    target = targets(representation, labels[None], ONES)
    raw = np.random.default_rng(0).normal(size=(1, *labels.shape, 3)).astype(np.float32)
    value, _ = cost(representation, target, jnp.asarray(raw))
    true = np.asarray(target.value)
    error = np.mean((raw[..., :2] - 5 * true[..., :2]) ** 2)
    probability = 1 / (1 + np.exp(-raw[..., 2].astype(np.float64)))
    bce = -np.mean(np.where(true[..., 2] > 0, np.log(probability), np.log1p(-probability)))
    np.testing.assert_allclose(value, 0.5 * error + bce, rtol=1e-5)


def test_at_least_99_of_100_discs_are_recovered_from_their_flows():
    labels = ellipses((200, 200), (4.5, 8), seed=0)
    assert labels.max() > 120
    found = ious(labels, decoded(make(max_cells=256), labels, ONES))
    assert (found > 0.9).mean() >= 0.99
    assert found.mean() > 0.99


def test_balls_are_recovered_in_3d():
    labels = touching_cells((16, 28, 28), (1, 1, 1), 6.0, seed=0)
    found = ious(labels, decoded(make(axes=3), labels, np.ones(3, np.float32)))
    size = np.bincount(labels.reshape(-1))[1:]
    assert (found[size > 100] > 0.9).all()


def test_branched_cells_are_recovered_less_well():
    """Flows go along the arms, and where these are thin some pixels stop on their way: a known weakness."""
    labels = branched(96, 3, seed=0)
    found = ious(labels, decoded(make(flow_threshold=0.0), labels, ONES))
    assert 0.5 < found.mean() < 0.999


def test_cells_whose_flows_are_not_those_of_their_shape_are_dropped():
    labels = ellipses((96, 96), (8, 12), seed=1)
    raw = answer(make(), labels, ONES)
    wrong = labels == 5
    raw[wrong, :2] = 5 * np.array([0.6, 0.8])
    kept = make(flow_threshold=0.0).decode(raw, ONES)
    strict = make(flow_threshold=0.4).decode(raw, ONES)
    assert kept[wrong].any()
    assert not strict[wrong & (strict != 0)].any() or seg_score(labels, strict) < seg_score(labels, kept)
    others = [label for label in range(1, labels.max() + 1) if label != 5]
    assert all(ious(labels, strict)[label - 1] > 0.9 for label in others)


def test_large_and_small_cells_are_dropped():
    labels = np.zeros((96, 96), np.int32)
    y, x = np.mgrid[:96, :96]
    labels[np.hypot(y - 40, x - 40) < 24] = 1
    labels[80:85, 80:85] = 2
    raw = answer(make(), labels, ONES)
    assert make(min_size=25).decode(raw, ONES).max() == 2
    assert make(min_size=26).decode(raw, ONES).max() == 1
    assert not make(min_size=26, max_fraction=0.19).decode(raw, ONES).any()


def test_holes_are_filled():
    """A pixel that is no cell's, but flows as if it were."""
    labels = np.zeros((96, 96), np.int32)
    y, x = np.mgrid[:96, :96]
    labels[np.hypot(y - 40, x - 40) < 24] = 1
    raw = answer(make(), labels, ONES)
    raw[40, 40, 2] = -10
    found = make(flow_threshold=0.0).decode(raw, ONES)
    assert not found[40, 40]
    assert found[40, 44]
    assert make(flow_threshold=0.0, fill_holes=True).decode(raw, ONES)[40, 40] == found[40, 44]


def test_more_cells_than_room_are_read_with_more_room():
    labels = ellipses((96, 96), (6, 8), seed=2)
    representation = make()
    raw = answer(representation, labels, ONES)
    np.testing.assert_array_equal(
        make(max_cells=4).decode(raw, ONES) > 0, representation.decode(raw, ONES) > 0
    )
    assert make(max_cells=4).decode(raw, ONES).max() == labels.max() > 16


def test_a_lower_threshold_takes_more_pixels():
    labels = ellipses((96, 96), (8, 12), seed=3)
    raw = answer(make(), labels, ONES)
    raw[..., 2] = np.where(raw[..., 2] > 0, -0.5, -10)
    assert not make().decode(raw, ONES).any()
    assert seg_score(labels, make(cellprob_threshold=-1.0).decode(raw, ONES)) > 0.97


def test_decoding_compiles_once_for_all_numbers_of_cells():
    representation = make()
    maps = [ellipses((96, 96), radii, seed=4) for radii in ((7, 9), (10, 14), (16, 20))]
    programs = (flow._follow, flow._gathered, flow._errors)
    sizes = []
    for labels in maps:
        assert decoded(representation, labels, ONES).max() == labels.max()
        sizes.append([program._cache_size() for program in programs])
    assert len({labels.max() for labels in maps}) == 3
    assert sizes[0] == sizes[1] == sizes[2]


def test_images_of_many_sizes_share_programs_and_are_decoded_as_if_there_were_no_padding(monkeypatch):
    """Noise, and flows that lead out of the image at its last row and column."""
    representation, rng = make(flow_threshold=2.0, max_fraction=0.03), np.random.default_rng(0)
    programs = (flow._follow, flow._gathered, flow._errors)
    raws, found, sizes = [], [], []
    for shape in ((81, 90), (90, 83)):
        raw = answer(representation, ellipses((96, 96), (5, 10), seed=5)[: shape[0], : shape[1]], ONES)
        raw[..., :2] += rng.normal(0, 0.5, (*shape, 2))
        raw[-3:, :, 0] = raw[:, -3:, 1] = 5
        raws.append(raw.astype(np.float32))
        found.append(representation.decode(raws[-1], ONES))
        sizes.append([program._cache_size() for program in programs])
    assert sizes[0] == sizes[1]
    monkeypatch.setattr(flow, "room", lambda size, per_doubling: size)
    for raw, labels in zip(raws, found, strict=True):
        assert labels.max() > 10
        assert np.unique(labels[-1]).size > 2
        np.testing.assert_array_equal(representation.decode(raw, ONES), labels)


def test_it_says_which_channels_turn_with_the_image():
    assert isinstance(make(), VectorRepresentation)
    assert decode.vector(make()) == (0, 1)
    assert decode.vector(make(axes=3)) == (0, 1, 2)
    assert decode.vector(representations.build("flow", **FLOW)) == (0, 1)
    assert not decode.gives_vectors(make())


@pytest.mark.parametrize(
    "changes",
    [{"axes": 4}, {"flow_scale": 0.0}, {"steps": 0}, {"max_fraction": 0.0}, {"flow_threshold": -1.0}],
)
def test_bad_constants_are_input_errors_that_name_them(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        make(**changes)


def test_true_flows_of_real_nuclei_give_them_back(real_data):
    found = []
    representation = make()
    for path in sorted(real_data("DSB2018-fluo").glob("masks/*.tif"))[::40]:
        labels = dense(tifffile.imread(path).astype(np.int32))
        if labels.shape == (256, 256) and labels.max() < representation.max_cells:
            found.append(ious(labels, decoded(representation, labels, ONES)))
    assert len(found) > 3
    assert (np.concatenate(found) > 0.5).mean() >= 0.99
