"""Links of the lowest total cost by integer linear programming, in windows of time, with HiGHS.

A link saves its target's appearing a and its source's disappearing d, so with v for "kept" and s for "divides" the
cost of a lineage is, up to a constant,

    sum over links (edge - a[target] - d[source]) + sum over n of v (a + d - false) + s (divide + d)

where at most v links enter a detection and at most v + s leave it. Appearing and disappearing are what is left
of v and of v + s, and need no variables. A division that saves more than a disappearance costs would pay with one
daughter, or none; there s is at most the number of links beside any one of them, which is what links that are
parts of one and parts of two daughters obey. With these rows the relaxation comes out in whole numbers almost always.

Shapes: N detections, E candidates, of the movie or of one window; C columns (variables), R rows.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp
from scipy.sparse import csr_array

from celltrack_jax.tracking.scored_links import (
    Costs,
    Links,
    assign_frames,
    check_costs,
    check_forward,
    keep,
)

_WHOLE = 1e-6
"""A variable nearer to a whole number than this is one."""
_HOPS = 3
"""How far from fractions variables are free to move in the search for a first solution in whole numbers."""


def ilp(
    frame: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    costs: Costs,
    *,
    window: int,
    overlap: int,
    time_limit_s: float,
    say: Callable[[str], object] = print,
) -> Links:
    """Links such that the total cost is the lowest there is, in windows of time.

    Each window knows what was decided before it, and decides for good about all but its last `overlap` frames. A
    cell at the end of a window disappears at no more than the cost of the best link out of the window, as that
    may follow. One window over all frames gives the optimum of the movie.

    Candidates that cannot pay are left out beforehand. Take a lineage with a link of cost e. Without it the target
    appears at cost a, and the source disappears at cost d; so if it is the source's only link and e >= a + d, the
    lineage costs no less than without. If the source divides at cost s, it does not any more: the lineage costs no
    less than without if e + s >= a. So links can go one by one, and a lowest cost is left without any link that
    cannot pay on its own (e < a + d) or beside another one from the same source (e + s < a for both).

    Args:
      frame: (N,) integers.
      source: (E,) integers.
      target: (E,) integers.
      costs: in nats; `scored_links.free_ends` frees the ends of the movie.
      window: frames with detections that are linked at once.
      overlap: of these, frames that the next window links anew; fewer than `window`.
      time_limit_s: of one window; where it does not suffice, the window is linked as well as was found by then, or
        as `hungarian_scored` does.
      say: is told about such windows.

    Returns:
      Links.

    Raises:
      ValueError: a candidate does not go forward in time, a cost is nan or infinite where it may not be, or the
        windows do not advance.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"overlap={overlap} must be at least 0 and less than window={window}")
    check_forward(frame, source, target)
    check_costs(costs, len(source), len(frame))
    movie = _Movie(frame, source, target, costs)
    start = 0
    while start < movie.frames:
        end = min(start + window, movie.frames)
        cut = end if end == movie.frames else end - overlap
        part = movie.part(start, end)
        chosen, kept, instead = _solve(part, time.monotonic() + time_limit_s)
        if instead:
            first, last = movie.numbers[start], movie.numbers[end - 1]
            say(f"note: frames {first} to {last}: no optimum after {time_limit_s:g} s, so linked {instead}")
        movie.decide(part, chosen, kept, cut)
        start = cut
    return Links(movie.parent, movie.kept)


class _Part(NamedTuple):
    """The problem of one window. Its detections are those in its frames, and earlier ones with links into them."""

    node: np.ndarray
    """(N,) int64, of the movie."""
    frame: np.ndarray
    """(N,) int64, places in the movie's list of frames."""
    source: np.ndarray
    """(E,) int64, of the window, as target."""
    target: np.ndarray
    costs: Costs
    children: np.ndarray
    """(N,) int64, links that leave each detection already: 0 or 1."""
    settled: np.ndarray
    """(N,) bool, whether it is known that the detection is kept."""


class _Movie:
    """Candidates of a movie in the order of time, and what is decided about them."""

    def __init__(self, frame: np.ndarray, source: np.ndarray, target: np.ndarray, costs: Costs):
        self.numbers, self._frame = np.unique(frame, return_inverse=True)
        self.frames = len(self.numbers)
        self.parent = np.full(len(frame), -1, np.int64)
        self.kept = np.ones(len(frame), bool)
        self._children = np.zeros(len(frame), np.int64)
        self._costs = costs
        self._node = np.argsort(self._frame, kind="stable")
        self._first_node = np.searchsorted(self._frame[self._node], np.arange(self.frames + 1))
        self._place = np.full(len(frame), -1, np.int64)

        alone = costs.edge < costs.appear[target] + costs.disappear[source]
        beside = costs.edge + costs.divide[source] < costs.appear[target]
        divides = np.bincount(source[beside], minlength=len(frame)) >= 2
        edge = np.flatnonzero(alone | (beside & divides[source]))
        edge = edge[np.argsort(self._frame[target[edge]], kind="stable")]
        self._source, self._target, self._edge = source[edge], target[edge], costs.edge[edge]
        self._beside = beside[edge]
        self._first_edge = np.searchsorted(self._frame[self._target], np.arange(self.frames + 1))
        self._reach = int((self._frame[self._target] - self._frame[self._source]).max(initial=0))

    def part(self, start: int, end: int) -> _Part:
        """Returns the problem of the frames from place `start` to `end`, without the end."""
        edge = np.arange(self._first_edge[start], self._first_edge[end])
        source = self._source[edge]
        more = (self._children[source] == 0) | ((self._children[source] == 1) & self._beside[edge])
        edge = edge[self.kept[source] & more]
        source, target = self._source[edge], self._target[edge]
        before = np.unique(source[self._frame[source] < start])
        node = np.concatenate([before, self._node[self._first_node[start] : self._first_node[end]]])
        self._place[node] = np.arange(len(node))

        disappear = self._costs.disappear[node]
        after = slice(self._first_edge[end], self._first_edge[min(end + self._reach, self.frames)])
        leaving = self._place[self._source[after]]
        inside = leaving >= 0
        np.minimum.at(disappear, leaving[inside], self._edge[after][inside])
        source, target = self._place[source], self._place[target]
        self._place[node] = -1
        appear, divide, false = (
            costs[node] for costs in (self._costs.appear, self._costs.divide, self._costs.false)
        )
        costs = Costs(self._edge[edge], appear, disappear, divide, false)
        settled = np.arange(len(node)) < len(before)
        return _Part(node, self._frame[node], source, target, costs, self._children[node], settled)

    def decide(self, part: _Part, chosen: np.ndarray, kept: np.ndarray, cut: int) -> None:
        """Takes over what was decided about the frames before the cut."""
        chosen = chosen[part.frame[part.target[chosen]] < cut]
        source, target = part.node[part.source[chosen]], part.node[part.target[chosen]]
        self.parent[target] = source
        np.add.at(self._children, source, 1)
        early = part.frame < cut
        self.kept[part.node[early]] = kept[early]


def _solve(part: _Part, deadline_s: float) -> tuple[np.ndarray, np.ndarray, str]:
    """Links one window.

    Returns:
      The chosen candidates, (N,) bool of the detections to keep, and what they are where there was no time for
      the optimum, else "".
    """
    source, target, costs = part.source, part.target, part.costs
    solution, excess = _lowest(*_program(part), deadline_s)
    if solution is None:
        chosen = assign_frames(part.frame, source, target, costs, part.children)
        instead = "frame by frame"
    else:
        chosen = np.flatnonzero(solution[: len(source)])
        instead = f"at most {excess:.3g} nats above it" if excess > 0 else ""
    return chosen, keep(source[chosen], target[chosen], costs) | part.settled, instead


def _program(part: _Part) -> tuple[np.ndarray, csr_array, np.ndarray]:
    """Writes a window as: minimise cost @ x over x in {0, 1} with matrix @ x <= upper.

    Columns are the candidates, then v of detections that may be false, then s of those that may divide.

    Returns:
      (C,) costs, (R, C) matrix and (R,) upper bounds.
    """
    source, target, (edge, appear, disappear, divide, false), children = (
        part.source, part.target, part.costs, part.children,
    )  # fmt: skip
    count, candidates = len(part.node), np.arange(len(source))
    may_fail = ~part.settled & (false < appear + disappear)
    beside = edge + divide[source] < appear[target]
    divides = np.bincount(source[beside], minlength=count) + children >= 2
    fails, mothers = np.flatnonzero(may_fail), np.flatnonzero(divides)
    v = len(edge) + np.cumsum(may_fail) - 1
    s = len(edge) + len(fails) + np.cumsum(divides) - 1
    cost = [edge - appear[target] - disappear[source], (appear + disappear - false)[fails]]
    cost.append((divide + disappear)[mothers])

    rows = _Rows()
    rows.add(1 - may_fail, (target, candidates, 1), (fails, v[fails], -1))
    rows.add(
        1 - may_fail - children, (source, candidates, 1), (fails, v[fails], -1), (mothers, s[mothers], -1)
    )
    eager = divides & (divide + disappear < 0)
    those = np.flatnonzero(divides & ~eager & may_fail)
    rows.add(
        np.zeros(len(those)), (np.arange(len(those)), s[those], 1), (np.arange(len(those)), v[those], -1)
    )
    those, row = np.flatnonzero(eager), np.cumsum(eager) - 1
    out = np.flatnonzero(eager[source])
    rows.add(np.zeros(len(those)), (row[those], s[those], 2 - children[those]), (row[source[out]], out, -1))
    out = np.flatnonzero((eager & (children == 0))[source])
    one, other = _others(source[out])
    rows.add(np.zeros(len(out)), (np.arange(len(out)), s[source[out]], 1), (one, out[other], -1))
    return np.concatenate(cost), *rows.matrix(sum(map(len, cost)))


class _Rows:
    """Rows of a sparse matrix, block by block."""

    def __init__(self) -> None:
        self._entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._upper: list[np.ndarray] = []
        self._count = 0

    def add(self, upper: np.ndarray, *entries: tuple[np.ndarray, np.ndarray, np.ndarray | int]) -> None:
        """Adds one row per upper bound; entries are (row of the block, column, value)."""
        for row, column, value in entries:
            self._entries.append((self._count + row, column, np.broadcast_to(value, row.shape)))
        self._upper.append(upper)
        self._count += len(upper)

    def matrix(self, columns: int) -> tuple[csr_array, np.ndarray]:
        """Returns the (R, C) matrix and the (R,) upper bounds."""
        row, column, value = (np.concatenate(parts) for parts in zip(*self._entries, strict=True))
        matrix = csr_array((value.astype(np.float64), (row, column)), shape=(self._count, columns))
        return matrix, np.concatenate(self._upper)


def _others(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists all ordered pairs of different members of the same group, as indices."""
    order = np.argsort(group, kind="stable")
    _, first, size = np.unique(group[order], return_index=True, return_counts=True)
    sizes = np.repeat(size, size)
    one = np.repeat(np.arange(len(group)), sizes)
    step = np.arange(len(one)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    other = np.repeat(np.repeat(first, size), sizes) + step
    differ = one != other
    return order[one[differ]], order[other[differ]]


def _lowest(
    cost: np.ndarray, matrix: csr_array, upper: np.ndarray, deadline_s: float
) -> tuple[np.ndarray | None, float]:
    """Minimises cost @ x over x in {0, 1} with matrix @ x <= upper.

    The relaxation to 0 <= x <= 1 alone mostly gives whole numbers: 0.6 s for 10 frames of 1,000 cells with 80,000
    candidates, where branch and bound takes 28 s. Otherwise a solution near it is searched for. How far that lies
    above the relaxation is what a variable may cost that leaves its relaxed value; those with larger reduced costs
    cannot change in an optimum, and the few that are left to branch on take 0.2 to 1.3 s. To solve connected
    components on their own gained nothing: candidates connect all cells of a crowded window.

    Returns:
      (C,) bool, None if there was no time, and how far above the lowest it may be where it could not be proven.
    """
    if len(cost) == 0:
        return np.zeros(0, bool), 0.0
    if (left_s := deadline_s - time.monotonic()) <= 0:
        return None, np.inf
    relaxed = linprog(
        cost, A_ub=matrix, b_ub=upper, bounds=(0, 1), method="highs", options={"time_limit": left_s}
    )
    if relaxed.status != 0:
        return None, np.inf
    near = np.abs(relaxed.x - np.rint(relaxed.x)) > _WHOLE
    if not near.any():
        return relaxed.x > 0.5, 0.0
    for _ in range(_HOPS):
        near = abs(matrix.T) @ (abs(matrix) @ near) > 0
    found = _branch(cost, matrix, upper, relaxed.x, near, deadline_s)
    if found.x is None:
        return None, np.inf
    excess = found.fun - relaxed.fun
    reduced = np.abs(relaxed.lower.marginals + relaxed.upper.marginals)
    best = _branch(cost, matrix, upper, relaxed.x, near | (reduced <= excess + _WHOLE), deadline_s)
    return (best.x > 0.5, 0.0) if best.status == 0 else (found.x > 0.5, float(excess))


def _branch(
    cost: np.ndarray, matrix: csr_array, upper: np.ndarray, x: np.ndarray, free: np.ndarray, deadline_s: float
) -> OptimizeResult:
    """Minimises over whole numbers with all but the free variables held at x."""
    fixed = np.rint(x)
    return milp(
        cost,
        integrality=np.ones(len(cost)),
        bounds=Bounds(*np.where(free, [[0], [1]], fixed)),
        constraints=LinearConstraint(matrix, -np.inf, upper),  # pyright: ignore[reportArgumentType]
        options={"time_limit": max(deadline_s - time.monotonic(), 1e-3), "mip_rel_gap": 0},
    )
