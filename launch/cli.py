"""What all mains share: exit status 0 done, 1 the input is bad (one line), 2 wrong flags, 75 told to stop."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging

from celltrack_jax.errors import InputError

STOPPED = 75
"""Exit status of a command that was told to stop (SIGTERM) and saved what it had done: start it again to go on. It is
EX_TEMPFAIL of sysexits.h; scripts requeue on it."""

ON_FAILURE: list[Callable[[str, int], object]] = []
"""Called with the message and the exit status before a command fails: how the other processes of a run learn of it."""


def run(main: Callable[[Sequence[str]], int | None], *, positional: bool = False) -> None:
    """Runs a main under absl and turns bad input and wrong flags into their exit status.

    Args:
      main: called with the program's name and the positional arguments; returns None or an exit status. A
        `flags.Error` that it raises is a wrong flag too.
      positional: whether it takes positional arguments.
    """
    app.run(lambda argv: _guarded(main, argv), flags_parser=lambda argv: _parse(argv, positional))


def spacing(words: Sequence[str]) -> list[float]:
    """Reads a --spacing: voxel size in µm, z,y,x, or y,x of a 2D movie.

    Raises:
      InputError: these are not two or three positive numbers.
    """
    try:
        sizes = [float(word) for word in words]
    except ValueError:
        sizes = []
    if len(sizes) not in (2, 3) or not all(0 < size < float("inf") for size in sizes):
        raise InputError(
            f"--spacing={','.join(words)} is not two or three positive numbers: give z,y,x in µm (y,x in 2D)"
        )
    return sizes


def spacing_zyx(sizes: Sequence[float], planes: int, movie: Path | str) -> list[float]:
    """Returns z, y, x of a --spacing for a movie; z of a 2D movie is 1 unless it is given.

    Args:
      sizes: of `spacing`.
      planes: Z of the movie, 1 in 2D.
      movie: that the error names.

    Raises:
      InputError: only y and x are given for a movie of several planes.
    """
    if len(sizes) == 2 and planes > 1:
        y, x = (f"{size:.10g}" for size in sizes)
        raise InputError(
            f"--spacing={y},{x} lacks z: {movie} has {planes} planes; give --spacing=<z>,{y},{x} in µm"
        )
    return [1.0] * (3 - len(sizes)) + [float(size) for size in sizes]


def _parse(argv: Sequence[str], positional: bool) -> list[str]:
    try:
        left = flags.FLAGS(list(argv))
    except Exception as error:
        # A --config is Python: a file, an argument or a key that does not exist may raise anything, and the
        # library puts a whole traceback into its message, of which the last line says what is wrong.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        _fail(f"{lines[-1].strip()} (--help lists the flags)", 2)
    if len(left) > 1 and not positional:
        _fail(f"unexpected argument {left[1]!r}: every option is a --flag=value", 2)
    return left


def _guarded(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int | None:
    if not flags.FLAGS["verbosity"].present:
        # jax and orbax report every detail of their work at INFO.
        logging.set_verbosity(logging.WARNING)
    try:
        return main(argv)
    except InputError as error:
        _fail(str(error), 1)
    except flags.Error as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("stopped; the same command continues", 130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); point stdout elsewhere so that exit stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if ON_FAILURE:  # the others would wait for this process
            traceback.print_exc()
            _fail(f"{type(error).__name__}: {error}", 1)
        raise
    return None


def _fail(message: str, status: int) -> NoReturn:
    message = " ".join(message.split())
    print(f"error: {message}", file=sys.stderr, flush=True)
    for tell in ON_FAILURE:
        tell(message, status)
    raise SystemExit(status)
