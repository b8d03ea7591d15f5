"""What the mains share: one reading of --spacing."""

import pytest

from celltrack_jax.errors import InputError
from launch import cli


def test_spacing_is_z_y_x_and_a_flat_movie_may_leave_out_z():
    assert cli.spacing(["0.5", "0.2", "0.1"]) == [0.5, 0.2, 0.1]
    assert cli.spacing_zyx([0.2, 0.1], 1, "01") == [1, 0.2, 0.1]
    assert cli.spacing_zyx([0.5, 0.2, 0.1], 1, "01") == [0.5, 0.2, 0.1]
    assert cli.spacing_zyx([0.5, 0.2, 0.1], 7, "01") == [0.5, 0.2, 0.1]


def test_a_stack_needs_z():
    with pytest.raises(InputError, match=r"--spacing=0\.2,0\.1 lacks z: 01 has 7 planes; give --spacing=<z>"):
        cli.spacing_zyx([0.2, 0.1], 7, "01")


@pytest.mark.parametrize(
    "words", [[], ["1"], ["1"] * 4, ["1", "x"], ["1", "0"], ["1", "-1"], ["1", "inf"], ["nan"] * 2]
)
def test_what_is_no_spacing_is_refused(words):
    with pytest.raises(InputError, match="is not two or three positive numbers"):
        cli.spacing(words)
