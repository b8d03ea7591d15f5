"""Mains as tests call them."""

import subprocess

import pytest

from tests import mains


@pytest.mark.parametrize("environment", [None, {"JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": "0"}])
def test_one_that_hangs_is_ended_and_what_it_printed_is_told(environment):
    hangs = "import time; print('begun', flush=True); time.sleep(60)"
    with pytest.raises(subprocess.TimeoutExpired) as error:
        mains.call_module("timeit", "-n1", "-r1", hangs, environment=environment, limit_s=1)
    assert b"begun" in (error.value.output if environment else error.value.output.encode())
