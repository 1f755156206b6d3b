"""The page RESULTS.md: what was measured and where, how to repeat it, and the bars with their verdicts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import figures, plot, startup, tables, tracking
from benchmarks.bars import bars

RESULTS = Path(__file__).with_name("RESULTS.md")
REMARKS = Path(__file__).with_name("remarks.md")
"""Hand-written remarks on the figures in RESULTS.md: why a bar was missed, and what the floor is."""
PLOT = Path(__file__).with_name("results.png")


def write(raw: Mapping[str, Any], results: Path = RESULTS, picture: Path = PLOT) -> None:
    """Write both files from the JSON of a benchmark."""
    comparisons, floors = figures.comparisons(raw), figures.floors(raw)
    results.parent.mkdir(parents=True, exist_ok=True)
    plot.draw(comparisons, floors, picture)
    relative = os.path.relpath(picture, results.parent) if picture.exists() else ""
    results.write_text(text(raw, relative, REMARKS.read_text().strip() if REMARKS.exists() else ""))


def text(raw: Mapping[str, Any], picture: str = "", remarks: str = "") -> str:
    """Return the page in Markdown.

    Args:
        raw: JSON of a benchmark.
        picture: Path of the plot, relative to the page.
        remarks: Remarks in Markdown.
    """
    comparisons, floors, autos = figures.comparisons(raw), figures.floors(raw), figures.autos(raw)
    sources = "the last run and `remarks.md`" if remarks else "the last run"
    parts = [
        "# What a save costs",
        f"Written by `make bench ARGS=--write-results` from the figures of {sources}: do not edit.",
        _where(raw["machine"], raw["settings"]),
        *(["## The bars", _bars(comparisons, floors, autos)] if comparisons or autos else []),
        *([remarks] if remarks else []),
        *(["## All contenders", tables.LEGEND, _fsync(comparisons)] if comparisons else []),
        *([f"![The same as a plot]({picture})"] if picture and comparisons else []),
        *(_comparison(item, floors[item.size]) for item in comparisons),
        *(["## `save_interval=auto`", *(tables.auto_line(item) + "." for item in autos)] if autos else []),
        *(["## W&B", f"{tracking.line(raw['tracking'])}."] if raw.get("tracking") else []),
        *(["## Start-up", _startup(raw["startup"])] if raw.get("startup") else []),
        "## To repeat it",
        f"```bash\n{raw['command']}\nmake bench ARGS=--write-results\n```",
        "Run nothing else on the machine. The numbers hold for this machine; the ratios carry over to others.",
    ]
    return "\n\n".join(parts) + "\n"


def _where(machine: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    virtual = " of a virtual machine" if machine["virtual"] else ""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "lightning", "numpy", "hydra-core"))
    rounds = settings["rounds"]
    return (
        f"{machine['date']}: {machine['cpu']}, {machine['cores']} cores{virtual}, {machine['memory_gb']} GB of memory, "
        f"{machine['file_system']}, Linux {machine['kernel']}, Python {machine['python']}, {versions}; training on "
        f"{machine['device']}. Up to {rounds} round{'s' if rounds != 1 else ''} in alternation, one process for each "
        f"contender and round, in another order each time; memory in a run of its own, whose times are not used."
    )


def _bars(comparisons: Any, floors: Any, autos: Any) -> str:
    return tables.markdown(tables.BAR_HEADER, [tables.bar_cells(bar) for bar in bars(comparisons, floors, autos)])


def _fsync(comparisons: list[figures.Comparison]) -> str:
    from benchmarks.contenders import CONTENDERS

    taking_part = dict.fromkeys(row.contender for item in comparisons for row in item.rows)
    never = [
        CONTENDERS[name].label for name in taking_part if CONTENDERS[name].saves and CONTENDERS[name].fsync == "no"
    ]
    parts = [CONTENDERS[name].label for name in taking_part if CONTENDERS[name].fsync == "files"]
    said = [f"No fsync at all: {', '.join(never)}." if never else ""]
    said += [f"The files are synced, their directory is not: {', '.join(parts)}." if parts else ""]
    return " ".join(filter(None, said))


def _comparison(item: figures.Comparison, floor: figures.Floors) -> str:
    heading = f"### {tables.title(item)}"
    table = tables.markdown(tables.HEADER, tables.cells(item, floor))
    return "\n\n".join(filter(None, [heading, tables.floor_line(floor), _unavoidable(item, floor), table]))


def _unavoidable(item: figures.Comparison, floor: figures.Floors) -> str:
    """Return a sentence about the part of the lost time that no way of saving can avoid."""
    bare = item.row("bare-write")
    if bare is None or bare.lost_s is None or bare.lost_sure_s is None:
        return ""
    copy, lost, (low, high) = 1e3 * floor.copy_s, 1e3 * bare.lost_s, (1e3 * value for value in bare.lost_sure_s)
    least = copy + max(lost, 0.0)
    return (
        f"The floor of what a save takes: the copy, {copy:.0f} ms, and {lost:.0f} ms ({low:.0f} to {high:.0f}) that "
        f"training loses to a process which writes and syncs as many bytes and does nothing else, not even a checksum. "
        f"Together {least:.0f} ms, {least / 1e3 / floor.write_s:.2f} W."
    )


def _startup(results: list[dict[str, Any]]) -> str:
    return tables.markdown(startup.HEADER, startup.rows(results)) + "\n\nMedian and range, in seconds."
