"""Linking a million scored edges: seconds, how they grow with the frames, and what windows cost against long ones.

The movie is made for the occasion: cells that move, divide and leave, some of them missed, and false detections
among them. Scores are noisy, as those of a network are, and a cell has ten candidates in the next two frames.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from celltrack_jax.errors import InputError
from celltrack_jax.tracking.ilp import ilp
from celltrack_jax.tracking.scored_links import Costs, Links, free_ends, hungarian_scored, total_cost
from launch.benches import timing

FRAMES = 100
CELLS = 1000
DIVIDE, MISSED, FALSE = 0.015, 0.05, 0.05
"""Shares of the cells of a frame; as many leave as divide."""
NOISE = (1.5, 0.0, 0.0, 1.5, 1.5)
"""Standard deviations of the costs, in nats."""
STEP = 0.25
"""Standard deviation of a cell's way to the next frame, in the mean distance between cells."""
CANDIDATES = (7, 3)
"""Nearest detections of the next frame and of the one after that a cell is scored with."""
WINDOW, OVERLAP, TIME_LIMIT_S = 10, 3, 60.0
LONG = 30
"""Frames of the windows whose cost stands for the lowest there is."""


def run(against: str | None) -> list[dict[str, Any]]:
    """Times the linkers on movies of 25, 50 and 100 frames.

    Args:
      against: None; there is no peer.

    Returns:
      Rows, as `timing` makes them, with the candidates and how many nats of cost lie above those of long windows.

    Raises:
      InputError: a peer is given.
    """
    if against is not None:
        raise InputError(f"bench links: no peer {against!r}; leave --against out")
    return [
        row
        for frames in (FRAMES // 4, FRAMES // 2, FRAMES)
        for row in rows(make_movie(frames, CELLS), frames, long=frames == FRAMES)
    ]


def rows(movie: "Scored", frames: int, *, long: bool) -> list[dict[str, Any]]:
    """Times the linkers on one movie, once each; with long windows too if asked for."""
    _, _, source, target, costs, _, _ = movie
    linkers = {"hungarian": lambda: hungarian_scored(movie.frame, source, target, costs)}
    for window in (WINDOW, LONG) if long else (WINDOW,):
        linkers[f"ILP, windows of {window}"] = lambda window=window: ilp(
            movie.frame, source, target, costs, window=window, overlap=OVERLAP, time_limit_s=TIME_LIMIT_S
        )
    found = []
    for name, linker in linkers.items():
        links: list[Links] = []
        seconds = timing.alone(lambda linker=linker, links=links: links.append(linker()), 1, warmup=0)
        row = timing.alone_row(f"{name}, {frames} frames", seconds)
        right = (links[0].parent == movie.truth) & (movie.truth >= 0)
        found.append(
            row
            | {"candidates": len(source), "cost_nats": total_cost(source, target, costs, links[0])}
            | {
                "recall": right.sum() / (movie.truth >= 0).sum(),
                "precision": right.sum() / (links[0].parent >= 0).sum(),
            }
        )
    for row in found if long else ():
        row["above_long_nats"] = row["cost_nats"] - found[-1]["cost_nats"]
    return found


class Scored(NamedTuple):
    """A movie of N detections and its E scored candidates."""

    frame: np.ndarray
    """(N,) int64, ascending."""
    position: np.ndarray
    """(N, 2) float64, in mean distances between cells."""
    source: np.ndarray
    """(E,) int64."""
    target: np.ndarray
    """(E,) int64."""
    costs: Costs
    """Nats."""
    truth: np.ndarray
    """(N,) int64, the true predecessor that was detected; -1 for none and for false detections."""
    real: np.ndarray
    """(N,) bool, False for false detections."""


def make_movie(frames: int, cells: int, seed: int = 0) -> Scored:
    """Makes a movie of about so many cells in each frame."""
    rng = np.random.default_rng(seed)
    side = np.sqrt(cells)
    position = rng.random((cells, 2)) * side
    last_seen = np.full(cells, -1)  # the detection that shows the cell, or its mother, most lately
    columns, count = [], 0
    for frame in range(frames):
        seen = rng.random(len(position)) >= MISSED
        divides = rng.random(len(position)) < DIVIDE
        leaves = ~divides & (rng.random(len(position)) < DIVIDE)
        false = rng.random((rng.binomial(cells, FALSE), 2)) * side
        found = np.arange(len(false) + seen.sum()) < seen.sum()
        columns.append(
            (
                np.full(len(found), frame),
                np.concatenate([position[seen], false]),
                np.append(last_seen[seen], np.full(len(false), -1)),
                found,
                np.append(divides[seen], np.zeros(len(false), bool)),
            )
        )
        last_seen[seen] = count + np.arange(seen.sum())
        count += len(found)
        copies = 1 + divides - leaves.astype(np.int64)
        position, last_seen = np.repeat(position, copies, axis=0), np.repeat(last_seen, copies)
        position = np.clip(position + rng.normal(0, STEP, position.shape), 0, side)
    frame, position, truth, real, divides = (np.concatenate(column) for column in zip(*columns, strict=True))
    source, target = _candidates(frame, position, frames)
    distance = np.linalg.norm(position[source] - position[target], axis=1)
    edge = np.where(truth[target] == source, -3.0, 2.0 + 2 * distance)
    ends = np.full(count, 3.0)
    means = (edge, ends, ends, np.where(divides, -2.0, 5.0), np.where(real, 3.0, -1.5))
    costs = Costs(
        *(mean + spread * rng.normal(0, 1, len(mean)) for mean, spread in zip(means, NOISE, strict=True))
    )
    costs = free_ends(costs, frame, first=0, last=frames - 1)
    return Scored(frame, position, source, target, costs, truth, real)


def _candidates(frame: np.ndarray, position: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs every detection with its nearest in the next frames: sources and targets."""
    first = np.searchsorted(frame, np.arange(frames + 1))
    pairs = []
    for gap, number in enumerate(CANDIDATES, start=1):
        for now in range(frames - gap):
            here = np.arange(first[now], first[now + 1])
            there = np.arange(first[now + gap], first[now + gap + 1])
            near = cKDTree(position[there]).query(position[here], np.arange(1, 1 + min(number, len(there))))[
                1
            ]
            pairs.append((np.repeat(here, near.shape[1]), there[near.ravel()]))
    source, target = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return source, target
