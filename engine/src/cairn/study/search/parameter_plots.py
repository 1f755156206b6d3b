"""Pictures of the parameters of a search: their importance, and the scores over their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cairn.run.terminal import printable
from cairn.study.cells import count
from cairn.study.picture import BLUE, INK, PALE, RED, Picture, new_figure, plain, short, style_axis
from cairn.study.search import names, shades
from cairn.study.search.importance import Importance
from cairn.study.search.reading import SearchStudy
from cairn.study.search.record import Parameter, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PANELS, _COLUMNS = 9, 3
_SPREAD = 0.22
"""Points of a choice are spread to both sides by this much, so that equal ones are seen."""


def pictures(study: SearchStudy) -> list[Picture]:
    """Return the pictures; none if nothing can be said about the parameters."""
    found = study.importance
    if found is None:
        return []
    after = "" if len(study.search.rungs) == 1 else f" at {names.point(study.search, found.rung)}"
    rough = " With this few trials, the figures mean little." if found.is_rough else ""
    bars = (
        f"Importance of each parameter for the score{after}; the mark is what chance gives in one of ten cases.{rough}"
    )
    shown = [*found.shares][:_MOST_PANELS]
    more = f" Shown are {len(shown)} of {len(found.shares)} parameters." if len(shown) < len(found.shares) else ""
    dots = f"The score{after} over each parameter, the most important first; dark trials went further, red is the best."
    missing = sum(_score(trial, found.rung) is None for trial in found.trials)
    more += f" {count(missing, 'trial')} without a finite score there count as the worst, and are not drawn." * (
        missing > 0
    )
    return [
        Picture("importance", bars, importance(study, found)),
        Picture("parameters", dots + more, parameters(study, found, shown)),
    ]


def importance(study: SearchStudy, found: Importance) -> Figure:
    """Draw a bar for each parameter, with a mark for what chance gives."""
    figure = new_figure(7.5, 0.9 + 0.34 * len(found.shares))
    axis = figure.subplots()
    for place, (name, share) in enumerate(found.shares.items()):
        chance = found.chance[name]
        axis.barh(place, 100 * share, color=BLUE if share > chance else PALE, height=0.62)
        axis.plot([100 * chance] * 2, [place - 0.38, place + 0.38], color=INK, lw=1.4)
        axis.annotate(
            f"{100 * share:.0f} %",
            (100 * max(share, chance), place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axis.set_yticks(range(len(found.shares)), [short(study.short_names[name]) for name in found.shares], fontsize=8)
    axis.set_ylim(len(found.shares) - 0.4, -0.6)
    axis.set_xlim(0, 118 * max(0.1, *found.shares.values(), *found.chance.values()))
    style_axis(axis, "importance, % (mark: by chance)")
    return figure


def parameters(study: SearchStudy, found: Importance, shown: Sequence[str]) -> Figure:
    """Draw a panel for each of some parameters: the score of each compared trial over its value."""
    search = study.search
    num_columns = min(_COLUMNS, len(shown))
    num_rows = math.ceil(len(shown) / num_columns)
    figure = new_figure(3.5 * max(2, num_columns), 2.7 * num_rows + 0.2)
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    for axis, name in zip(panels.flat, shown, strict=False):
        _draw_panel(axis, study, found, name)
        style_axis(axis, plain(f"{study.short_names[name]} ({100 * found.shares[name]:.0f} %)"))
    for axis in panels.flat[len(shown) :]:
        axis.set_visible(False)
    for axis in panels[:, 0]:
        after = "" if len(search.rungs) == 1 else f" at {names.point(search, found.rung)}"
        axis.set_ylabel(plain(printable(search.metric) + after), fontsize=9)
    known = [score for trial in found.trials if (score := _score(trial, found.rung)) is not None]
    shades.scale_scores(panels[0, 0], search, known)
    for axis in panels.flat:
        shades.round_numbers(axis)
    return figure


def _score(trial: Trial, rung: int) -> float | None:
    result = trial.at(rung)
    return None if result is None else result.score


def _draw_panel(axis: Any, study: SearchStudy, found: Importance, name: str) -> None:
    search, parameter = study.search, study.search.parameters[name]
    best = study.best.number if study.best is not None else None
    # Those that went further are drawn later, and so on top.
    used = sorted(
        (trial for trial in found.trials if name in trial.parameters and _score(trial, found.rung) is not None),
        key=lambda trial: (trial.number == best, trial.last.rung if trial.last else 0),
    )
    axis.scatter(
        _places(axis, parameter, [trial.parameters[name] for trial in used]),
        [_score(trial, found.rung) for trial in used],
        s=[50 if trial.number == best else 30 for trial in used],
        c=[RED if trial.number == best else shades.of_trial(search, trial) for trial in used],
        edgecolors="#ffffff",
        linewidths=0.6,
        zorder=2,
    )


def _places(axis: Any, parameter: Parameter, values: Sequence[Any]) -> list[float]:
    """Return where values lie on the horizontal axis, and prepare it."""
    if parameter.kind != "choice" and all(isinstance(value, int | float) for value in values):
        if parameter.log and all(value > 0 for value in values):
            axis.set_xscale("log")
        return [float(value) for value in values]
    choices = list(dict.fromkeys([*map(names.value, parameter.choices), *map(names.value, values)]))
    axis.set_xticks(range(len(choices)), [short(choice) for choice in choices])
    axis.set_xlim(-0.6, len(choices) - 0.4)
    seen = dict.fromkeys(choices, 0)
    places = []
    for value in map(names.value, values):
        # 0, 1/2, 1/4, 3/4, ...: the next point is always far from those before.
        offset = int(f"{seen[value]:b}"[::-1], 2) / 2 ** max(1, seen[value].bit_length())
        seen[value] += 1
        places.append(choices.index(value) + _SPREAD * (2 * offset - 1))
    return places
