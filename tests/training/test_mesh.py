"""How a run is laid out over devices changes what each of them holds, and not what is learned."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.training import memory
from celltrack_jax.training import mesh as meshes
from tests import mains
from tests.training.toy_task import toy_config


def said_by(script):
    """What a script that has several virtual devices prints last, as JSON."""
    done = mains.call_module(f"tests.training.{script}")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def layouts():
    """A few steps of the toy task in each layout, on eight virtual devices."""
    return said_by("run_layouts")


@pytest.mark.parametrize("layout", ["data", "space", "fsdp", "fsdp and space", "accumulated", "by names"])
def test_every_layout_learns_the_same(layouts, layout):
    expected = layouts["one device"]["losses"]
    assert len(expected) == 4
    assert len(set(expected)) == 4
    np.testing.assert_allclose(layouts[layout]["losses"], expected, rtol=1e-8)


def test_parameters_and_what_the_optimizer_keeps_of_them_are_split_by_rule(layouts):
    whole, split = (layouts[layout]["state_bytes"] for layout in ("data", "fsdp"))
    # The kernels of the wide level are nearly all of it: parameters, averages and two moments.
    assert split < 0.2 * whole


@pytest.mark.slow
def test_mask_rcnn_learns_on_two_devices_what_it_does_on_one():
    """Proposals, samples and statistics are of the whole batch, of which each device has one sample."""
    report = said_by("run_mask_rcnn")
    assert len(set(report["one"])) == 3
    np.testing.assert_allclose(report["two"], report["one"], rtol=1e-5)
    assert report["difference"] < 1e-2, "of how far each array of parameters moved, and all did"


@pytest.fixture
def mesh():
    return meshes.make_mesh(1, 4, jax.devices()[:1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sharded", "'sharded' is neither"),
        (("rows", None), "does not divide as"),
        (("data", "z"), "does not divide"),
    ],
)
def test_a_rule_that_says_nothing_known_is_refused(mesh, spec, message):
    with pytest.raises(InputError, match=message):
        meshes.parameter_sharding(mesh, spec, (256, 256))


def test_a_batch_that_does_not_divide_into_parts_names_the_cure():
    with pytest.raises(InputError, match=r"batch of 6 .*in 4 parts.*multiple of 4"):
        meshes.make_mesh(1, 6, jax.devices()[:1], 4)


def test_a_crop_that_does_not_divide_over_space_names_the_cure():
    class TwoDevices:
        shape = {"data": 1, "space": 2}  # noqa: RUF012

    with pytest.raises(InputError, match=r"axis of image, 7, .*mesh.space=2"):
        meshes.batch_shardings(TwoDevices(), {"image": jax.ShapeDtypeStruct((1, 7, 8, 1), jnp.float32)})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("needed", "samples", "cure"),
    [
        (
            20,
            8,
            r"20.00 GiB .* has 12.00: 8 samples .* about 4 would fit; --config.train.accumulate=2 .*takes 4 at",
        ),
        (20, 1, r"not even one sample fits: .*--config.mesh.space"),
    ],
)
def test_a_step_that_does_not_fit_says_by_how_much_and_what_would(needed, samples, cure):
    config = toy_config(batch_size=8)
    gib = 2**30
    memory.check_fits(12 * gib, 4 * gib, 12 * gib, samples, config)
    with pytest.raises(InputError, match=cure):
        memory.check_fits(needed * gib, 4 * gib, 12 * gib, samples, config)
