"""The benchmark of embeddings measures what it says, and both ways give the same."""

import functools

import jax
import numpy as np
import pytest

from celltrack_jax.data.cell_crops import FrameEmbedder
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import Variables
from launch.benches import embed


@pytest.fixture
def small(monkeypatch):
    for name, value in {"FRAMES": 3, "SIDE": 96, "CELLS": 9, "RADII": (5, 12), "REPEATS": 1}.items():
        monkeypatch.setattr(embed, name, value)
    monkeypatch.setattr(embed, "CHUNKS", (4,))
    # A network that is one product: only the two ways are compared.
    kernel = np.random.default_rng(0).normal(size=(64 * 64, 8)).astype(np.float32)
    monkeypatch.setattr(
        embed, "network", lambda: (lambda v, x: x.reshape(len(x), -1) @ v.params, Variables(kernel, {}))
    )
    monkeypatch.setattr(embed, "OUTPUTS", 8)


def test_both_ways_find_the_same(small):
    labels, image = embed.frame()
    apply, variables = embed.network()
    network = functools.partial(jax.jit(apply), variables)
    cells = embed.at_once(labels, image, FrameEmbedder(apply, variables, embed.SPEC, 8, (4,)))
    features, found = embed.per_cell(labels, image, network)
    np.testing.assert_allclose(cells.embedding, found, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(cells.detections.volume_um, features[:, 0])
    np.testing.assert_array_equal(cells.low[:, 1:], features[:, 1:3])
    np.testing.assert_array_equal(cells.high[:, 1:], features[:, 3:5])
    np.testing.assert_allclose(cells.detections.position_um[:, 1:], features[:, 5:7])
    crops = embed.per_cell(labels, image, None)[1]
    np.testing.assert_allclose(
        embed.batched(crops, network), embed.one_by_one(crops, network), rtol=1e-4, atol=1e-4
    )


def test_a_row_for_each_part(small):
    rows = embed.run("per-cell")
    assert [row["name"].split(",")[0] for row in rows] == [
        "features and crops",
        "embedding the crops",
        "all of it",
    ]
    assert all(row["ours_s"] > 0 and row["peer_s"] > 0 for row in rows)
    with pytest.raises(InputError, match="no peer 'torch'"):
        embed.run("torch")
