"""The benchmark of the linkers at a small size."""

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from launch.benches import links


def test_the_movie_is_what_it_says():
    movie = links.make_movie(40, 200)
    linked = movie.truth >= 0
    assert movie.real[linked].all()
    assert (movie.frame[movie.truth[linked]] < movie.frame[linked]).all()
    assert (~movie.real).mean() == pytest.approx(links.FALSE, abs=0.01)
    children = np.bincount(movie.truth[linked])
    assert (children > 2).mean() < 0.002  # daughters that divided unseen
    assert (children == 2).mean() == pytest.approx(links.DIVIDE, abs=0.005)
    truth = set(zip(movie.truth[linked].tolist(), np.flatnonzero(linked).tolist(), strict=True))
    candidates = set(zip(movie.source.tolist(), movie.target.tolist(), strict=True))
    assert len(candidates) == len(movie.source)
    assert len(truth & candidates) > 0.99 * len(truth)


def test_rows_tell_the_cost_of_windows():
    rows = links.rows(links.make_movie(12, 30), 12, long=True)
    assert [row["name"] for row in rows] == [
        "hungarian, 12 frames",
        "ILP, windows of 10, 12 frames",
        "ILP, windows of 30, 12 frames",
    ]
    assert rows[0]["above_long_nats"] > rows[1]["above_long_nats"] >= rows[2]["above_long_nats"] == 0
    assert rows[1]["recall"] > 0.95


def test_there_is_no_peer():
    with pytest.raises(InputError, match="leave --against out"):
        links.run("motile")
