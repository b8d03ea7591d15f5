"""Mains as users call them: processes of their own, with their status and what they print.

They are forked from one that has imported the libraries and done nothing else, so that a start takes a third of the
1.4 s of CPU that `python -m` takes; tests of starting itself use `subprocess`.
"""

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from tests.conftest import ROOT

LIMIT_S = 1200
"""After which a process that hangs is ended, so that its test fails, and pytest can end."""
_LIBRARIES = ("jax", "jax.numpy", "flax.nnx", "optax", "orbax.checkpoint", "tensorstore", "grain")
_LIBRARIES += ("ml_collections.config_flags", "skimage.measure", "scipy.ndimage", "absl.app")
_READ_AT_IMPORT = ("JAX_", "PYTHON")
"""Variables that a process which has imported the libraries no longer heeds."""


def call(
    main: str,
    *flags: object,
    environment: dict[str, str] | None = None,
    cwd: Path = ROOT,
    limit_s: int = LIMIT_S,
) -> subprocess.CompletedProcess:
    """Calls a main and waits for its end.

    Args:
      main: "train" for `launch.train`.
      *flags: as `str` shows them.
      environment: of the process; None for this one's.
      cwd: where it starts.
      limit_s: after which it is ended.

    Returns:
      Exit status, stdout and stderr; of a process that a signal ended the negative signal.

    Raises:
      subprocess.TimeoutExpired: it ran longer.
    """
    return call_module(f"launch.{main}", *flags, environment=environment, cwd=cwd, limit_s=limit_s)


def call_module(
    module: str,
    *arguments: object,
    environment: dict[str, str] | None = None,
    cwd: Path = ROOT,
    limit_s: int = LIMIT_S,
) -> subprocess.CompletedProcess:
    """Calls any module as `python -m` does, and waits for its end, as `call`."""
    environment = dict(os.environ) if environment is None else environment
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if sys.platform != "linux" or _read_at_import(environment) != _read_at_import(os.environ):
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=limit_s
        )
    request = {"command": command[2:], "cwd": str(cwd), "environment": environment, "limit_s": limit_s}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(_server())
            socket.send_fds(line, [b"?"], [out.fileno(), err.fileno()])
            with line.makefile("rw") as file:
                file.write(json.dumps(request) + "\n")
                file.flush()
                status = int(file.readline())
        printed = []
        for stream in (out, err):
            stream.seek(0)
            printed.append(stream.read().decode())
    if status == -signal.SIGALRM:
        raise subprocess.TimeoutExpired(command, limit_s, *printed)
    return subprocess.CompletedProcess(command, status, *printed)


def _read_at_import(environment: Any) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_IMPORT)}


_STARTING = threading.Lock()


def _server() -> str:
    """The socket of this process's server, which it starts once."""
    with _STARTING:
        return _start()


@cache
def _start() -> str:
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, "socket")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.mains", path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )

    def stop() -> None:
        server.kill()
        server.wait()
        folder.cleanup()

    atexit.register(stop)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    return path


def _serve(path: str) -> None:
    """Forks a process per connection, which runs the main and tells its end, until the one that started this is gone."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        line, _ = listener.accept()
        if os.fork():
            line.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _, streams, _, _ = socket.recv_fds(line, 1, 2)
        with line.makefile("rw") as file:
            request = json.loads(file.readline())
            child = os.fork()
            if not child:
                _become(request, streams)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            file.write(f"{status}\n")
            file.flush()
        os._exit(0)


def _become(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """Runs the main as `python -m` does, until its alarm ends it."""
    signal.alarm(request["limit_s"])
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    module, *flags = request["command"]
    sys.argv = [module, *flags]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
