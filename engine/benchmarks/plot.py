"""Plot of a comparison: a row of panels per setting, contenders as rows, floors as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.figures import Comparison, Figures, Floors

_PEER, _OURS, _FLOOR = "#8c8c8c", "#d1495b", "#2e6f95"
_ROW_INCHES = 0.32
_LEAST_MS = 0.5  # below, a logarithmic axis would show only noise


def draw(comparisons: Sequence[Comparison], floors: dict[str, Floors], path: Path) -> None:
    """Draw the comparisons to a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [item for item in comparisons if any(CONTENDERS[row.contender].saves for row in item.rows)]
    if not shown:
        return
    heights = [_ROW_INCHES * len(_rows(item)) + 0.9 for item in shown]
    figure, grid = plt.subplots(
        len(shown),
        4,
        figsize=(15, sum(heights) + 0.5),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    for axes, item in zip(grid, shown, strict=True):
        _row_of_panels(axes, item, floors[item.size])
    figure.suptitle(
        "What a checkpoint costs the training (red: this repository; less is better everywhere)", fontsize=12
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _row_of_panels(axes: Sequence[Any], item: Comparison, floor: Floors) -> None:
    rows = _rows(item)
    stalls = [(_ms(row.stall_median_s), _ms(row.stall_worst_s)) for row in rows]
    lost = [(_ms(row.lost_s), _ms(row.lost_sure_s[1] if row.lost_sure_s else None)) for row in rows]
    durable = [(_over(row.durable_s, floor.write_s), _over(row.durable_worst_s, floor.write_s)) for row in rows]
    memory = [(_over(row.extra_peak_bytes, floor.state_bytes), None) for row in rows]
    copy, write = 1e3 * floor.copy_s, 1e3 * floor.write_s
    threads = f"{item.threads} thread{'s' if item.threads > 1 else ''}"
    _panel(axes[0], rows, stalls, "stall per save, ms (median, worst)", {"copy": copy, "W": write}, log=True)
    _panel(axes[1], rows, lost, "wall time lost per save, ms (middle, 95 %)", {"W": write}, log=True)
    _panel(axes[2], rows, durable, "until durable while training, W", {"W": 1.0})
    _panel(axes[3], rows, memory, "extra peak memory, states", {})
    axes[3].set_visible(any(extra is not None for extra, _ in memory))
    axes[0].set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
    axes[0].set_title(
        f"{item.size}: {threads}, a save every {item.factor:g} W ({item.interval} batches)",
        loc="left",
        fontsize=10,
        fontweight="bold",
        pad=18,  # above the names of the floors
    )


def _panel(
    axes: Any,
    rows: Sequence[Figures],
    values: Sequence[tuple[float | None, float | None]],
    label: str,
    lines: dict[str, float],
    log: bool = False,
) -> None:
    if log:
        axes.set_xscale("log")
    least = _LEAST_MS if log else 0.0
    for number, (row, (middle, most)) in enumerate(zip(rows, values, strict=True)):
        color = _OURS if row.contender.startswith("cairn") else _PEER
        if middle is None:
            continue
        label, middle = _short(middle), max(middle, least)  # the label shows a negative value, a bar cannot
        axes.barh(number, middle - least, left=least, color=color, height=0.7)
        if most is not None and most > middle:
            axes.plot([middle, most], [number, number], color=color, linewidth=1.2)
            axes.plot(most, number, marker="|", color=color, markersize=7)
        end = max(middle, most or middle)
        axes.annotate(label, (end, number), (4, 0), textcoords="offset points", va="center", fontsize=7)
    for name, at in lines.items():
        axes.axvline(at, color=_FLOOR, linestyle="--", linewidth=1)
        axes.annotate(
            name,
            (at, 1),
            (2, 1),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=_FLOOR,
            fontsize=8,
        )
    axes.set_xlabel(label, fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.margins(x=0.18)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if not log:
        axes.set_xlim(left=0)


def _rows(item: Comparison) -> list[Figures]:
    return [row for row in item.rows if CONTENDERS[row.contender].saves and not row.error and not row.is_another]


def _label(row: Figures) -> str:
    contender = CONTENDERS[row.contender]
    return contender.label + (" (no fsync)" if contender.fsync == "no" else "")


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _over(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit
