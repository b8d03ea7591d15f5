"""The Jaccard loss of sets of mistaken pixels, and its convex extension by definition. (N,) each."""

import itertools

import numpy as np


def jaccard_loss(mistaken, truth):
    """1 - |truth and answer| / |truth or answer| of the answer that is wrong in these pixels."""
    answer = truth ^ mistaken
    union = (truth | answer).sum()
    return 1 - (truth & answer).sum() / union if union else 0.0


def choquet(error, truth):
    """The extension as an integral: of the loss of the pixels whose error is t or more, over all t."""
    levels = np.concatenate([[0.0], np.unique(error)])
    return sum((high - low) * jaccard_loss(error >= high, truth) for low, high in itertools.pairwise(levels))


def errors(score, truth):
    return np.maximum(1 - np.where(truth, 1.0, -1.0) * score, 0)
