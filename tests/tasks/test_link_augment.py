"""A turned window has the features of the turned movie, whatever the set of features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.tasks import link_augment
from celltrack_jax.tasks.link_augment import AugmentSpec
from celltrack_jax.tracking import feature_sets, graph, handmade
from celltrack_jax.tracking.cells import measure_cells

PHYSICAL = feature_sets.node_set("physical").columns


def movie(depth):
    """Masks and images of blocks of different sizes that move, (T, Z, Y, X)."""
    rng = np.random.default_rng(depth)
    labels = np.zeros((3, depth, 24, 30), np.int32)
    for t in range(3):
        for name in range(1, 6):
            size = rng.integers(2, 5, 3)
            z = rng.integers(0, max(depth - size[0], 0) + 1)
            y, x = 4 * name + rng.integers(0, 2) - 2, rng.integers(0, 25)
            labels[t, z : z + size[0], y : y + size[1], x : x + size[2]] = name
    return labels, rng.integers(1, 200, labels.shape)


def described(labels, image, nodes):
    """Features of nodes (N, F) and edges (E, G) of a movie; the edges join all of neighbouring frames."""
    flat = labels.shape[1] == 1
    frames = [(t, *((a[t, 0] if flat else a[t]) for a in (labels, image))) for t in range(len(labels))]
    cells = measure_cells(frames, np.ones(3))
    edges = graph.candidates(cells.detections, radius_um=1e3, max_gap=0, max_neighbours=99)
    x = nodes.make(cells, 3.0, edges)
    return handmade.minmax(x) if nodes.in_voxels else x, graph.edge_features(cells, edges, 3.0)


@pytest.mark.parametrize("axis", "zyx")
@pytest.mark.parametrize("name", feature_sets.NODES)
def test_mirrored_features_are_those_of_the_mirrored_movie(name, axis):
    nodes = feature_sets.node_set(name)
    depth = 7 if 3 in nodes.planes else 1
    labels, image = movie(depth)
    place = 1 + "zyx".index(axis)
    before = described(labels, image, nodes)
    after = described(np.flip(labels, place), np.flip(image, place), nodes)
    for x, y, names in zip(before, after, (nodes.columns, graph.EDGE_FEATURES), strict=True):
        turned = np.asarray(link_augment._mirrored(jnp.asarray(x), names, axis))
        # Rounded centroids may go to the other voxel when they are mirrored.
        exact = [i for i, column in enumerate(names) if not column.startswith("centroid")]
        np.testing.assert_allclose(turned[:, exact], y[:, exact], atol=1e-4)
        np.testing.assert_allclose(turned, y, atol=0.12)


@pytest.mark.parametrize("name", feature_sets.NODES)
def test_exchanged_features_are_those_of_the_exchanged_movie(name):
    nodes = feature_sets.node_set(name)
    labels, image = movie(7 if 3 in nodes.planes else 1)
    before = described(labels, image, nodes)
    after = described(labels.swapaxes(2, 3), image.swapaxes(2, 3), nodes)
    for x, y, names in zip(before, after, (nodes.columns, graph.EDGE_FEATURES), strict=True):
        np.testing.assert_allclose(link_augment._swapped(jnp.asarray(x), names), y, atol=1e-4)


@pytest.fixture
def window():
    rng = np.random.default_rng(0)
    x, e = rng.normal(size=(4, len(PHYSICAL))), rng.normal(size=(9, len(graph.EDGE_FEATURES)))
    return {"node/features": jnp.asarray(x), "edge/features": jnp.asarray(e), "edge/label": jnp.ones(9)}


def augmented(window, spec):
    one = lambda key: link_augment.augment(  # noqa: E731
        window, key, spec, feature_sets.node_set("physical"), graph.EDGE_FEATURES
    )
    return jax.vmap(one)(jax.random.split(jax.random.key(0), 200))


def test_all_sixteen_symmetries_of_a_stack_are_drawn(window):
    ways = np.asarray(augmented(window, AugmentSpec(True, False, 0.0, 0.0))["edge/features"])[:, 0, 1:4]
    assert len(np.unique(np.round(ways, 5), axis=0)) == 16
    np.testing.assert_allclose(
        np.abs(ways).sum(1), np.abs(np.asarray(window["edge/features"][0, 1:4])).sum(), rtol=1e-5
    )


def test_turns_keep_the_length_and_the_depth_of_displacements_and_the_angle_between_two(window):
    before = np.asarray(window["edge/features"])
    turned = np.asarray(augmented(window, AugmentSpec(False, True, 0.0, 0.0))["edge/features"])
    np.testing.assert_allclose(
        np.linalg.norm(turned[..., 2:4], axis=-1),
        np.broadcast_to(np.linalg.norm(before[:, 2:4], axis=-1), (200, 9)),
        rtol=1e-5,
    )
    plane = turned[..., 2] + 1j * turned[..., 3]
    angle = np.angle(plane / (before[:, 2] + 1j * before[:, 3]))
    np.testing.assert_allclose(np.exp(1j * angle), np.exp(1j * angle[:, :1]).repeat(9, 1), atol=1e-5)
    assert np.abs(np.exp(1j * angle[:, 0]).mean()) < 0.25
    others = [i for i in range(before.shape[1]) if i not in (2, 3)]
    np.testing.assert_array_equal(
        turned[..., others], np.broadcast_to(before[:, others], (200, 9, len(others)))
    )


def test_nothing_changes_without_augmentation_and_the_dark_has_no_intensities(window):
    same = augmented(window, AugmentSpec(False, False, 0.0, 0.0))
    for key, values in window.items():
        np.testing.assert_array_equal(same[key], np.broadcast_to(values, same[key].shape))
    dark = augmented(window, AugmentSpec(False, False, 0.0, 1.0))
    for key, names in (("node/features", PHYSICAL), ("edge/features", graph.EDGE_FEATURES)):
        light = np.array([name.startswith("intensity") for name in names])
        assert light.any()
        np.testing.assert_array_equal(dark[key][..., light], 0)
        np.testing.assert_array_equal(dark[key][..., ~light], same[key][..., ~light])
