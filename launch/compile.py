"""Compiles the training step of an experiment for TPUs that need not be there, and says what it would cost on them.

python -m launch.compile --config=configs/ctc/segment.py:sim --topology=v5e:4x4 --json=report.json

`make tpu-compiler` installs the compiler. Memory and collectives are those of the very program that would run; times are
a roofline: what the chip's data sheet and the compiler's counts allow at best.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from celltrack_jax.errors import InputError
from launch import cli, json_file

flags.adopt_module_key_flags(json_file)

_CONFIG = config_flags.DEFINE_config_file("config", None, "experiment, <file>[:argument]", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "TPU slice such as v5e:4x4 or v5p:2x2x4, or local")
_BATCH = flags.DEFINE_integer(
    "batch_per_device",
    None,
    "samples of each device, or of each group of --space devices; the config's batch_size by default",
    lower_bound=1,
)
_SPACE = flags.DEFINE_integer(
    "space", None, "devices that share one sample; the config's by default", lower_bound=1
)
_SEARCH = flags.DEFINE_boolean("search", True, "compile twice, to find the largest batch that fits")

COMPILER = Path(".cache/libtpu")
"""Where `make tpu-compiler` installs libtpu: apart from everything that runs without it."""


def main(argv: Sequence[str]) -> None:
    """Compiles, and prints the report."""
    del argv
    if _CONFIG.value is None or not _TOPOLOGY.value:
        raise flags.ValidationError(
            "--config=<file>[:argument] and --topology=<TPU slice, such as v5e:4x4> are needed"
        )
    config: Any = _CONFIG.value
    if not isinstance(config, ConfigDict):
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        raise flags.ValidationError(cli.absent_config(path) or f"--config={path} cannot be read")
    if _TOPOLOGY.value != "local":
        find_compiler()
    from celltrack_jax.training import ahead_of_time  # jax reads its environment when it is imported

    if _SPACE.value:
        config.mesh.space = _SPACE.value
    target = ahead_of_time.find_target(_TOPOLOGY.value)
    batch = _BATCH.value or config.data.batch_size
    found = ahead_of_time.report(config, target, batch, search=bool(_SEARCH.value))
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    found = {"config": path, **found}
    print(table(found))
    json_file.write(found)


def find_compiler() -> None:
    """Makes the TPU compiler importable and keeps it from looking for TPUs; before jax is imported.

    Raises:
      InputError: it is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        if not (COMPILER / "libtpu").is_dir():
            raise InputError(
                f"no TPU compiler in {COMPILER}: run `make tpu-compiler` (656 MB), or `pip install libtpu`"
            )
        sys.path.append(str(COMPILER.resolve()))
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        # It keeps nothing for machines that are not there, and warns each time.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two at a time, since no TPU is shared
        # Asked for by the library, though no TPU is used.
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }


def table(found: dict[str, Any]) -> str:
    """Lays the report out for people; numbers are per device unless said otherwise."""
    batch, memory, mesh = found["batch"], found["memory"], found["mesh"]
    rows = [
        ("config", f"{found['config']}, {found['dtype']}"),
        ("devices", f"{found['devices']} x {found['device']} ({found['topology']}), mesh data {mesh['data']} x "
                    f"space {mesh['space']}"),
        ("batch", f"{batch['per_device']} per device"
                  f"{' group' if mesh['space'] > 1 else ''}, {batch['global']} in all"),
        ("compiled in", f"{found['compile_s']:.0f} s"),
    ]  # fmt: skip
    rows.append(("memory", _memory(memory, found["fits"])))
    if search := found.get("search"):
        also = f"{search['batch_per_device']} need {search['memory']['needed'] / 2**30:.2f} GiB"
        rows.append(
            ("largest batch", f"about {search['largest_batch']} per device, by a straight line ({also})")
        )
    if found["fits"]:
        rows += _costs(found)
    return "\n".join(f"{name:15s} {text}" for name, text in rows)


def _memory(memory: dict[str, Any], fits: bool) -> str:
    needed = f"{memory['needed'] / 2**30:.2f} GiB"
    if memory["available"] is not None:
        needed += f" of {memory['available'] / 2**30:.2f} GiB"
    if not fits:
        return f"{needed}: DOES NOT FIT"
    parts = ("arguments", "outputs", "aliased", "temporary", "code")
    return f"{needed} ({', '.join(f'{name} {memory[name] / 2**20:.0f}' for name in parts)} MiB)"


def _costs(found: dict[str, Any]) -> list[tuple[str, str]]:
    flops, moved = found["flops"], found["bytes"]
    more = f", {moved['accessed'] / 1e9:.2f} GB with what stays in its cores"
    traffic = f"{moved['memory'] / 1e9:.2f} GB of the chip's memory"
    rows = [
        ("network", f"{flops['network'] / 1e9:.2f} GFLOP in convolutions and matrix products, both gradients included"),
        ("whole step", f"{flops['compiler'] / 1e9:.2f} GFLOP as the compiler counts"),
        ("traffic", traffic + (more if moved["accessed"] != moved["memory"] else "")),
    ]  # fmt: skip
    for row in found["collectives"]:
        line = f"{row['kind']}: {row['count']} instructions, {row['runs']} runs, {row['bytes'] / 1e6:.3f} MB"
        if row["seconds"] is not None:
            line += f", {row['seconds'] * 1e3:.3f} ms"
        if row["open_loop"]:
            line += " for ONE round of a loop whose length depends on data"
        rows.append(("collectives", line))
    if not found["collectives"]:
        rows.append(("collectives", "none"))
    if roofline := found.get("roofline"):
        rows.append(
            ("roofline", f"step {roofline['step_s'] * 1e3:.3f} ms at best, bound by {roofline['bound']}")
        )
        keys = ("compute", "memory", "cores", "communication")
        rows.append(("", ", ".join(f"{key} {roofline[f'{key}_s'] * 1e3:.3f} ms" for key in keys)))
        rows.append(("MFU at best", f"{roofline['mfu']:.1%}"))
    return rows


if __name__ == "__main__":
    cli.run(main)
