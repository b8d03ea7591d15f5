"""Costs of a step before it runs: FLOPs against a closed form and the compiler, collectives against hand-made numbers."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from celltrack_jax import tasks
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.training import ahead_of_time, collectives, cost, hlo
from celltrack_jax.training.collectives import Collective
from celltrack_jax.training.hardware import CHIPS, device_peak
from configs.ctc import segment

V5E = CHIPS["v5e"]


def unet_flops(config, batch: int) -> float:
    """Forward pass and gradients of a U-Net's convolutions, without the gradient of the image, in closed form."""
    model = config.model
    pixels = [math.prod(config.data.crop) // math.prod(model.stem)]
    for pool in model.pools:
        pixels.append(pixels[-1] // math.prod(pool))
    first = config.data.channels * math.prod(model.stem)
    total = 0.0

    def add(pixels: int, taps: int, inputs: int, outputs: int, passes: int = 3) -> None:
        nonlocal total
        total += passes * 2 * batch * pixels * taps * inputs * outputs

    for level, (width, kernel) in enumerate(zip(model.widths, model.kernels, strict=True)):
        taps, before = math.prod(kernel), model.widths[level - 1] if level else first
        add(pixels[level], taps, before, width, 3 if level else 2)
        add(pixels[level], taps, width, width)
        if level < len(model.pools):
            add(pixels[level + 1], math.prod(model.pools[level]), model.widths[level + 1], width)
            add(pixels[level], taps, 2 * width, width)
            add(pixels[level], taps, width, width)
    add(pixels[0], 1, model.widths[0], 2 * math.prod(model.stem))
    return total


@pytest.mark.parametrize(
    ("argument", "platform"), [("sim", "tpu"), ("demo3d", "tpu"), ("tiny", "tpu"), ("tiny3d", "cpu")]
)
def test_flops_of_the_network_are_those_of_the_closed_form(argument, platform):
    config = segment.get_config(argument)
    task = tasks.build(config)
    counted = cost.network_flops(task, FunctionalModel(task.model), platform)
    assert counted == pytest.approx(unet_flops(config, config.data.batch_size), rel=0.02)


def test_a_report_of_one_device_agrees_with_the_closed_form():
    config = segment.get_config("tiny")
    target = ahead_of_time.find_target("local")
    report = ahead_of_time.report(config, target._replace(devices=target.devices[:1]), 8, search=True)
    assert report["flops"]["network"] == pytest.approx(unet_flops(config, 8), rel=0.02)
    # The step augments, makes targets and normalises beside, and the compiler does not count taps on zero padding.
    assert report["flops"]["compiler"] > 0.8 * report["flops"]["network"]
    assert report["batch"] == {"per_device": 8, "global": 8}
    assert report["collectives"] == []
    assert "roofline" not in report  # a CPU's peak is not known


def test_flops_of_a_plain_program_are_the_compilers():
    def program(x, kernel, matrix):
        layouts = ("NHWC", "HWIO", "NHWC")
        convolved = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layouts)
        return jnp.einsum("bhwc,cd->bhwd", convolved, matrix).sum()

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 66, 66, 16), (3, 3, 16, 32), (32, 64))]
    counted = cost.matrix_flops(program, "cpu", *shapes)
    assert counted == 2 * 2 * 64 * 64 * 32 * (9 * 16 + 64)
    compiled = jax.jit(program).lower(*shapes).compile()
    assert counted == pytest.approx(cost.compiler_count(compiled)[0], rel=0.02)


def test_loops_branches_and_wrappers_count_what_they_run():
    square = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    once = 2 * 8**3

    def flops(function, platform="cpu"):
        return cost.matrix_flops(function, platform, square)

    def loop(x):
        return lax.scan(lambda carry, _: (carry @ x, None), x, length=5)[0]

    assert flops(loop) == 5 * once
    assert flops(lambda x: lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)) == 2 * once
    by_platform = dict(cpu=lambda x: x @ x @ x, default=lambda x: x @ x)
    assert flops(lambda x: lax.platform_dependent(x, **by_platform)) == 2 * once
    assert flops(lambda x: lax.platform_dependent(x, **by_platform), "tpu") == once
    assert flops(jax.jit(jax.vmap(lambda row: row @ jnp.ones((8, 8))))) == once
    assert flops(lambda x: ((x @ x) * 0, x)[1]) == 0  # what nobody needs
    assert flops(jax.checkpoint(lambda x: jnp.sin(x @ x))) == once
    # A dilated input has zeros between its pixels.
    strided = lax.conv_general_dilated
    assert cost.matrix_flops(
        lambda x, k: strided(
            x, k, (1,), [(0, 0)], lhs_dilation=(2,), dimension_numbers=("NWC", "WIO", "NWC")
        ),
        "cpu",
        jax.ShapeDtypeStruct((1, 5, 3), jnp.float32),
        jax.ShapeDtypeStruct((2, 3, 4), jnp.float32),
    ) == pytest.approx(2 * 8 * 4 * 2 * 3 / 2)


MODULE = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (f32[100], s32[])) -> (f32[100], s32[]) {
  %inside = f32[100]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
}

%test (state: (f32[100], s32[])) -> pred[] {
  %agreed = u32[] all-reduce(%y), replica_groups={}, to_apply=%add
}

%fused (param_0: f32[64,100], param_1: s32[]) -> f32[1,100] {
  %param_0 = f32[64,100]{1,0:T(8,128)} parameter(0)
  %param_1 = s32[] parameter(1)
  ROOT %cut = f32[1,100]{1,0:T(1,128)} dynamic-slice(%param_0, %param_1, %param_1), dynamic_slice_sizes={1,100}
}

ENTRY %main (p: f32[64,100]) -> f32[] {
  %p = f32[64,100]{1,0:T(8,128)} parameter(0)
  %i = s32[] constant(3)
  %grad = (bf16[3,5]{1,0}, f32[7]{0}) all-reduce-start(%p, %p), replica_groups=[2,8]<=[16], to_apply=%add
  %done = (bf16[3,5]{1,0}, f32[7]{0}) all-reduce-done(%grad)
  %all = (f32[4]{0}, f32[16]{0}) all-gather-start(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %part = f32[4]{0} reduce-scatter(%p), replica_groups=mesh['a'=4,'b'=4] {'b'}, to_apply=%add
  %known = (f32[100], s32[]) while(%t), condition=%none, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %open = (f32[100], s32[]) while(%t), condition=%test, body=%none
  %row = f32[1,100]{1,0:T(1,128)} fusion(%p, %i), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"500"}
  %near = f32[64,100]{1,0:T(8,128)S(1)} copy(%p), backend_config={"estimated_cycles":"70"}
  ROOT %kept = f32[64,100]{1,0:T(8,128)S(1)} add(%near, %near)
}
"""


def test_collectives_are_read_with_their_groups_loops_and_bytes():
    assert collectives.read(hlo.Program(MODULE), 16) == [
        Collective("all-reduce", 2 * 15 + 4 * 7, 8, 1, False),
        Collective("all-gather", 4 * 16, 4, 1, False),
        Collective("reduce-scatter", 4 * 16, 4, 1, False),
        Collective("collective-permute", 400, 16, 6, False),
        Collective("all-reduce", 4, 16, 1, True),
    ]


def test_traffic_counts_padded_tiles_slices_and_chip_memory():
    program = hlo.Program(MODULE)
    array, row = 64 * 128 * 4, 128 * 4
    alone = {each.name: each for each in program.computations["main"]}
    shapes = {name: hlo.arrays(each.shape) for name, each in alone.items()}

    def moved(name: str) -> int:
        return hlo._moved(program, alone[name], shapes)

    # The fusion reads one row of its operand and its index, and writes one row.
    assert (moved("row"), moved("near"), moved("kept")) == (2 * row, array, 0)
    assert hlo.core_cycles(program) == 570


@pytest.mark.parametrize(
    ("kind", "torus", "expected"),
    [
        # Closed rings: 4 links of 50 GB/s, and 8 hops along each axis.
        ("all-reduce", (16, 16), 2 * 1e6 * 255 / 256 / 200e9 + 2 * 16e-6),
        ("all-gather", (16, 16), 1e6 * 255 / 256 / 200e9 + 16e-6),
        # Open lines send one way: half the links, and 3 hops along each axis.
        ("all-reduce", (4, 4), 2 * 1e6 * 15 / 16 / 100e9 + 2 * 6e-6),
        ("reduce-scatter", (4, 4), 1e6 * 15 / 16 / 100e9 + 6e-6),
        ("all-to-all", (16, 1), 1e6 * 16 / 8 / 100e9 + 8e-6),
        ("collective-permute", (4, 4), 1e6 / 50e9 + 1e-6),
        ("all-reduce", (1, 1), 0.0),
    ],
)
def test_times_of_collectives_are_those_of_the_ring_model(kind, torus, expected):
    said = Collective(kind, 1_000_000, math.prod(torus), 1, False)
    assert collectives.seconds(said, V5E, torus) == pytest.approx(expected)
    assert collectives.seconds(said._replace(runs=3), V5E, torus) == pytest.approx(3 * expected)


def test_a_group_of_some_chips_runs_on_one_axis():
    said = Collective("all-reduce", 1_000_000, 4, 1, False)
    assert collectives.seconds(said, V5E, (16, 16)) == pytest.approx(2 * 1e6 * 3 / 4 / 50e9 + 2 * 3e-6)


def test_the_roofline_is_its_largest_bound_and_what_is_said():
    bounds = cost.Roofline(0.01, 0.03, 0.02, 0.005)
    assert bounds.step_s == pytest.approx(0.035)
    assert bounds.bound == "memory"
    assert cost.Roofline(0.01, 0.0, 0.0, 0.02).bound == "communication"


def test_the_largest_batch_lies_on_the_line_through_two():
    line = cost.BatchModel.fit((4, 10.0), (8, 14.0))
    assert line == (6.0, 1.0)
    assert line.largest(20.5) == 14
    assert line.largest(5.0) == 0
    assert cost.BatchModel.fit((4, 10.0), (8, 10.0)).largest(20.0) is None


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 33.50G of "
         "15.75G hbm. Exceeded hbm capacity by 17.75G.", 33.5),
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (600.00G) exceeds "
         "available HBM (15.75G).", 600.0),
        ("RESOURCE_EXHAUSTED: vmem", None),
        ("INTERNAL: Used 1G of 2G hbm", None),
    ],
)  # fmt: skip
def test_a_shortage_of_memory_is_read_off_the_compilers_error(message, gib):
    assert ahead_of_time.shortage(message) == (None if gib is None else gib * 2**30)


def test_every_chip_is_known_to_jax_by_its_kind():
    class Device:
        def __init__(self, kind):
            self.device_kind = kind

    for chip in CHIPS.values():
        assert device_peak(Device(chip.kind)) == chip.peak
    assert device_peak(Device("NVIDIA H100 80GB HBM3")).flops == 989e12
    assert device_peak(Device("cpu")) is None
