"""Tables of figures, for the terminal and for Markdown: the columns, and how a number is written."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.bars import Bar
from benchmarks.contenders import CONTENDERS
from benchmarks.figures import Auto, Comparison, Figures, Floors

UNKNOWN = "-"
LOST = "lost per save ms (95 %)"
HEADER = (
    "contender",
    "stall ms",
    "p95",
    "worst",
    "first",
    "worst step ms",
    "waited ms",
    LOST,
    "throughput lost",
    "batch ms, not saving",
    "durable, training",
    "idle",
    "extra peak memory",
    "written",
    "CPU s per save",
    "saves (skipped)",
    "others",
    "fsync",
)
LEGEND = """\
Stall: from the end of a batch to the start of the next one, minus the same without a save; median, 95th percentile and
worst. `first` is the first save of a training, which counts nowhere else. Worst step: from the end of a batch to the
end of the next one, likewise; it includes a copy that the next step has to wait for. Waited: the part of all stalls
that was spent waiting for an earlier save, where the contender reports it. Lost per save, throughput lost: each
training alternates between blocks of batches with saves and equally long blocks without; the wall time of the first
minus that of the second, divided by the saves (Hodges-Lehmann estimate over all pairs of blocks, with its 95 %
interval: by signed ranks, or the range with fewer than six pairs). What is still being written or cached when a block
ends is waited for and not counted, which favours contenders that fall behind or do not sync. Batch, not saving: in the
blocks without saves; it should be the same for all. Durable: from the start of a save to its end, in W; without fsync,
the end is when the call or future returned, and the bytes may still be in the page cache. Idle: the same while no
training runs. Extra peak memory, written: in states; memory of all processes, with shared memory counted once, minus
the same without checkpoints. CPU: of all processes, blocks with saves minus blocks without. Others: cores that were
busy with anything else, such as the kernel writing back or other programs; the maximum over all blocks."""


def cells(comparison: Comparison, floor: Floors) -> list[tuple[str, ...]]:
    """Return one row per contender, in the order of HEADER."""
    return [_cells(row, floor) for row in comparison.rows]


def floor_line(floor: Floors) -> str:
    """Return a sentence about the floors of a size."""
    direct = f", with O_DIRECT {_ms(floor.write_direct_s)} ms" if floor.write_direct_s else ", O_DIRECT is refused"
    low, high = (_ms(value) for value in floor.write_range_s)
    copy_low, copy_high = (_ms(value) for value in floor.copy_range_s)
    return (
        f"State of {floor.state_bytes / 1e9:.3g} GB in {floor.num_tensors} tensors. Floors: copy into warm buffers "
        f"{_ms(floor.copy_s)} ms ({copy_low} to {copy_high}); W, write and fsync, {_ms(floor.write_s)} ms "
        f"({low} to {high}){direct}."
    )


def title(comparison: Comparison) -> str:
    """Return the heading of a comparison."""
    cores = f"training with {comparison.threads} thread{'s' if comparison.threads > 1 else ''}"
    noise = UNKNOWN if comparison.noise_s is None else f"{_ms(comparison.noise_s)} ms"
    return (
        f"{comparison.size}: {cores}, a save every {comparison.factor:g} W = {comparison.interval} batches of "
        f"{_ms(comparison.batch_s)} ms; noise of the wall time per save: {noise}"
    )


def show(
    comparisons: Sequence[Comparison],
    floors: dict[str, Floors],
    autos: Sequence[Auto],
    bars: Sequence[Bar],
    console: Console,
) -> None:
    """Print all tables."""
    for comparison in comparisons:
        floor = floors[comparison.size]
        console.print(f"\n[bold]{title(comparison)}[/bold]\n{floor_line(floor)}")
        console.print(terminal(HEADER, cells(comparison, floor)))
    for auto in autos:
        console.print(f"\n{auto_line(auto)}")
    if bars:
        console.print(terminal(BAR_HEADER, [bar_cells(bar) for bar in bars]))


BAR_HEADER = ("bar", "at most", "measured", "")


def bar_cells(bar: Bar) -> tuple[str, ...]:
    """Return one row, in the order of BAR_HEADER."""
    limit = UNKNOWN if bar.limit is None else f"{bar.limit:.3g} {bar.unit}"
    measured = UNKNOWN if bar.measured is None else f"{bar.measured:.3g} {bar.unit}"
    limited = bar.floor if limit == bar.floor.replace("x the state", "x state") else f"{bar.floor} = {limit}"
    if bar.sure is not None and bar.measured is not None:
        measured += f" ({bar.sure[0]:.3g} to {bar.sure[1]:.3g})"
    return bar.what, limited, measured, bar.verdict


def auto_line(auto: Auto) -> str:
    """Return a sentence about the overhead under `auto`."""
    if auto.overhead is None or auto.range is None:
        return f"auto, {auto.size}, {auto.threads} threads: not measured ({auto.error or 'it did not run'})"
    low, high = auto.range
    noise = "unknown" if auto.noise is None else f"{100 * auto.noise:.2f} %"
    against = UNKNOWN if auto.against_none is None else f"{100 * auto.against_none:.2f} %"
    return (
        f"auto, {auto.size}, {auto.threads} threads: overhead {100 * auto.overhead:.2f} % ({100 * low:.2f} to "
        f"{100 * high:.2f} over the rounds), {auto.num_saves} saves: what batches during saves take more than those "
        f"between them. Against another training without checkpoints {against}, with a noise of {noise}"
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def terminal(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for the terminal."""
    table = Table()
    for column in header:
        table.add_column(column, no_wrap=column in (HEADER[0], LOST))
    for row in rows:
        table.add_row(*row)
    return table


def _cells(row: Figures, floor: Floors) -> tuple[str, ...]:
    contender = CONTENDERS[row.contender]
    if row.error:
        return (contender.label, f"does not run: {row.error}", *[""] * (len(HEADER) - 2))
    states = [_ratio(value, floor.state_bytes) for value in (row.extra_peak_bytes, row.written_bytes)]
    return (
        contender.label + (" (not here: a thread wrote)" if row.is_another else ""),
        _ms(row.stall_median_s),
        _ms(row.stall_p95_s),
        _ms(row.stall_worst_s),
        _ms(row.stall_first_s),
        _ms(row.step_worst_s),
        _ms(row.wait_s) if contender.saves else UNKNOWN,
        _lost(row),
        UNKNOWN if row.throughput_lost is None else f"{100 * row.throughput_lost:.1f} %",
        _ms(row.batch_s),
        _ratio(row.durable_s, floor.write_s, "W"),
        _ratio(row.idle_s, floor.write_s, "W"),
        states[0],
        states[1],
        UNKNOWN if row.cpu_s is None else f"{row.cpu_s:.2f}",
        f"{row.num_saves} ({row.num_skipped})" if contender.saves else UNKNOWN,
        UNKNOWN if row.others is None else f"{row.others:.2f}",
        contender.fsync if contender.saves else UNKNOWN,
    )


def _lost(row: Figures) -> str:
    if row.lost_s is None or row.lost_sure_s is None:
        return UNKNOWN
    low, high = row.lost_sure_s
    return f"{_ms(row.lost_s)} ({_ms(low)} to {_ms(high)})"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.0f}" if abs(milliseconds) >= 10 else f"{milliseconds:.1f}"


def _ratio(value: float | None, unit: float, name: str = "") -> str:
    return UNKNOWN if value is None else f"{value / unit:.2f} {name}".strip()
