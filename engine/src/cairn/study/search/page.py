"""The report of a search as a page for a browser."""

from __future__ import annotations

from collections.abc import Sequence

from cairn.run import summary
from cairn.study import html
from cairn.study.picture import Picture
from cairn.study.search import rows, words
from cairn.study.search.reading import SearchStudy


def page(study: SearchStudy, pictures: Sequence[Picture]) -> str:
    """Return the page as HTML.

    Args:
        study: What to report.
        pictures: Pictures to include.
    """
    important = html.table(rows.IMPORTANCE_HEADER, rows.parameters(study))
    sections = [
        html.section("Result", html.paragraphs([*words.conclusion(study), *words.best_run(study)], "choice")),
        html.section("Learning curves", *html.figures(pictures, "curves")),
        html.section("Rungs", html.table(*rows.rungs(study)), html.meanings(rows.RUNG_MEANINGS)),
        html.section(
            "Trials",
            *html.figures(pictures, "trials"),
            html.table(*rows.trials(study)),
            html.meanings(rows.TRIAL_MEANINGS),
        ),
        html.section(
            "Parameters", *html.figures(pictures, "importance"), important, *html.figures(pictures, "parameters")
        ),
        html.section("What was stopped when", html.table(*rows.stops(study))),
        html.section("Limits of the figures", html.listed(words.notes(study))),
    ]
    return html.document("A search and its trials", summary.relative(study.search.path), sections)
