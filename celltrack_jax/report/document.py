"""The HTML document that every page of a report is: one file that loads nothing, and is forbidden to."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

from celltrack_jax.report import curves

SECURITY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def document(title: str, body: str, scripts: str = "") -> str:
    """Returns a whole page around a body of HTML; `scripts` come after it."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{SECURITY}">
<title>{escape(title)}</title>
<style>{text("page.css")}</style>
</head>
<body>
<main>
{body}
</main>
{scripts}
</body>
</html>
"""


def text(name: str) -> str:
    """Returns a file of this folder."""
    return resources.files("celltrack_jax.report").joinpath(name).read_text(encoding="utf-8")


def header(title: str, facts: Mapping[str, object], notes: Sequence[str] = ()) -> str:
    """Returns the heading, paragraphs of plain text, and facts below them in this order."""
    listed = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts.items())
    said = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<header><h1>{escape(title)}</h1>{said}{f'<dl>{listed}</dl>' if listed else ''}</header>"


def section(title: str, body: str) -> str:
    """Returns a titled part of the page, nothing where its body is empty."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def figure(panel: curves.Panel) -> str:
    """Returns a chart with its caption, nothing where no value is finite."""
    chart = curves.chart_svg(panel)
    keys = "".join(
        f'<span class="key curve{number}">{escape(curve.name)}</span>'
        for number, curve in enumerate(panel.curves)
    )
    caption = f"<figcaption><strong>{escape(panel.title)}</strong> {keys}</figcaption>"
    return f"<figure>{caption}{chart}</figure>" if chart else ""


def panels(charts: Sequence[curves.Panel]) -> str:
    """Returns charts side by side."""
    drawn = "".join(map(figure, charts))
    return f'<div class="panels">{drawn}</div>' if drawn else ""
