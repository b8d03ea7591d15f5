"""Scores of a run's checkpoints: one table, and one curve per measure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from celltrack_jax.io import files
from celltrack_jax.report import curves, document, tables

_ELSEWHERE = "or make room and run the same command again"


def table(rows: Sequence[Mapping[str, Any]]) -> tables.Table:
    """Returns a row per checkpoint.

    Args:
      rows: of "step" and scores by name, None where one is not defined; the first row's scores come first.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return tables.Table(columns, [[row.get(column) for column in columns] for row in rows])


def write(
    workdir: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, object], problems: Sequence[str]
) -> list[Path]:
    """Writes <workdir>/evaluation.csv and evaluation.html, and returns them.

    Args:
      workdir: the run's folder.
      rows: as of `table`, by ascending step.
      facts: below the page's heading.
      problems: a line for each checkpoint that has no row.

    Raises:
      InputError: they cannot be written.
    """
    found = table(rows)
    history = [{**row, "kind": "checkpoint"} for row in rows]
    learned, _ = curves.history_panels(history)
    body = [
        document.header(f"Checkpoints of {workdir.name}", facts, problems),
        document.section("Curves", document.panels(learned)),
        document.section("Scores", tables.html(found)),
    ]
    paths = [workdir / "evaluation.csv", workdir / "evaluation.html"]
    texts = [tables.csv_text(found), document.document(f"Checkpoints of {workdir.name}", "\n".join(body))]
    for path, text in zip(paths, texts, strict=True):
        files.replace_text(path, text, _ELSEWHERE)
    return paths
