"""What all mains share: exit status 0 done, 1 the input is bad (one line), 2 wrong flags."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from celltrack_jax.errors import InputError


def run(main: Callable[[Sequence[str]], int | None], *, positional: bool = False) -> None:
    """Runs a main under absl and turns bad input and wrong flags into their exit status.

    Args:
      main: called with the program's name and the positional arguments; returns None or an exit status. A
        `flags.Error` that it raises is a wrong flag too.
      positional: whether it takes positional arguments.
    """
    app.run(lambda argv: _guarded(main, argv), flags_parser=lambda argv: _parse(argv, positional))


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
    except BrokenPipeError:
        # The reader of our output went away (`| head`); point stdout elsewhere so that exit stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return None


def _fail(message: str, status: int) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(status)
