"""Tables, plot and page of what a mirror costs and how fast it is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.ranks.figures import Figures, of_run, together
from benchmarks.ranks.training import Blocks
from benchmarks.remote.transfers import DOWNLOADS, UPLOADS, Transfer
from benchmarks.remote.ways import WAYS

PAGE = Path(__file__).parent.with_name("REMOTE.md")
PICTURE = PAGE.with_name("remote.png")
TRANSFER_HEADER = ("program", "s per GB (range)", "MB/s", "of boto3's time", "processor s per GB", "")
TRAINING_HEADER = ("training", "stall ms", "worst", "lost per save ms (range)", "batch ms", "saves")
_PEER, _OURS = "#8c8c8c", "#d1495b"


def sizes(raw: Mapping[str, Any]) -> list[int]:
    """Return the measured sizes of the state in bytes."""
    return sorted({item["state_bytes"] for item in raw["runs"]})


def transfer_rows(raw: Mapping[str, Any], kind: str, size: int) -> list[tuple[str, ...]]:
    """Return a row for each program, in the order of TRANSFER_HEADER."""
    found = _transfers(raw, kind, size)
    boto3 = statistics.median(found["boto3"]) if found.get("boto3") else None
    return [
        _transfer_row(way, found.get(name, []), _transfers(raw, kind, size, "cpu_s").get(name, []), boto3)
        if found.get(name)
        else (way.label, _error(raw, kind, name), "", "", "", "")
        for name, way in _ways(kind).items()
    ]


def _transfer_row(way: Transfer, wall: Sequence[float], cpu: Sequence[float], boto3: float | None) -> tuple[str, ...]:
    middle = statistics.median(wall)
    return (
        way.label,
        f"{middle:.2f} ({min(wall):.2f} to {max(wall):.2f})",
        f"{1e3 / middle:.0f}",
        "-" if boto3 is None else f"x {middle / boto3:.2f}",
        f"{statistics.median(cpu):.2f}",
        way.note,
    )


def _ways(kind: str) -> Mapping[str, Transfer]:
    return {"upload": UPLOADS, "download": DOWNLOADS}[kind]


def _transfers(raw: Mapping[str, Any], kind: str, size: int, field: str = "wall_s") -> dict[str, list[float]]:
    """Return seconds per gigabyte of each round, by program."""
    found: dict[str, list[float]] = {}
    for item in raw["runs"]:
        if item["part"] == kind and item["state_bytes"] == size and not item.get("error"):
            found.setdefault(item["way"], []).append(item[field] / size * 1e9)
    return found


def _error(raw: Mapping[str, Any], kind: str, way: str) -> str:
    found = [item for item in raw["runs"] if (item["part"], item.get("way")) == (kind, way)]
    errors = [item["error"] for item in found if item.get("error")]
    return f"not measured: {errors[0]}" if errors else "not measured"


def trainings(raw: Mapping[str, Any], size: int) -> list[Figures]:
    """Return the figures of each training, over all rounds."""
    found: dict[str, list[Figures]] = {}
    for item in raw["runs"]:
        if item["part"] == "training" and item["state_bytes"] == size:
            one = of_run(item["way"], size, Blocks(**item["blocks"]), item["times"])
            found.setdefault(item["way"], []).append(one)
    return [together(found[name]) for name in WAYS if name in found]


def training_row(item: Figures) -> tuple[str, ...]:
    """Return the row of a training, in the order of TRAINING_HEADER."""
    lost = f"{_ms(statistics.median(item.lost_s))} ({_ms(min(item.lost_s))} to {_ms(max(item.lost_s))})"
    stalls = (_ms(item.stall_s), _ms(item.worst_s)) if item.stalls_s else ("-", "-")
    number = str(len(item.stalls_s)) if item.stalls_s else "-"
    return (WAYS[item.way].label, *stalls, lost, _ms(item.batch_s), number)


def floor_line(raw: Mapping[str, Any], size: int) -> str:
    """Return a sentence about the floors, and about the slow store."""
    found = next(item for item in raw["runs"] if item["part"] == "floor" and item["state_bytes"] == size)
    copy, write = (statistics.median(found[name]) for name in ("copy_s", "write_s"))
    slow = found["slow_bytes_per_s"] / 1e6
    length = found["blocks"]["length"]
    return (
        f"Floors: copy {_ms(copy)} ms, write and fsync {_ms(write)} ms. Blocks of {length} batches; the slow store "
        f"takes {slow:.0f} MB/s."
    )


def text(raw: Mapping[str, Any]) -> str:
    """Return the page in Markdown."""
    about, settings = raw["machine"], raw["settings"]
    parts = [
        "# What a mirror costs",
        "Written by `make bench ARGS='remote --write-results'` from the last measurement: do not edit.",
        f"{about['date']}: {about['cpu']}, {about['cores']} cores, {about['file_system']}, Python {about['python']}, "
        f"torch {about['torch']}, lightning {about['lightning']}, {settings['clients']}. The store is SeaweedFS "
        f"{settings['server']} on the same machine, over loopback: it shares the cores with what is measured, and "
        f"nothing here is a network. {settings['rounds']} round(s) in alternation, each in new processes.",
        "A training alternates between a block of batches with a save and an equally long one without. Stall: from the "
        "end of a batch to the start of the next one, minus the same without a save. Lost: the wall time of a block "
        "with a save minus that of the other, median and range; in the row with a mirror it contains what the store "
        "itself computes on these cores. The row without checkpoints is the noise. The first save of a training counts "
        "nowhere. The stall must not depend on the store.",
    ]
    for size in sizes(raw):
        parts += [
            f"## {size / 1e9:.2g} GB",
            "Uploads:",
            tables.markdown(TRANSFER_HEADER, transfer_rows(raw, "upload", size)),
            f"Training, one process. {floor_line(raw, size)}",
            tables.markdown(TRAINING_HEADER, [training_row(item) for item in trainings(raw, size)]),
            "Restart from an empty disk:",
            tables.markdown(TRANSFER_HEADER, transfer_rows(raw, "download", size)),
        ]
    parts += [
        f"![The same as a plot]({PICTURE.name})",
        "## To repeat it",
        f"```bash\n.venv/bin/pip install --no-deps -r engine/tests/requirements.txt\n{settings['s3fs']}\n"
        f"{raw['command']}\nmake bench ARGS='remote --write-results'\n```",
        "Run nothing else on the machine. The numbers hold for this machine; the ratios carry over to others.",
    ]
    return "\n\n".join(parts) + "\n"


def write(raw: Mapping[str, Any]) -> None:
    """Write the page and its picture."""
    draw(raw, PICTURE)
    PAGE.write_text(text(raw))


def draw(raw: Mapping[str, Any], path: Path) -> None:
    """Draw throughput, stalls, lost time and restarts to a PNG file: a row of panels for each size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = sizes(raw)
    figure = Figure(figsize=(14, 2.6 * len(found) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, size in zip(figure.subplots(len(found), 4, squeeze=False), found, strict=True):
        name = f"{size / 1e9:.2g} GB"
        _transfer_panel(axes[0], raw, "upload", size, f"{name}: upload, s per GB")
        shown = [item for item in trainings(raw, size) if item.stalls_s]
        labels, colors = [WAYS[item.way].label for item in shown], [_OURS] * len(shown)
        _panel(axes[1], labels, [1e3 * item.stall_s for item in shown], colors, "stall, ms")
        lost = [1e3 * statistics.median(item.lost_s) for item in shown]
        _panel(axes[2], [""] * len(shown), lost, colors, "wall time lost per save, ms")
        _transfer_panel(axes[3], raw, "download", size, "restart, s per GB")
    figure.suptitle("What a mirror costs (red: this repository)", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _transfer_panel(axis: Any, raw: Mapping[str, Any], kind: str, size: int, title: str) -> None:
    found, ways = _transfers(raw, kind, size), _ways(kind)
    names = [name for name in ways if name in found]
    values = [statistics.median(found[name]) for name in names]
    _panel(axis, [ways[n].label for n in names], values, [_OURS if ways[n].is_ours else _PEER for n in names], title)


def _panel(axis: Any, labels: Sequence[str], values: Sequence[float], colors: Sequence[str], title: str) -> None:
    bars = axis.barh(range(len(values)), values, color=colors)
    axis.bar_label(bars, [f"{value:.3g}" for value in values], fontsize=7, padding=2)
    axis.set_yticks(range(len(values)), labels, fontsize=7)
    axis.invert_yaxis()
    axis.margins(x=0.2)
    axis.set_title(title, fontsize=9, loc="left")


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.0f}" if abs(milliseconds) >= 10 else f"{milliseconds:.1f}"
