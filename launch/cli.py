"""What all mains share: exit status 0 done, 1 the input is bad (one line), 2 wrong flags, 75 told to stop."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from celltrack_jax.errors import InputError

STOPPED = 75
"""Exit status of a command that was told to stop (SIGTERM) and saved what it had done: start it again to go on. It is
EX_TEMPFAIL of sysexits.h; scripts requeue on it."""

_HELP = ("help", "helpshort", "helpfull", "helpxml", "?")
"""Flags after which the library ends the process with status 1, once it has shown the help."""

_ABSENT_KEY = re.compile(r"'(\w+)'(?:\nDid you mean \"(\w+)\".*)?")
"""What the library says of a key that a config lacks."""

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


def absent_config(spec: str) -> str:
    """Says that a --config=<file>[:argument] names no file, and which are beside it; "" where it names one, or is ""."""
    path = Path(spec.partition(":")[0])
    if not spec or path.is_file():
        return ""
    folder = path if path.is_dir() else path.parent
    beside = sorted(one.name for one in folder.glob("*.py") if not one.name.startswith("_"))
    there = f"{folder} has {', '.join(beside)}" if beside else "such as configs/ctc/segment.py:sim"
    return f"--config={spec}: there is no file {path}: give the path of a config file, {there}"


def reason(error: Exception, words: Sequence[str] = ()) -> str:
    """Returns the line of an error in a --config that says what is wrong.

    A config is Python: a file, an argument or a key that does not exist may raise anything, and the library puts a whole
    traceback into its message, of which the last line says what is wrong.

    Args:
      error: that was raised.
      words: of the command, of which the one that names an absent key is named.
    """
    said: Any = error
    by_key = False
    # One may hold another, and a KeyError's own text is quoted.
    while isinstance(said, KeyError | AttributeError) and said.args:
        said, by_key = said.args[0], isinstance(said, KeyError)
    absent = _ABSENT_KEY.fullmatch(str(said))
    if absent:
        names = [word.lstrip("-").partition("=")[0] for word in words]
        by = next((f"--{name}: " for name in names if absent[1] in name.split(".")[1:]), "")
        meant = f", did you mean {absent[2]!r}?" if absent[2] else ""
        return f"{by}the config has no {absent[1]!r}{meant}"
    lines = str(said).strip().splitlines() or [type(error).__name__]
    # A bare word says nothing.
    return (
        f"KeyError: {said!r}"
        if by_key and isinstance(said, str) and said.isidentifier()
        else lines[-1].strip()
    )


def _configs(words: Sequence[str]) -> list[str]:
    """Values of --config among a command's words."""
    split = [word.partition("=") for word in words]
    return [
        value if equals else following
        for (name, equals, value), following in zip(split, [*words[1:], ""], strict=True)
        if name in ("--config", "-config")
    ]


def _parse(argv: Sequence[str], positional: bool) -> list[str]:
    try:
        left = flags.FLAGS(list(argv))
    except SystemExit as end:
        asked = any(word.lstrip("-").partition("=")[0] in _HELP for word in argv[1:] if word.startswith("-"))
        raise SystemExit(0 if asked else end.code) from None
    except Exception as error:
        absent = next(filter(None, map(absent_config, _configs(argv))), "")
        _fail(absent or f"{reason(error, argv)} (--help lists the flags)", 2)
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
