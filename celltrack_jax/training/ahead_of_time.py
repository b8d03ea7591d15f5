"""Compiles a config's training step for devices that need not be there, and reports what it would cost on them."""

import math
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from celltrack_jax import tasks
from celltrack_jax.config import Config
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.training import collectives, cost, hlo, memory, mesh, rules
from celltrack_jax.training.hardware import CHIPS, Chip, Peak, device_peak
from celltrack_jax.training.optimizer import make_optimizer
from celltrack_jax.training.state import compile_step

LOCAL = "local"
"""The topology of the devices that are there."""
_NAME = re.compile(r"(\w+):(\d+(?:x\d+){1,2})")
_SHORTAGE = re.compile(r"[Uu]sed ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
_SHORTAGE_OF_TEMPORARIES = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")


class Target(NamedTuple):
    """Devices to compile for."""

    topology: str
    devices: Sequence[Any]
    chip: Chip | None
    """None for local devices."""
    torus: tuple[int, ...]
    """Chips along each axis; () for local devices."""

    @property
    def peak(self) -> Peak | None:
        """Of one device, where it is known."""
        return self.chip.peak if self.chip else device_peak(self.devices[0])


def find_target(topology: str) -> Target:
    """Looks up the devices of a topology.

    Args:
      topology: a TPU slice such as v5e:4x4 or v5p:2x2x4, or "local".

    Raises:
      InputError: there is no such slice.
    """
    if topology == LOCAL:
        return Target(LOCAL, jax.devices(), None, ())
    named = _NAME.fullmatch(topology)
    chip = CHIPS.get(named[1]) if named else None
    if named is None or chip is None:
        known = ", ".join(CHIPS)
        raise InputError(f"topology {topology!r}: give one of {known} and its chips along each axis: v5e:4x4")
    torus = tuple(int(size) for size in named[2].split("x"))
    if len(torus) != chip.axes or math.prod(torus) > chip.slice:
        raise InputError(
            f"topology {topology}: a slice of {named[1]} has {chip.axes} axes and at most {chip.slice} chips"
        )
    options: dict[str, Any] = {}
    if math.prod(torus) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if named[1] == "v4":
        options["chip_config_name"] = "megacore"  # one device per chip, as on Cloud TPUs
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"topology {topology}: {error}") from None
    return Target(topology, found.devices, chip, torus)


class Compiled(NamedTuple):
    """A step that was compiled, or the memory for which it was not."""

    batch_per_device: int
    program: Any
    """None where it does not fit."""
    needed: float
    """Bytes of one device's memory."""
    seconds: float
    """That compiling took."""


def report(config: Config, target: Target, batch_per_device: int, *, search: bool) -> dict[str, Any]:
    """Compiles the step and says what it needs.

    Args:
      config: the experiment; its mesh.space and seed, data, model, ... are used, its batch size is set.
      target: the devices.
      batch_per_device: samples of each device, or of each group of mesh.space devices that share samples.
      search: whether to compile for a second batch too, which says the largest that fits.

    Returns:
      JSON-ready numbers, per device unless named otherwise; see docs/compile. Where the batch does not fit, only
      memory and what the search found.

    Raises:
      InputError: config and devices contradict each other, or not even one sample fits.
    """
    if target.chip and "dtype" in config.model and config.model.dtype == "auto":
        config.model.dtype = "bfloat16"  # "auto" asks the machine that compiles
    groups = len(target.devices) // config.mesh.space
    config.data.batch_size = batch_per_device * max(groups, 1)
    first = _compile(config, target, batch_per_device)
    result: dict[str, Any] = {
        "topology": target.topology,
        "device": target.devices[0].device_kind,
        "devices": len(target.devices),
        "mesh": {"data": groups, "space": config.mesh.space},
        "dtype": config.model.get("dtype"),
        "batch": {"per_device": batch_per_device, "global": batch_per_device * groups},
        "fits": first.program is not None,
        "compile_s": round(first.seconds, 1),
        "memory": _memory(first, target),
    }
    if first.program is not None:
        result |= _costs(config, target, first.program)
    if target.chip and search:
        result["search"] = _search(config, target, first)
    return result


def _compile(config: Config, target: Target, batch_per_device: int) -> Compiled:
    start = time.perf_counter()
    config.data.batch_size = batch_per_device * max(len(target.devices) // config.mesh.space, 1)
    devices = mesh.make_mesh(
        config.mesh.space, config.data.batch_size, target.devices, config.train.accumulate
    )
    task = tasks.build(config)
    model = FunctionalModel(task.model, rules.freezing(config.optimizer.learning_rate_rules))
    params = jax.eval_shape(model.init, jax.random.key(0)).params
    optimizer = make_optimizer(config.optimizer, config.train.steps, params)
    try:
        program = compile_step(task, model, optimizer, devices, config)
    except jax.errors.JaxRuntimeError as error:
        needed = shortage(str(error))
        if needed is None:
            raise
        return Compiled(batch_per_device, None, needed, time.perf_counter() - start)
    return Compiled(batch_per_device, program, memory.needed_bytes(program), time.perf_counter() - start)


def shortage(message: str) -> float | None:
    """Returns the bytes that a program would have needed, from its compiler's error, or None for another error."""
    found = _SHORTAGE.search(message) or _SHORTAGE_OF_TEMPORARIES.search(message)
    if "RESOURCE_EXHAUSTED" not in message or found is None:
        return None
    return float(found[1]) * 1024 ** " KMGT".index(found[2] or " ")


def _memory(compiled: Compiled, target: Target) -> dict[str, Any]:
    """Bytes of one device."""
    parts = {}
    if compiled.program is not None:
        found = compiled.program.memory_analysis()
        names = {"argument": "arguments", "output": "outputs", "alias": "aliased", "temp": "temporary"}
        parts = {name: getattr(found, f"{key}_size_in_bytes") for key, name in names.items()}
        parts["code"] = found.generated_code_size_in_bytes
    available = target.chip.memory if target.chip else None
    return {"needed": round(compiled.needed), "available": available, **parts}


def _search(config: Config, target: Target, first: Compiled) -> dict[str, Any]:
    """Compiles at another batch; returns it, its memory and roofline, and the largest batch by a line through both."""
    assert target.chip is not None
    batch, least = first.batch_per_device, config.train.accumulate
    if first.program is None and batch == least:
        raise InputError(
            f"one sample at a time per device needs {first.needed / 2**30:.2f} GiB, {target.topology} has "
            f"{target.chip.memory / 2**30:.2f} GiB: set --config.model.remat, a smaller --config.data.crop, or --space"
        )
    second = _compile(config, target, _larger(first, target.chip) if first.program is not None else least)
    if first.program is None and second.program is None:
        return _search(config, target, second)
    line = cost.BatchModel.fit((batch, first.needed), (second.batch_per_device, second.needed))
    fits = [each.batch_per_device for each in (first, second) if each.program is not None]
    found: dict[str, Any] = {
        "largest_batch": max(line.largest(target.chip.memory) or 0, *fits),
        "batch_per_device": second.batch_per_device,
        "memory": _memory(second, target),
    }
    if second.program is not None:
        found["roofline"] = _costs(config, target, second.program)["roofline"]
    return found


def _larger(first: Compiled, chip: Chip) -> int:
    """A batch that fills about half the memory: small ones say little, since the cores' memory holds what they need."""
    room = max(1.0, chip.memory / (2 * first.needed))
    return first.batch_per_device * 2 ** min(6, max(1, math.floor(math.log2(room))))


def _costs(config: Config, target: Target, program: Any) -> dict[str, Any]:
    task = tasks.build(config)
    devices = len(target.devices)
    platform = target.devices[0].platform
    network = cost.network_flops(task, FunctionalModel(task.model), platform) / devices
    counted, accessed = cost.compiler_count(program)
    text = hlo.Program(program.as_text())
    moved = hlo.hbm_bytes(text) if target.chip else accessed
    said = collectives.summary(collectives.read(text, devices), target.chip, target.torus)
    result: dict[str, Any] = {
        "flops": {"network": network, "compiler": counted},
        "bytes": {"memory": moved, "accessed": accessed},
        "collectives": said,
    }
    if target.peak is not None:
        bounds = cost.Roofline(
            compute_s=max(network, counted) / target.peak.flops,
            memory_s=moved / target.peak.bytes,
            cores_s=hlo.core_cycles(text) / target.chip.clock if target.chip else 0.0,
            communication_s=sum(row["seconds"] for row in said if target.chip),
        )
        mfu = network / bounds.step_s / target.peak.flops
        result["roofline"] = bounds._asdict() | {"step_s": bounds.step_s, "bound": bounds.bound, "mfu": mfu}
    return result
