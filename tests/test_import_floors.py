"""The rooms of the package import downwards only (a room's floor is its place in this table)."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"errors"},
    {"config", "lineage", "ops"},
    {"__init__"},  # of the package itself: it settles how the CPU computes
    {"io", "metrics", "representations", "models"},
    {"data", "tracking"},
    {"tasks"},
    {"training", "inference"},
    {"report"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
NUMPY_ONLY = {"errors", "lineage", "io", "metrics", "tracking"}
JRAPH = ROOT / "celltrack_jax" / "tracking" / "windows.py"
LEARNED = {JRAPH, JRAPH.with_name("learned.py")}
"""What only learned trackers need."""
FILES = sorted((ROOT / "celltrack_jax").rglob("*.py"))


@functools.cache
def imported(path: Path) -> set[str]:
    """Returns the dotted names of all modules a file imports, lazily or not."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    """Returns the room a file of the package stands in."""
    return path.relative_to(ROOT / "celltrack_jax").parts[0].removesuffix(".py")


def rooms_imported(path: Path) -> set[str]:
    """Returns the rooms of the package that a file imports from."""
    dotted = [name.split(".") for name in imported(path) if name.startswith("celltrack_jax.")]
    return {parts[1] for parts in dotted}


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} <= set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    here = room(path)
    for other in rooms_imported(path) - {here}:
        assert FLOOR[other] < FLOOR[here], f"{path} may not import celltrack_jax.{other}"


@pytest.mark.parametrize(
    "path", [p for p in FILES if room(p) in NUMPY_ONLY and p not in LEARNED], ids=lambda p: p.name
)
def test_rooms_at_the_border_do_not_import_jax(path):
    assert not {name.split(".")[0] for name in imported(path)} & {"jax", "flax", "jraph", "optax"}


def test_jraph_stays_inside_models_and_one_file():
    users = {path for path in FILES if any(name.split(".")[0] == "jraph" for name in imported(path))}
    assert {path for path in users if room(path) != "models"} == {JRAPH}
    border = [path for path in FILES if room(path) in NUMPY_ONLY and path not in LEARNED]
    here = {name for path in border for name in imported(path)}
    assert not here & {f"celltrack_jax.tracking.{path.stem}" for path in LEARNED}


def test_nothing_in_the_package_imports_the_mains():
    for path in FILES:
        assert not {name.split(".")[0] for name in imported(path)} & {"launch", "configs"}


def test_flax_stays_inside_models_and_the_task_protocol():
    users = {room(path) for path in FILES if any(name.startswith("flax") for name in imported(path))}
    assert users <= {"models", "tasks"}
