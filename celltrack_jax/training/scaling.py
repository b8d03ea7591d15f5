"""How a training step grows with the number of chips: a model of compute, communication and input.

A step is what one chip does alone, plus the sum of the gradients over all chips, plus the wait for the slowest host's
batch. The first is read off compile reports; the second is the ring model of `collectives` and, beyond one slice, the
same over the data-centre network; the third is simulated from measured reading times.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from celltrack_jax.training import collectives
from celltrack_jax.training.collectives import Collective
from celltrack_jax.training.hardware import Chip

NETWORK_LATENCY_S = 50e-6
"""Of one message between slices; an assumption."""


class Job(NamedTuple):
    """A training, as its compile reports describe it."""

    points: tuple[tuple[int, float], ...]
    """(batch, seconds of a step on one chip alone), batches ascending."""
    gradient_bytes: float
    """Summed over all chips in each step."""
    sums: int
    """All-reduces of a step that are not in a loop."""
    rounds: int
    """All-reduces of a few bytes in loops whose length depends on data."""


class Step(NamedTuple):
    """Seconds of a step, by what they are spent on."""

    alone_s: float
    """The chip's own work."""
    ici_s: float
    """Sums over the slice."""
    network_s: float
    """Sums over slices."""
    rounds_s: float
    """Agreeing on whether a loop goes on."""
    input_s: float
    """Waiting for the slowest host."""

    @property
    def total_s(self) -> float:
        """One after the other."""
        return sum(self)

    @property
    def limit(self) -> str:
        """What costs the most beside the chip's own work; "the chip" where that is at least nine tenths."""
        if self.alone_s >= 0.9 * self.total_s:
            return "the chip"
        named = zip(self[1:], ("ICI", "network", "loop rounds", "input"), strict=True)
        return max(named)[1]


def alone_s(job: Job, batch: float) -> float:
    """Returns the time of a step on one chip.

    Between the batches that were compiled it is a straight line; above them it is proportional to the batch, and below
    them it stays, since small batches leave vector lanes empty instead of saving time.
    """
    batches, seconds = zip(*job.points, strict=True)
    if batch > batches[-1]:
        return seconds[-1] * batch / batches[-1]
    return float(np.interp(batch, batches, seconds))


def slice_shape(chips: int, chip: Chip) -> tuple[tuple[int, ...], int]:
    """Returns the chips along each axis of a slice, as equal as powers of two allow, and the number of slices.

    Args:
      chips: a power of two.
      chip: the TPU's version.
    """
    slices = max(1, chips // chip.slice)
    powers = int(math.log2(chips // slices))
    return tuple(2 ** ((powers + axis) // chip.axes) for axis in range(chip.axes)), slices


def communication(job: Job, chips: int, chip: Chip) -> tuple[float, float, float]:
    """Returns seconds of a step for sums in the slice, sums over slices, and rounds of loops.

    Several slices sum hierarchically: each reduces and scatters inside, the chips that hold the same part exchange it in
    a ring, and each slice gathers. Rounds of loops cross the network, too.
    """
    torus, slices = slice_shape(chips, chip)
    inside = math.prod(torus)
    whole = Collective("all-reduce", round(job.gradient_bytes), inside, 1, False)
    small = Collective("all-reduce", 4, inside, 1, False)
    ici = collectives.seconds(whole, chip, torus)
    ici += max(job.sums - 1, 0) * collectives.seconds(small, chip, torus)
    latency = 2 * (slices - 1) * NETWORK_LATENCY_S
    part = job.gradient_bytes / inside
    network = 2 * part * (slices - 1) / slices / chip.network + job.sums * latency
    rounds = job.rounds * (collectives.seconds(small, chip, torus) + latency)
    return ici, network, rounds


class Reading(NamedTuple):
    """How hosts read."""

    quantiles: tuple[tuple[float, float], ...]
    """(share, seconds) of the time in which one thread reads one crop."""
    threads: int
    """Of a host; each reads a whole batch of the host."""
    prefetch: int
    """Batches that are read or ready at most."""


def simulate(
    reading: Reading, crops: int, hosts: int, busy_s: float, steps: int = 200, seed: int = 0
) -> float:
    """Returns the seconds from step to step when all hosts wait for each other.

    Args:
      reading: how hosts read.
      crops: of a host's part of a batch, which one thread reads one after the other.
      hosts: of the run.
      busy_s: of a step that does not wait.
      steps: simulated; the first quarter, in which buffers settle, is left out.
      seed: of the draws.
    """
    random = np.random.default_rng(seed)
    shares, seconds = np.array(reading.quantiles).T
    free = np.zeros((hosts, reading.threads))
    begun = np.zeros(steps)
    for step in range(steps):
        # A batch may be read as soon as a thread is free and the buffer has room for it.
        room = begun[step - reading.prefetch] if step >= reading.prefetch else 0.0
        thread = free.argmin(1)
        taken = np.interp(random.random((hosts, crops)), shares, seconds).sum(1)
        ready = np.maximum(free[np.arange(hosts), thread], room) + taken
        free[np.arange(hosts), thread] = ready
        before = begun[step - 1] + busy_s if step else 0.0
        begun[step] = max(before, ready.max())
    settled = steps // 4
    return float((begun[-1] - begun[settled]) / (steps - 1 - settled))


def predict(job: Job, chip: Chip, chips: int, batch: int, reading: Reading) -> Step:
    """Returns the step of so many chips.

    Args:
      job: the training.
      chip: the TPU's version.
      chips: a power of two.
      batch: samples of each chip.
      reading: how hosts read.
    """
    alone = alone_s(job, batch)
    said = communication(job, chips, chip)
    busy = alone + sum(said)
    hosts = max(1, chips // chip.per_host)
    period = simulate(reading, batch * min(chips, chip.per_host), hosts, busy)
    return Step(alone, *said, max(0.0, period - busy))


def efficiencies(steps: Sequence[Step], samples: Sequence[float], chips: Sequence[int]) -> list[float]:
    """Returns samples per second and chip, relative to the first entry."""
    rates = [each / step.total_s / n for step, each, n in zip(steps, samples, chips, strict=True)]
    return [rate / rates[0] for rate in rates]
