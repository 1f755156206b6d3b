"""The report about saving as a page for a browser."""

from __future__ import annotations

from collections.abc import Sequence

from cairn.run import summary
from cairn.study import goodput_words, html, words
from cairn.study.choice import Study
from cairn.study.picture import Picture


def page(study: Study, pictures: Sequence[Picture]) -> str:
    """Return the page as HTML."""
    title = "What saving cost" + (f" in {len(study.sweep.runs)} runs" if len(study.sweep.runs) > 1 else "")
    assumed = f"{goodput_words.FORECAST} {goodput_words.assumptions(study)}"
    sections = [
        html.section("Result", html.paragraphs(words.conclusion(study), "choice"), _advice(study)),
        html.section("Runs", html.table(words.header(study), words.rows(study)), *html.figures(pictures, "runs")),
        html.section("The interval", *html.figures(pictures, "loss")),
        html.section(
            "Interruptions", html.table(words.END_HEADER, words.end_rows(study)), *html.figures(pictures, "kills")
        ),
        html.section(
            "Goodput",
            html.table(goodput_words.HEADER, goodput_words.rows(study)),
            html.paragraphs([*goodput_words.MEANINGS, assumed]),
            html.table(*goodput_words.forecast_table(study)),
        ),
        html.section("Limits of the figures", html.listed(words.notes(study))),
        html.section("What the columns mean", html.meanings(words.HEADER_LONG)),
        html.section("How the interval is chosen", html.paragraphs(words.METHOD), html.listed(words.SOURCES)),
    ]
    return html.document(title, summary.relative(study.sweep.path), sections)


def _advice(study: Study) -> str:
    # A single advice is already in the sentences.
    return html.table(words.ADVICE_HEADER, words.advice_rows(study)) if len(study.advice) > 1 else ""
