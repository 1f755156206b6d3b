"""Table, plot and page of what a save costs each rank."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.ranks.figures import Figures, of_raw
from benchmarks.ranks.ways import WAYS

PAGE = Path(__file__).parent.with_name("RANKS.md")
PICTURE = PAGE.with_name("ranks.png")
HEADER = ("contender", "stall ms", "worst", "of each rank", "lost per save ms (range)", "batch ms", "saves", "fsync")
_PEER, _OURS, _FLOOR = "#8c8c8c", "#d1495b", "#2e6f95"


def cells(item: Figures) -> tuple[str, ...]:
    """Return the row of a way, in the order of HEADER."""
    way = WAYS[item.way]
    lost = f"{_ms(statistics.median(item.lost_s))} ({_ms(min(item.lost_s))} to {_ms(max(item.lost_s))})"
    if not item.stalls_s:
        return way.label, "-", "-", "-", lost, _ms(item.batch_s), "-", "-"
    of_ranks = ", ".join(_ms(statistics.median(stalls)) for stalls in zip(*item.stalls_s, strict=True))
    return (
        way.label,
        _ms(item.stall_s),
        _ms(item.worst_s),
        of_ranks,
        lost,
        _ms(item.batch_s),
        str(len(item.stalls_s)),
        way.synced,
    )


def floor_line(raw: Mapping[str, Any], size: int) -> str:
    """Return a sentence about the floors of a size."""
    found = raw["floors"][str(size)]
    ranks = raw["settings"]["ranks"]
    parts = [
        f"{what} by {who}: copy {_ms(min(item['copy_s']))} ({_ms(statistics.median(item['copy_s']))}) ms, write and "
        f"fsync {_ms(min(item['write_s']))} ({_ms(statistics.median(item['write_s']))}) ms"
        for what, who, item in (
            (f"1/{ranks} of it", "each rank at once", found["parts"]),
            ("all of it", "one process", found["whole"]),
        )
    ]
    return f"Floors, lowest (median): {'; '.join(parts)}."


def write(raw: Mapping[str, Any]) -> None:
    """Write the page and its picture."""
    draw(raw, PICTURE)
    PAGE.write_text(text(raw))


def text(raw: Mapping[str, Any]) -> str:
    """Return the page in Markdown."""
    about, settings = raw["machine"], raw["settings"]
    parts = [
        "# What a save costs each rank",
        "Written by `make bench ARGS='ranks --write-results'` from the last measurement: do not edit.",
        f"{about['date']}: {about['cpu']}, {about['cores']} cores, {about['file_system']}, Python {about['python']}, "
        f"torch {about['torch']}, lightning {about['lightning']}. {settings['ranks']} ranks on the CPU with gloo, "
        f"Adam, one thread each; {settings['rounds']} round(s) in alternation, each in new processes.",
        "Stall: from the end of a batch to the start of the next one, minus the same without a save; of the slower "
        "rank, median and worst, then the median of each rank. Lost: each training alternates between a block of "
        "batches with a save and an equally long one without; the wall time of the first minus that of the second, "
        "median and range over all pairs. The rows without checkpoints are the noise. The first save of a training "
        "counts nowhere.",
        *(
            part
            for size, found in of_raw(raw).items()
            for part in (
                f"## {size / 1e9:.2g} GB",
                floor_line(raw, size),
                tables.markdown(HEADER, [cells(item) for item in found]),
            )
        ),
        f"![The same as a plot]({PICTURE.name})",
        "## To repeat it",
        f"```bash\n{raw['command']}\nmake bench ARGS='ranks --write-results'\n```",
        "Run nothing else on the machine. The numbers hold for this machine; the ratios carry over to others.",
    ]
    return "\n\n".join(parts) + "\n"


def draw(raw: Mapping[str, Any], path: Path) -> None:
    """Draw the stalls and the lost time to a PNG file: a row of panels for each size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = of_raw(raw)
    figure = Figure(figsize=(11, 2.4 * len(sizes) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (size, found) in zip(figure.subplots(len(sizes), 2, squeeze=False), sizes.items(), strict=True):
        floor = min(raw["floors"][str(size)]["parts"]["copy_s"])
        shown = [item for item in found if item.stalls_s]
        _panel(axes[0], shown, [item.stall_s for item in shown], f"{size / 1e9:.2g} GB: stall of the slower rank, ms")
        axes[0].axvline(1e3 * floor, color=_FLOOR, ls="--", lw=1)
        lost = [statistics.median(item.lost_s) for item in shown]
        _panel(axes[1], shown, lost, "wall time lost per save, ms")
        axes[1].set_yticklabels([])
    figure.suptitle("What a save costs each rank (red: this repository; dashed: the copy of a part)", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _panel(axis: Any, found: Sequence[Figures], seconds: Sequence[float], title: str) -> None:
    values = [1e3 * value for value in seconds]
    colors = [_OURS if WAYS[item.way].is_ours else _PEER for item in found]
    bars = axis.barh(range(len(found)), values, color=colors)
    axis.bar_label(bars, [f"{value:.0f}" for value in values], fontsize=7, padding=2)
    axis.set_yticks(range(len(found)), [WAYS[item.way].label for item in found], fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_title(title, fontsize=9, loc="left")
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.0f}" if abs(milliseconds) >= 10 else f"{milliseconds:.1f}"
