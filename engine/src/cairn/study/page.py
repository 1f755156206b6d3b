"""The report as a page for a browser: one HTML file that contains its pictures and needs no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from cairn.runs import summary
from cairn.study import goodput_words, words
from cairn.study.choice import Study
from cairn.study.plots import Picture

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


def write(study: Study, pictures: Sequence[Picture], folder: Path) -> Path:
    """Write the page.

    Args:
        study: What to report.
        pictures: Pictures to include.
        folder: Directory for the page; it is created if it is missing.

    Returns:
        Path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    path.write_text(page(study, pictures), encoding="utf-8")
    return path


def page(study: Study, pictures: Sequence[Picture]) -> str:
    """Return the page as HTML."""
    name = summary.relative(study.sweep.path)
    title = "What saving cost" + (f" in {len(study.sweep.runs)} runs" if len(study.sweep.runs) > 1 else "")
    body = [
        f'<h1>{title}</h1><p class="where">{escape(name)}</p>',
        _section("Result", _paragraphs(words.conclusion(study), "choice"), _advice(study)),
        _section("Runs", _table(words.header(study), words.rows(study)), *_pictures(pictures, "runs")),
        _section("The interval", *_pictures(pictures, "loss")),
        _section("Interruptions", _table(words.END_HEADER, words.end_rows(study)), *_pictures(pictures, "kills")),
        _section(
            "Goodput",
            _table(goodput_words.HEADER, goodput_words.rows(study)),
            _paragraphs([*goodput_words.MEANINGS, f"{goodput_words.FORECAST} {goodput_words.assumptions(study)}"]),
            _table(*goodput_words.forecast_table(study)),
        ),
        _section("Limits of the figures", _list(words.notes(study))),
        _section("What the columns mean", _meanings(words.HEADER_LONG)),
        _section("How the interval is chosen", _paragraphs(words.METHOD), _list(words.SOURCES)),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}\n<style>\n{_STYLE}\n</style></head>\n<body>\n' + (
        "\n".join(filter(None, body)) + "\n</body></html>\n"
    )


def _section(title: str, *parts: str) -> str:
    inside = "\n".join(filter(None, parts))
    return f"<section><h2>{escape(title)}</h2>\n{inside}</section>" if inside else ""


def _paragraphs(sentences: Iterable[str], kind: str = "") -> str:
    inside = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="{kind}">{inside}</div>' if inside else ""


def _list(sentences: Iterable[str]) -> str:
    inside = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{inside}</ul>" if inside else ""


def _meanings(terms: dict[str, str]) -> str:
    inside = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
    return f'<dl class="small">{inside}</dl>'


def _advice(study: Study) -> str:
    # A single advice is already in the sentences.
    return _table(words.ADVICE_HEADER, words.advice_rows(study)) if len(study.advice) > 1 else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _pictures(pictures: Sequence[Picture], name: str) -> list[str]:
    return [
        f'<figure><img alt="{escape(item.caption)}" src="data:image/png;base64,{_encoded(item)}">'
        f"<figcaption>{escape(item.caption)}</figcaption></figure>"
        for item in pictures
        if item.name == name
    ]


def _encoded(item: Picture) -> str:
    return base64.b64encode(item.png).decode()
