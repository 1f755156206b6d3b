"""Figures of the tables, from the results of the probe: per run, then over all rounds."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.job import Job

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """A block of batches with saves and an equally long one without, in the same training."""

    num_saves: int
    busy_s: float
    quiet_s: float
    cpu_s: float
    """Processor time of the first, including what was left to write when it ended, minus that of the second."""
    written_bytes: int
    others: float
    """Cores that were busy in the first with anything except this training: the kernel, or other programs."""
    drain_s: float
    """Seconds from the end of the first until nothing was being written."""


@dataclass(frozen=True)
class RunFigures:
    """One training. Times in seconds."""

    window_s: float
    pairs: tuple[Pair, ...]
    batch_s: float
    """Of a batch in blocks without saves; without blocks, of all batches."""
    batches: tuple[int, ...]
    """Batches after which the saves in the window were made."""
    num_skipped: int
    """Saves that were due and not made, because the one before had not ended."""
    stalls_s: tuple[float, ...]
    """From the end of a batch to the start of the next, minus the same without a save."""
    first_stall_s: float | None
    """Stall of the first save, which is before the window."""
    steps_s: tuple[float, ...]
    """From the end of a batch to the end of the next, minus the same without a save."""
    waits_s: tuple[float, ...]
    """Part of each stall that was spent waiting for an earlier save, where the contender reports it."""
    durable_s: tuple[float, ...]
    """From the start of a save to its end while training continues."""
    lost_s: tuple[float, ...]
    """How much longer the batches during each save take than those between it and the next one."""
    idle_s: float | None
    """From the start of a save to its end while training waits."""
    file_bytes: int


@dataclass(frozen=True)
class Figures:
    """A contender at one setting, over all rounds. Times in seconds; None if not known."""

    contender: str
    num_saves: int = 0
    num_skipped: int = 0
    stall_median_s: float | None = None
    stall_p95_s: float | None = None
    stall_worst_s: float | None = None
    stall_first_s: float | None = None
    stall_worst_apart_s: float | None = None
    """Worst stall without the wait for earlier saves."""
    wait_s: float = 0.0
    """Sum of the waits."""
    step_worst_s: float | None = None
    lost_s: float | None = None
    """Wall time that training loses per save: the `middle` of all pairs of blocks."""
    lost_sure_s: tuple[float, float] | None = None
    """Its 95 % interval, see `sure`."""
    throughput_lost: float | None = None
    """Lost share of the batches per second, likewise."""
    throughput_sure: tuple[float, float] | None = None
    batch_s: float | None = None
    """Time of a batch while nothing is saved."""
    durable_s: float | None = None
    durable_worst_s: float | None = None
    idle_s: float | None = None
    drain_s: float | None = None
    cpu_s: float | None = None
    """Processor time per save, in addition to that without checkpoints."""
    written_bytes: float | None = None
    """Bytes written per save."""
    file_bytes: float | None = None
    extra_peak_bytes: float | None = None
    others: float | None = None
    """Cores that were busy with something else; the maximum of all rounds."""
    writer: str = ""
    """Class of the writer, where the contender reports it."""
    error: str = ""
    """Why there are no figures."""

    @property
    def is_another(self) -> bool:
        """True if a writer process was requested but could not be started."""
        return self.writer in ("InlineWriter", "WriterHere") and "process" in self.contender


@dataclass(frozen=True)
class Floors:
    """Floors of one size, over all rounds: medians in seconds, and ranges."""

    size: str
    state_bytes: int
    num_tensors: int
    copy_s: float
    copy_range_s: tuple[float, float]
    write_s: float
    write_range_s: tuple[float, float]
    write_direct_s: float | None


@dataclass(frozen=True)
class Comparison:
    """All contenders at one setting."""

    size: str
    threads: int
    factor: float
    """Interval between two saves, in write times."""
    interval: int
    batch_s: float
    noise_s: float | None
    """Noise per save: half the interquartile range of the pairs of the training without checkpoints. A single pair
    cannot resolve less."""
    rows: tuple[Figures, ...] = field(default_factory=tuple)

    def row(self, contender: str) -> Figures | None:
        """Return the figures of a contender; None if there are none."""
        return next((row for row in self.rows if row.contender == contender and not row.error), None)


def of_run(job: Raw, seen: Raw) -> RunFigures:
    """Return the figures of one training."""
    order, began, ended = Job(**job), seen["began"], seen["ended"]
    first, last = order.first_batch, order.last_batch
    inside = range(first, last)
    finished = {int(batch): at for batch, at in seen["finished"].items()}
    details = {int(batch): item for batch, item in seen["details"].items()}
    saved = tuple(batch for batch in sorted(finished) if batch in inside)
    due = {batch for batch in inside if order.is_due(batch)} | set(saved)
    gap = {batch: began[batch] - ended[batch - 1] for batch in range(1, last)}
    early = [batch for batch in sorted(finished) if batch < first]
    step = {batch: ended[batch] - ended[batch - 1] for batch in inside}
    usual_gap, usual_step = (_median(values[b] for b in inside if b not in due) for values in (gap, step))
    pairs = tuple(_pair(*pair, order.block, saved, ended, seen["marks"]) for pair in order.pairs)
    quiet = sum(pair.quiet_s for pair in pairs) / (len(pairs) * order.block) if pairs else None
    window_s = ended[last - 1] - ended[first - 1]
    return RunFigures(
        window_s=window_s,
        pairs=pairs,
        batch_s=quiet or window_s / (last - first),
        batches=saved,
        num_skipped=len(due) - len(saved) if saved else 0,
        stalls_s=tuple(gap[batch] - (usual_gap or 0.0) for batch in saved),
        first_stall_s=gap[early[0]] - (usual_gap or 0.0) if early else None,
        steps_s=tuple(step[batch] - (usual_step or 0.0) for batch in saved),
        waits_s=tuple(_wait_s(details.get(batch, {})) for batch in saved),
        durable_s=tuple(finished[batch] - ended[batch - 1] for batch in saved),
        lost_s=tuple(_lost(saved, finished, ended, last)),
        idle_s=finished[last] - seen["idle_began"] if last in finished else None,
        file_bytes=max((item.get("num_bytes", 0) for item in details.values()), default=0),
    )


def _pair(
    busy: int, quiet: int, block: int, saved: Sequence[int], ended: Sequence[float], marks: Mapping[str, Raw]
) -> Pair:
    """Pair of two blocks: that with saves begins after batch `busy`, the other one after `quiet`."""
    opened, drained, began, closed = (marks[str(batch)] for batch in (busy, busy + block, quiet, quiet + block))
    return Pair(
        num_saves=sum(busy <= batch < busy + block for batch in saved),
        busy_s=ended[busy + block - 1] - ended[busy - 1],
        quiet_s=ended[quiet + block - 1] - ended[quiet - 1],
        cpu_s=drained["cpu_s"] - opened["cpu_s"] - (closed["cpu_s"] - began["cpu_s"]),
        written_bytes=int(drained["written_bytes"] - opened["written_bytes"]),
        others=_others(opened, drained),
        drain_s=drained["drain_s"],
    )


def _lost(saved: Sequence[int], finished: Mapping[int, float], ended: Sequence[float], last: int) -> Iterator[float]:
    for batch, following in itertools.pairwise([*saved, last]):
        steps = [ended[number] - ended[number - 1] for number in range(batch, following)]
        during = 1 + sum(ended[number] < finished[batch] for number in range(batch, following))
        if during < len(steps):
            yield sum(steps[:during]) - during * statistics.fmean(steps[during:])


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the least value that at least this share of the values does not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else None


def middle(values: Sequence[float]) -> float | None:
    """Return the Hodges-Lehmann estimate of paired differences: the median of the means of any two, or one, of them.

    It uses more of the data than a median does, and outliers hardly move it. Source: Hodges and Lehmann (1963),
    "Estimates of location based on rank tests", Ann. Math. Statist. 34(2):598-611.
    """
    return _median(_means(values))


def sure(values: Sequence[float], share: float = 0.95) -> tuple[float, float] | None:
    """Return a confidence interval of the `middle`, by signed ranks (Wilcoxon's test, exact).

    Assumes that the differences scatter symmetrically. Fewer than six values give no interval for 95 %: their range is
    returned instead.
    """
    means, ways = _means(values), _ways(len(values))
    if not means:
        return None
    tail, outside = 0.0, 0
    for rank in range(len(means) // 2):
        tail += ways[rank] / 2 ** len(values)
        if 2 * tail > 1 - share:
            break
        outside = rank
    return means[outside], means[-1 - outside]


def _means(values: Sequence[float]) -> list[float]:
    return sorted((one + other) / 2 for one, other in itertools.combinations_with_replacement(values, 2))


def _ways(count: int) -> list[int]:
    """Number of sets of ranks, out of 1 to `count`, by their sum."""
    ways = [1] + [0] * (count * (count + 1) // 2)
    for rank in range(1, count + 1):
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    return ways


def comparisons(raw: Raw) -> list[Comparison]:
    """Return all measured settings in the order of their first runs, separately for each command."""
    keys = list(dict.fromkeys(_key(run) for run in raw["runs"] if run["part"] == "time"))
    return [_comparison(raw["runs"], key) for key in keys]


def floors(raw: Raw) -> dict[str, Floors]:
    """Return the floors by size."""
    sizes = dict.fromkeys(item["size"] for item in raw["floors"])
    return {size: _floors([item for item in raw["floors"] if item["size"] == size]) for size in sizes}


@dataclass(frozen=True)
class Auto:
    """Training with `save_interval=auto`, compared with none."""

    size: str
    threads: int
    overhead: float | None
    """How much longer the batches during saves take than those between them, as a share of the time without saves;
    median of the rounds."""
    range: tuple[float, float] | None
    against_none: float | None
    """The same from the wall time of another training without checkpoints, which varies with the machine."""
    noise: float | None
    """Half the range of the trainings without checkpoints, as a share of their median."""
    num_saves: int
    error: str = ""


def autos(raw: Raw) -> list[Auto]:
    """Return one result per measured size and number of threads."""
    runs = [run for run in raw["runs"] if run["part"] == "auto"]
    keys = dict.fromkeys((run["job"]["size"], run["job"]["threads"]) for run in runs)
    return [_auto(size, threads, [r for r in runs if _place(r) == (size, threads)]) for size, threads in keys]


def _auto(size: str, threads: int, runs: list[Raw]) -> Auto:
    base = {run["round"]: of_run(run["job"], run["seen"]) for run in _of(runs, "cairn-none")}
    mine = {run["round"]: of_run(run["job"], run["seen"]) for run in _of(runs, "cairn-auto")}
    error = next((run["error"] for run in runs if run["error"]), "")
    if not base or not mine:
        return Auto(size, threads, None, None, None, None, 0, error)
    shares = [sum(run.lost_s) / (run.window_s - sum(run.lost_s)) for run in mine.values()]
    against = [run.window_s / base[number].window_s - 1 for number, run in mine.items() if number in base]
    noise = _half_range(run.window_s for run in base.values())
    middle = statistics.median(run.window_s for run in base.values())
    num_saves = sum(len(run.batches) for run in mine.values())
    return Auto(
        size,
        threads,
        overhead=_median(shares),
        range=_range(shares),
        against_none=_median(against),
        noise=None if noise is None else noise / middle,
        num_saves=num_saves,
        error=error,
    )


def _comparison(runs: Sequence[Raw], key: tuple[Any, ...]) -> Comparison:
    timed = [run for run in runs if run["part"] == "time" and _key(run) == key]
    memory = [run for run in runs if run["part"] == "memory" and _place(run) == key[:2]]  # of any command
    setting = timed[0]["setting"]
    base = [of_run(run["job"], run["seen"]) for run in _of(timed, "none")]
    noise = _middle_half([pair.busy_s - pair.quiet_s for run in base for pair in run.pairs])
    return Comparison(
        size=setting["size"],
        threads=setting["threads"],
        factor=setting["factor"],
        interval=setting["interval"],
        batch_s=_median(run.batch_s for run in base) or setting["batch_s"],
        noise_s=None if noise is None else (noise[1] - noise[0]) / 2 / setting["saves"],
        rows=tuple(_figures(name, timed, memory) for name in dict.fromkeys(run["job"]["contender"] for run in timed)),
    )


def _figures(name: str, timed: list[Raw], memory: list[Raw]) -> Figures:
    ran = _of(timed, name)
    if not ran:
        return Figures(name, error=next(run["error"] for run in timed if run["job"]["contender"] == name))
    runs = [of_run(run["job"], run["seen"]) for run in ran]
    stalls, waits, steps, durable = (
        [value for run in runs for value in getattr(run, kind)]
        for kind in ("stalls_s", "waits_s", "steps_s", "durable_s")
    )
    pairs = [pair for run in runs for pair in run.pairs]
    saving = [pair for pair in pairs if pair.num_saves]
    lost = [(pair.busy_s - pair.quiet_s) / pair.num_saves for pair in saving]
    shares = [1 - pair.quiet_s / pair.busy_s for pair in pairs]
    return Figures(
        contender=name,
        num_saves=sum(len(run.batches) for run in runs),
        num_skipped=sum(run.num_skipped for run in runs),
        stall_median_s=_median(stalls),
        stall_p95_s=percentile(stalls, 0.95),
        stall_worst_s=max(stalls, default=None),
        stall_first_s=_median(run.first_stall_s for run in runs if run.first_stall_s is not None),
        stall_worst_apart_s=max((stall - wait for stall, wait in zip(stalls, waits, strict=True)), default=None),
        wait_s=sum(waits),
        step_worst_s=max(steps, default=None),
        lost_s=middle(lost),
        lost_sure_s=sure(lost),
        throughput_lost=middle(shares),
        throughput_sure=sure(shares),
        batch_s=_median(run.batch_s for run in runs),
        durable_s=_median(durable),
        durable_worst_s=max(durable, default=None),
        idle_s=_median(run.idle_s for run in runs if run.idle_s is not None),
        drain_s=_median(pair.drain_s for pair in pairs),
        cpu_s=_median(pair.cpu_s / pair.num_saves for pair in saving),
        written_bytes=_median(pair.written_bytes / pair.num_saves for pair in saving),
        file_bytes=max(run.file_bytes for run in runs),
        extra_peak_bytes=_extra_peak_bytes(name, memory),
        others=max((pair.others for pair in pairs), default=None),
        writer=str(ran[0]["seen"]["engine"].get("writer", "")),
    )


def _extra_peak_bytes(name: str, memory: list[Raw]) -> float | None:
    from benchmarks.contenders import CONTENDERS

    mine, base = _of(memory, name), _of(memory, CONTENDERS[name].baseline)
    return mine[0]["peak_bytes"] - base[0]["peak_bytes"] if mine and base else None


def _floors(items: list[Raw]) -> Floors:
    copies, writes = ([value for item in items for value in item[kind]] for kind in ("copy_s", "write_s"))
    direct = [value for item in items for value in item["write_direct_s"] or ()]
    return Floors(
        size=items[0]["size"],
        state_bytes=items[0]["state_bytes"],
        num_tensors=items[0]["num_tensors"],
        copy_s=statistics.median(copies),
        copy_range_s=(min(copies), max(copies)),
        write_s=statistics.median(writes),
        write_range_s=(min(writes), max(writes)),
        write_direct_s=_median(direct),
    )


def _others(opened: Raw, closed: Raw) -> float:
    own, all_ = (closed[kind] - opened[kind] for kind in ("cpu_s", "busy_s"))
    return max(0.0, all_ - own) / (closed["at"] - opened["at"])


def _wait_s(details: Raw) -> float:
    """What an engine may say of the waiting for an earlier save."""
    return float(details.get("wait_s") or 0.0)


def _key(run: Raw) -> tuple[Any, ...]:
    return (*_place(run), run["setting"]["factor"], run.get("command", 0))


def _place(run: Raw) -> tuple[str, int]:
    return run["job"]["size"], run["job"]["threads"]


def _of(runs: Iterable[Raw], name: str) -> list[Raw]:
    """The contender's runs that came to their end."""
    return [run for run in runs if run["job"]["contender"] == name and run["seen"] and not run["error"]]


def _median(values: Iterable[float]) -> float | None:
    listed = list(values)
    return statistics.median(listed) if listed else None


def _range(values: Sequence[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if values else None


def _middle_half(values: Sequence[float]) -> tuple[float, float] | None:
    """Half of the values lie between these."""
    low, high = percentile(values, 0.25), percentile(values, 0.75)
    return None if low is None or high is None else (low, high)


def _half_range(values: Iterable[float]) -> float | None:
    listed = list(values)
    return (max(listed) - min(listed)) / 2 if len(listed) > 1 else None
