"""Times ours and a peer in turns, so that a machine that slows down slows both."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Timing(NamedTuple):
    """Wall times of R repetitions in which ours and the peer ran one after the other."""

    ours_s: tuple[float, ...]
    """(R,) seconds."""
    peer_s: tuple[float, ...]
    """(R,) seconds."""

    @property
    def ratios(self) -> list[float]:
        """(R,) ours over peer of each repetition; below 1 is faster than the peer."""
        return [ours / peer for ours, peer in zip(self.ours_s, self.peer_s, strict=True)]

    @property
    def ratio_median(self) -> float:
        """The median over repetitions of ours over peer."""
        return statistics.median(self.ratios)

    @property
    def ratio_min(self) -> float:
        """The best repetition for us."""
        return min(self.ratios)

    @property
    def ratio_max(self) -> float:
        """The worst repetition for us."""
        return max(self.ratios)

    def row(self, name: str) -> dict[str, Any]:
        """Returns the row of the table that `launch.bench` prints; times are medians in seconds."""
        return {
            "name": name,
            "ours_s": statistics.median(self.ours_s),
            "peer_s": statistics.median(self.peer_s),
            "ratio": self.ratio_median,
            "ratio_min": self.ratio_min,
            "ratio_max": self.ratio_max,
            "repeats": len(self.ours_s),
        }


def interleaved(
    ours: Callable[[], object], peer: Callable[[], object], repeats: int, *, warmup: int = 1
) -> Timing:
    """Runs ours, peer, ours, peer, ... and times each.

    The order within a pair alternates, so that neither is always the one that finds the caches warm. A
    callable must return only when its work is done (`jax.block_until_ready`).

    Args:
      ours: one run of our code.
      peer: one run of the peer's.
      repeats: timed pairs, at least 1.
      warmup: untimed runs of each beforehand (compilation, the files' first read).
    """
    for _ in range(warmup):
        say("ours, to warm up")
        ours()
        say("the peer's, to warm up")
        peer()
    say(f"ours and the peer's in turns, {repeats} times")
    ours_s, peer_s = [], []
    for repeat in range(repeats):
        first, second = ((ours, ours_s), (peer, peer_s))[:: 1 if repeat % 2 == 0 else -1]
        for function, times in (first, second):
            times.append(elapsed_s(function))
    return Timing(tuple(ours_s), tuple(peer_s))


def say(what: str) -> None:
    """Says what runs now, before the table."""
    print(f"running {what}", flush=True)


def elapsed_s(function: Callable[[], object]) -> float:
    """Returns the wall time of one call in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def alone(ours: Callable[[], object], repeats: int, *, warmup: int = 1) -> tuple[float, ...]:
    """Times ours without a peer: (R,) seconds."""
    for _ in range(warmup):
        say("ours, to warm up")
        ours()
    say(f"ours, {repeats} times")
    return tuple(elapsed_s(ours) for _ in range(repeats))


def alone_row(name: str, ours_s: Sequence[float]) -> dict[str, Any]:
    """Returns a row without a peer for the table of `launch.bench`."""
    return {"name": name, "ours_s": statistics.median(ours_s), "repeats": len(ours_s)}
