"""Losses of links: what they weigh, and batches without links."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.tasks import link_losses


@pytest.fixture
def batch():
    """Logits, labels and mask (2, 9); labels of the padding are 0."""
    rng = np.random.default_rng(0)
    mask = np.arange(9) < np.array([[9], [5]])
    label = (rng.random((2, 9)) < 0.3) & mask
    return rng.normal(size=(2, 9)).astype(np.float32), label.astype(np.float32), mask


def cross_entropies(logits, label):
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return -np.where(label > 0, np.log(p), np.log(1 - p))


def test_per_link_is_the_sum_over_candidates_per_link(batch):
    logits, label, mask = batch
    expected = cross_entropies(logits, label)[mask].sum() / label.sum()
    assert float(link_losses.edge_loss("per_link")(*batch)) == pytest.approx(expected, rel=1e-5)


def test_balanced_is_the_mean_with_links_repeated_until_both_kinds_are_as_many(batch):
    logits, label, mask = batch
    # The weight of positives of PyTorch's BCEWithLogitsLoss.
    weight = ((label == 0) & mask).sum() / (label == 1).sum()
    expected = (cross_entropies(logits, label) * np.where(label > 0, weight, 1))[mask].mean()
    assert float(link_losses.edge_loss("balanced")(*batch)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["per_link", "balanced"])
@pytest.mark.parametrize("all_masked", [False, True])
def test_a_batch_without_links_has_a_finite_loss_and_gradient(batch, name, all_masked):
    logits, label, mask = (jnp.asarray(x) for x in batch)
    mask = mask & (not all_masked)
    loss, gradient = jax.value_and_grad(link_losses.edge_loss(name))(logits, 0 * label, mask)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert bool(np.any(np.asarray(gradient))) != all_masked


def test_other_names_and_networks_without_events_are_refused():
    with pytest.raises(InputError, match=r"loss.name 'focal' is none of per_link, balanced"):
        link_losses.edge_loss("focal")
    with pytest.raises(InputError, match=r"does not tell divide, .* set loss.event_weight to 0"):
        link_losses.event_losses({"edge": jnp.zeros((1, 2))}, {})
