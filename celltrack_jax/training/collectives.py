"""What devices say to each other in a compiled step: collectives in its HLO text, and their time on a torus of chips.

The time is that of ring algorithms (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002) that use all links of the
torus at once. With n chips, a payload of B bytes, the chip's bandwidth W over all links, and h hops to the farthest chip:

    all-reduce                      2 B (n - 1) / (n W) + 2 h latency
    all-gather, reduce-scatter        B (n - 1) / (n W) +   h latency
    all-to-all                        B l / (8 w)       +   h latency    on the longest axis l, w in its two directions
    collective-permute                B / one link      +     latency

B is the array that is reduced, gathered (whole), scattered (whole), or sent. An axis too short to be closed to a ring
offers half its bandwidth. Collectives beside each other or beside arithmetic are counted one after the other.
"""

import math
import re
from typing import Any, NamedTuple

from celltrack_jax.training import hlo
from celltrack_jax.training.hardware import Chip
from celltrack_jax.training.hlo import Program

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
HOP_S = 1e-6
"""Latency of one link; an assumption, and what bounds small payloads."""


class Collective(NamedTuple):
    """One collective instruction of a program."""

    kind: str
    """One of `KINDS`."""
    bytes: int
    """Payload B of one run, on one device."""
    group: int
    """Devices that take part together."""
    runs: int
    """How often it runs in a step."""
    open_loop: bool
    """Whether it lies in a loop whose length depends on data: it then runs more often than `runs` says."""


def read(program: Program, devices: int) -> list[Collective]:
    """Finds the collectives of a program; those that have a start and an end count once.

    Args:
      program: optimised.
      devices: of the program, which an empty list of groups means.
    """
    found = []
    for run in program.reached():
        for each in run.instructions:
            kind = each.operation.removesuffix("-start")
            if kind in KINDS:
                group = _group(each.rest, devices)
                size = _payload(kind, each.shape, each.operation != kind, group)
                found.append(Collective(kind, size, group, run.runs, run.open_loop))
    return found


def seconds(collective: Collective, chip: Chip, torus: tuple[int, ...]) -> float:
    """Returns the time of all its runs in a step.

    Args:
      collective: from `read`.
      chip: the TPU's version.
      torus: chips along each axis of the slice. A collective of fewer devices than those runs on its longest axis.
    """
    axes = [size for size in torus if size > 1]
    if collective.group <= 1 or not axes:
        return 0.0
    if collective.group < math.prod(axes):
        axes = [min(collective.group, max(axes))]
    chips, hops = collective.group, sum(_hops(size, chip) for size in axes)
    share = (chips - 1) / chips
    width = [_axis_bandwidth(size, chip) for size in axes]
    match collective.kind:
        case "all-reduce":
            once = 2 * collective.bytes * share / sum(width) + 2 * hops * HOP_S
        case "all-to-all":
            longest = max(range(len(axes)), key=lambda axis: axes[axis])
            once = collective.bytes * axes[longest] / (8 * width[longest]) + hops * HOP_S
        case "collective-permute":
            once = collective.bytes / chip.link + HOP_S
        case _:
            once = collective.bytes * share / sum(width) + hops * HOP_S
    return once * collective.runs


def summary(found: list[Collective], chip: Chip | None, torus: tuple[int, ...]) -> list[dict[str, Any]]:
    """Sums collectives of the same kind, JSON-ready.

    Args:
      found: of one program.
      chip: whose links carry them, or None where no time is known.
      torus: as in `seconds`.

    Returns:
      per kind and kind of loop: kind, count (instructions), runs and bytes of one step, open_loop, and seconds of one
      step or None.
    """
    groups: dict[tuple[str, bool], list[Collective]] = {}
    for each in found:
        groups.setdefault((each.kind, each.open_loop), []).append(each)
    return [
        {
            "kind": kind,
            "count": len(group),
            "runs": sum(each.runs for each in group),
            "bytes": sum(each.runs * each.bytes for each in group),
            "open_loop": open_loop,
            "seconds": sum(seconds(each, chip, torus) for each in group) if chip else None,
        }
        for (kind, open_loop), group in sorted(groups.items())
    ]


def _axis_bandwidth(size: int, chip: Chip) -> float:
    """Bytes/s that a chip sends along an axis: in both directions of a ring; on an open line, in one."""
    return chip.link * (2 if size % chip.ring == 0 else 1)


def _hops(size: int, chip: Chip) -> int:
    return size // 2 if size % chip.ring == 0 else size - 1


def _payload(kind: str, shape: str, started: bool, group: int) -> int:
    """Bytes of the array that a collective is about, from the shape of its result."""
    total = sum(array.bytes for array in hlo.arrays(shape))
    if kind == "reduce-scatter":
        return total * group
    if not started or kind == "all-reduce":
        return total
    # A start returns its operand beside its result.
    return round(total * group / (group + 1)) if kind == "all-gather" else total // 2


def _group(rest: str, devices: int) -> int:
    """Size of the groups, in any of the three ways in which HLO writes them."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return listed[1].count(",") + 1
    return devices
