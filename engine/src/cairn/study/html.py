"""Parts of a page for a browser: one HTML file that contains its pictures and needs no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from cairn.study.picture import Picture

NAME = "index.html"

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2429; --dim: #5b6670; --paper: #ffffff; --line: #d8dee3; --mark: #eef4f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaed; --dim: #9aa5ae; --paper: #14191d; --line: #333c44; --mark: #1d2830; }
}
body { margin: 2rem auto; max-width: 62rem; padding: 0 1.2rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: 0.2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.where, figcaption, .small { color: var(--dim); font-size: 0.9rem; } .where { overflow-wrap: anywhere; }
.choice { background: var(--mark); border-left: 4px solid #d1495b; padding: 0.1rem 1rem; margin-bottom: 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.3rem 0.8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; }
figure { margin: 1rem 0; }
img { max-width: 100%; box-sizing: border-box; padding: 8px; background: #ffffff; border-radius: 6px; }
dt { font-weight: 600; float: left; clear: left; width: 6rem; } dd { margin: 0 0 0.2rem 6.5rem; }
""".strip()


def write(text: str, folder: Path) -> Path:
    """Write the page.

    Args:
        text: The page as HTML.
        folder: Directory for the page; it is created if it is missing.

    Returns:
        Path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    path.write_text(text, encoding="utf-8")
    return path


def document(title: str, where: str, sections: Iterable[str]) -> str:
    """Return a page as HTML.

    Args:
        title: Heading of the page.
        where: Directory that the page is about.
        sections: Its sections as HTML; empty ones are left out.
    """
    heading = f'<h1>{escape(title)}</h1><p class="where">{escape(where)}</p>'
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}\n<style>\n{_STYLE}\n</style></head>\n<body>\n' + (
        "\n".join([heading, *filter(None, sections)]) + "\n</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Return a section; empty if all its parts are."""
    inside = "\n".join(filter(None, parts))
    return f"<section><h2>{escape(title)}</h2>\n{inside}</section>" if inside else ""


def paragraphs(sentences: Iterable[str], kind: str = "") -> str:
    """Return a paragraph for each sentence, in a block of this class."""
    inside = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="{kind}">{inside}</div>' if inside else ""


def listed(sentences: Iterable[str]) -> str:
    """Return a list."""
    inside = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{inside}</ul>" if inside else ""


def meanings(terms: Mapping[str, str]) -> str:
    """Return terms with what they mean."""
    inside = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
    return f'<dl class="small">{inside}</dl>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; empty without rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def figures(pictures: Sequence[Picture], name: str) -> list[str]:
    """Return the pictures of this name, each with its caption."""
    return [
        f'<figure><img alt="{escape(item.caption)}" src="data:image/png;base64,{_encoded(item)}">'
        f"<figcaption>{escape(item.caption)}</figcaption></figure>"
        for item in pictures
        if item.name == name
    ]


def _encoded(item: Picture) -> str:
    return base64.b64encode(item.png).decode()
