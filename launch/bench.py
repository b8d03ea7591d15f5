"""Measures how fast a part is, next to a peer in the same run.

python -m launch.bench metrics --against=py-ctcmetrics --json=bench.json

The benchmarks are the files of launch/benches. Ours and the peer run in turns; the table gives medians, and the
ratio of ours to the peer's (below 1 is faster) with its range over the repetitions.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch import benches, cli, json_file
from launch.benches import timing

flags.adopt_module_key_flags(json_file)

AGAINST = flags.DEFINE_string("against", None, "peer to compare with; each benchmark names its own")

COLUMNS = ("name", "ours_s", "peer_s", "ratio", "ratio_min", "ratio_max", "repeats")


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark named by the one positional argument."""
    names = bench_names()
    if len(argv) != 2 or argv[1] not in names:
        said = f"{' '.join(argv[1:])!r} is no benchmark" if argv[1:] else "a benchmark is needed"
        raise flags.ValidationError(f"{said}: give one of {', '.join(names)}")
    timing.say(f"{argv[1]}: loading it, making its input")
    found = importlib.import_module(f"launch.benches.{argv[1]}").run(AGAINST.value)
    rows = [found] if isinstance(found, dict) else list(found)
    print_rows(rows)
    json_file.write({"bench": argv[1], "against": AGAINST.value, "rows": rows})


def bench_names() -> list[str]:
    """Lists the files of launch/benches that can be run."""
    names = [module.name for module in pkgutil.iter_modules(benches.__path__)]
    return sorted(set(names) - {"timing"})


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Prints one line per row; what is no column of `timing` follows as name and value."""
    width = max(len(str(row["name"])) for row in rows)
    print(f"{'':{width}}  {'ours':>9}  {'peer':>9}  ratio (range)")
    for row in rows:
        ours = f"{row['ours_s']:.4g} s"
        line = f"{row['name']:{width}}  {ours:>9}"
        if "ratio" in row:
            peer = f"{row['peer_s']:.4g} s"
            line += (
                f"  {peer:>9}  {row['ratio']:.3g} ({row['ratio_min']:.3g}-{row['ratio_max']:.3g}), "
                f"{row['repeats']} times"
            )
        print(line)
        for key in [key for key in row if key not in COLUMNS]:
            print(f"{'':{width}}  {key} {row[key]:.4g}")


if __name__ == "__main__":
    cli.run(main, positional=True)
