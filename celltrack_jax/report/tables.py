"""A table of texts and numbers as CSV, as HTML, as Markdown, and as lines for people."""

import csv
import io
from html import escape
from typing import NamedTuple, TypeAlias

Cell: TypeAlias = str | int | float | None
"""None is what is not known or not defined."""


class Table(NamedTuple):
    """Columns and rows of equal length."""

    columns: list[str]
    rows: list[list[Cell]]


def csv_text(table: Table) -> str:
    """Returns the table as CSV, numbers in full; what is not defined is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([["" if cell is None else cell for cell in row] for row in table.rows])
    return file.getvalue()


def html(table: Table) -> str:
    """Returns the table as HTML, which scrolls sideways where it is wide."""
    kind = [" class=number" if is_number else "" for is_number in _numeric(table)]
    head = "".join(f"<th scope=col{kind[i]}>{escape(column)}</th>" for i, column in enumerate(table.columns))
    body = "".join(
        "<tr>" + "".join(f"<td{kind[i]}>{escape(shown(cell))}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def markdown(table: Table) -> str:
    """Returns the table as Markdown, numbers to the right."""
    rules = ["---:" if is_number else "---" for is_number in _numeric(table)]
    rows = [table.columns, rules, *([shown(cell).replace("|", "\\|") for cell in row] for row in table.rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def shown(cell: Cell) -> str:
    """Returns a cell as people read it: four places, an em dash for what is not defined."""
    if cell is None:
        return "—"
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def _numeric(table: Table) -> list[bool]:
    """Tells of each column whether it has a number."""
    return [any(not isinstance(row[i], str | None) for row in table.rows) for i in range(len(table.columns))]
