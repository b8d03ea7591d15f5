"""Reads the text of a compiled program: what runs how often, what it moves and what its compiler expects of it.

A TPU's compiler writes into each shape how the array is padded to tiles and in which memory it lies, as in
`bf16[64,32]{1,0:T(8,128)(2,1)S(1)}`: S(1) is memory in the chip, no S is HBM.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NAME = re.compile(r"%([\w.-]+)")
_SLICES = ("dynamic-slice", "slice", "gather")
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
         "after-all", "iota", "partition-id", "replica-id")  # fmt: skip
"""Operations that move nothing themselves."""


class Array(NamedTuple):
    """One array of a shape."""

    bytes: int
    """Without padding."""
    padded: int
    """Bytes, tiles filled up."""
    on_chip: bool
    """Whether it lies in the memory of the chip's cores."""


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    operation: str
    rest: str
    """Operands and attributes."""
    root: bool

    @property
    def operands(self) -> list[str]:
        """Names."""
        return _NAME.findall(self.rest.split(")", 1)[0])

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        branches = [name for group in _BRANCHES.findall(self.rest) for name in _NAME.findall(group)]
        return _CALLED.findall(self.rest) + branches


class Run(NamedTuple):
    """A computation that a program reaches."""

    instructions: list[Instruction]
    runs: int
    """How often in one run of the program."""
    open_loop: bool
    """Whether in a loop whose length depends on data; `runs` then counts one round of it."""
    fused: bool
    """Whether it is the inside of one operation."""


class Program:
    """The computations of an optimised module."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self._entry, here = "", None
        for line in text.splitlines():
            if opened := _COMPUTATION.match(line):
                here = self.computations.setdefault(opened[1], [])
                self._entry = opened[1] if line.startswith("ENTRY") else self._entry
            elif here is not None and (found := _INSTRUCTION.match(line)):
                here.append(Instruction(found[2], found[3], found[4], found[5], bool(found[1])))

    def reached(self) -> Iterator[Run]:
        """Yields each computation as often as it is called from."""
        yield from self._reached(self._entry, 1, False, False)

    def _reached(self, name: str, runs: int, is_open: bool, fused: bool) -> Iterator[Run]:
        if name not in self.computations:
            return
        yield Run(self.computations[name], runs, is_open, fused)
        for each in self.computations[name]:
            trips, unknown = 1, False
            if each.operation == "while":
                known = _TRIPS.search(each.rest)
                trips, unknown = (int(known[1]), False) if known else (1, True)
            inside = fused or each.operation not in ("while", "conditional", "call")
            for inner in each.called:
                yield from self._reached(inner, runs * trips, is_open or unknown, inside)


def arrays(shape: str) -> list[Array]:
    """Returns the arrays of a shape; several for a tuple."""
    return [_array(*found.groups()) for found in _SHAPE.finditer(shape)]


def _array(dtype: str, sizes: str, layout: str | None) -> Array:
    bits = 8 if dtype == "pred" else int((re.search(r"\d+", dtype) or ["32"])[0])
    shape = [int(size) for size in sizes.split(",") if size]
    order, _, tiling = (layout or "").partition(":")
    minor = [shape[int(axis)] for axis in order.split(",") if axis] or [1]
    if tile := re.search(r"T\(([\d,]+)\)", tiling):
        for place, size in enumerate(reversed([int(size) for size in tile[1].split(",")])):
            if place < len(minor):
                minor[place] = -(-minor[place] // size) * size
    padded = math.prod(minor) if order or tiling else math.prod(shape)
    return Array(math.prod(shape) * bits // 8, padded * bits // 8, "S(1)" in tiling)


def hbm_bytes(program: Program) -> int:
    """Returns the bytes that operations read from and write to a TPU's HBM, padding included.

    What stays in the memory of the chip's cores is not counted, a slice counts by its own size, and a loop whose length
    depends on data counts one round.
    """
    total = 0
    for run in program.reached():
        if not run.fused:
            shapes = {each.name: arrays(each.shape) for each in run.instructions}
            total += run.runs * sum(_moved(program, each, shapes) for each in run.instructions)
    return total


def core_cycles(program: Program) -> int:
    """Returns the cycles that a TPU's compiler expects of its operations, one after the other; 0 of another compiler.

    It counts the work of the cores and their memory: narrow channels fill few of a vector's 128 lanes, which neither
    FLOPs nor HBM show. A loop whose length depends on data counts one round.
    """
    total = 0
    for run in program.reached():
        if not run.fused:
            found = (_CYCLES.search(each.rest) for each in run.instructions)
            total += run.runs * sum(int(cycles[1]) for cycles in found if cycles)
    return total


def _moved(program: Program, each: Instruction, shapes: dict[str, list[Array]]) -> int:
    if each.operation in _FREE or each.operation.endswith("-done"):
        return 0
    results = shapes[each.name]
    read = [_in_hbm(shapes.get(name, [])) for name in each.operands]
    if each.operation == "copy-start":
        return _in_hbm(results[:2])
    if each.operation in ("slice-start", *_SLICES):
        made = results[-2] if each.operation == "slice-start" else results[0]
        return (0 if made.on_chip else made.padded) + (made.padded if read and read[0] else 0)
    if each.operation == "dynamic-update-slice":
        return 2 * sum(read[1:2])
    if each.operation == "fusion":
        inside = program.computations.get(each.called[0], [])
        read = [_read_by_fusion(inside, place, whole) for place, whole in enumerate(read)]
        written = _written_by_fusion(inside, results)
        return sum(read) + written
    return sum(read) + _in_hbm(results)


def _in_hbm(found: list[Array]) -> int:
    return sum(array.padded for array in found if not array.on_chip)


def _read_by_fusion(inside: list[Instruction], place: int, whole: int) -> int:
    """Bytes of an operand that a fusion reads: less than the whole where it only slices or overwrites it."""
    parameter = next(
        (each.name for each in inside if each.operation == "parameter" and each.rest.startswith(f"{place})")),
        None,
    )
    users = [each for each in inside if parameter in each.operands]
    if not whole or not users:
        return whole
    parts = 0
    for user in users:
        if user.operation in _SLICES and user.operands[0] == parameter:
            parts += sum(array.padded for array in arrays(user.shape))
        elif user.operation != "dynamic-update-slice" or user.operands[0] != parameter:
            return whole
    return min(parts, whole)


def _written_by_fusion(inside: list[Instruction], results: list[Array]) -> int:
    root = next((each for each in inside if each.root), None)
    if root is not None and root.operation == "dynamic-update-slice" and not results[0].on_chip:
        update = next((each for each in inside if each.name == root.operands[1]), None)
        return sum(array.padded for array in arrays(update.shape)) if update else _in_hbm(results)
    return _in_hbm(results)
