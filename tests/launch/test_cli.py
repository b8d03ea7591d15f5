"""What the mains share: one reading of --spacing, what is said of a --config, and the status of --help."""

import pytest
from absl import flags
from ml_collections import config_flags

from celltrack_jax.errors import InputError
from launch import cli
from tests import mains

CONFIG = "configs/ctc/segment.py:tiny"


@pytest.mark.parametrize("flag", ["--help", "--helpfull"])
def test_help_is_no_failure(flag):
    done = mains.call("bench", flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--against" in done.stdout


def test_a_config_that_ends_the_process_keeps_its_status(tmp_path):
    (tmp_path / "ends.py").write_text("raise SystemExit(3)")
    assert mains.call("train", f"--config={tmp_path / 'ends.py'}").returncode == 3


@pytest.mark.filterwarnings("ignore:the load_module")  # how the library imports a config
@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "--config.train.stepss=20",
            "--config.train.stepss: the config has no 'stepss', did you mean 'steps'?",
        ),
        ("--config.train.zzz=1", "--config.train.zzz: the config has no 'zzz'"),
        (
            "--config.train.steps=a",
            "flag --config.train.steps=a: invalid literal for int() with base 10: 'a'",
        ),
    ],
)
def test_a_wrong_key_of_a_config_is_named(word, said):
    words = ["main", f"--config={CONFIG}", word]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    with pytest.raises(Exception) as error:  # noqa: PT011
        values(words)
    assert cli.reason(error.value, words) == said


def test_other_errors_of_a_config_keep_their_last_line():
    assert cli.reason(ValueError("Traceback\n  line\nValueError: no 'x'")) == "ValueError: no 'x'"
    assert cli.reason(KeyError("sim")) == "KeyError: 'sim'"
    assert cli.reason(ValueError()) == "ValueError"


def test_a_config_that_is_absent_is_told_with_those_beside_it(tmp_path):
    for name in ("b.py", "a.py", "__init__.py", "notes.txt"):
        (tmp_path / name).touch()
    path = tmp_path / "c.py"
    assert cli.absent_config(f"{path}:sim") == (
        f"--config={path}:sim: there is no file {path}: give the path of a config file, {tmp_path} has a.py, b.py"
    )
    assert cli.absent_config(str(tmp_path)).endswith(f"{tmp_path} has a.py, b.py")
    assert "such as configs/ctc" in cli.absent_config(str(tmp_path / "none" / "c.py"))
    assert not cli.absent_config(f"{tmp_path / 'a.py'}:sim")


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
