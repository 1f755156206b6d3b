"""Decides how what was seen becomes the numbers of a table: per run, then over the rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class RunFigures:
    """One training. Times in seconds."""

    window_s: float
    num_batches: int
    batches: tuple[int, ...]
    """After which the saves in the window were made."""
    num_skipped: int
    """Saves that were due and not made, because the one before was still under way."""
    stalls_s: tuple[float, ...]
    """From the end of a batch to the start of the next, less what that takes without a save."""
    first_stall_s: float | None
    """Of the first save of the training, which is before the window."""
    steps_s: tuple[float, ...]
    """From the end of a batch to the end of the next, less what that takes without a save."""
    waits_s: tuple[float, ...]
    """The part of each stall that was spent on waiting for an earlier save, where the contender tells it."""
    durable_s: tuple[float, ...]
    """From the start of a save to its end, training going on."""
    lost_within_s: tuple[float, ...]
    """What batches took in the first half of the interval after a save, more than in its second half, when the save was
    over: of saves that end so soon. A machine that is slower in one run than in the next does not touch it."""
    idle_s: float | None
    """The same with nobody training."""
    drain_s: float
    """From the end of the window until nothing was being written."""
    cpu_s: float
    others: float
    """Cores that were busy in the window with anything but this training: the kernel, and whoever else was there."""
    written_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Figures:
    """A contender at one setting, over all rounds. Times in seconds; None: not known."""

    contender: str
    num_saves: int = 0
    num_skipped: int = 0
    stall_median_s: float | None = None
    stall_p95_s: float | None = None
    stall_worst_s: float | None = None
    stall_first_s: float | None = None
    stall_worst_apart_s: float | None = None
    """The worst stall without the waiting for earlier saves."""
    wait_s: float = 0.0
    """All of that waiting."""
    step_worst_s: float | None = None
    lost_s: float | None = None
    """Wall time that training loses for each save."""
    lost_within_s: float | None = None
    """The same as the median of what each save shows within its run; None for those that take too long for that."""
    lost_range_s: tuple[float, float] | None = None
    """The least and the most of the rounds."""
    throughput_lost: float | None = None
    """Share of the batches per second."""
    durable_s: float | None = None
    durable_worst_s: float | None = None
    idle_s: float | None = None
    drain_s: float | None = None
    cpu_s: float | None = None
    """Processor time for each save, more than without checkpoints."""
    written_bytes: float | None = None
    """For each save."""
    file_bytes: float | None = None
    extra_peak_bytes: float | None = None
    others: float | None = None
    """Cores that were busy with something else; the most of the rounds."""
    writer: str = ""
    """The class that wrote, where the contender tells it."""
    error: str = ""
    """Why there are no figures."""

    @property
    def is_another(self) -> bool:
        """It asked for a process, and none could be started here."""
        return self.writer == "WriterHere" and "process" in self.contender


@dataclass(frozen=True)
class Floors:
    """Of one size, over all rounds: medians, in seconds, and the range of the writes."""

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
    """A save every so many write times."""
    interval: int
    batch_s: float
    noise_s: float | None
    """Half the range of the windows without checkpoints, for each save: what `lost_s` cannot resolve."""
    rows: tuple[Figures, ...] = field(default_factory=tuple)

    def row(self, contender: str) -> Figures | None:
        """The contender's figures, None if there are none."""
        return next((row for row in self.rows if row.contender == contender and not row.error), None)


def of_run(job: Raw, seen: Raw) -> RunFigures:
    """What one training shows."""
    first, last, began, ended = job["first_batch"], job["last_batch"], seen["began"], seen["ended"]
    inside = range(first, last)
    finished = {int(batch): at for batch, at in seen["finished"].items()}
    details = {int(batch): item for batch, item in seen["details"].items()}
    saved = tuple(batch for batch in sorted(finished) if batch in inside)
    due = {batch for batch in inside if job["interval"] and batch % job["interval"] == 0} | set(saved)
    gap = {batch: began[batch] - ended[batch - 1] for batch in range(1, last)}
    early = [batch for batch in sorted(finished) if batch < first]
    step = {batch: ended[batch] - ended[batch - 1] for batch in inside}
    usual_gap, usual_step = (_median(values[b] for b in inside if b not in due) for values in (gap, step))
    return RunFigures(
        window_s=ended[last - 1] - ended[first - 1],
        num_batches=last - first,
        batches=saved,
        num_skipped=len(due) - len(saved) if saved else 0,
        stalls_s=tuple(gap[batch] - (usual_gap or 0.0) for batch in saved),
        first_stall_s=gap[early[0]] - (usual_gap or 0.0) if early else None,
        steps_s=tuple(step[batch] - (usual_step or 0.0) for batch in saved),
        waits_s=tuple(_wait_s(details.get(batch, {})) for batch in saved),
        durable_s=tuple(finished[batch] - ended[batch - 1] for batch in saved),
        lost_within_s=tuple(_lost_within(saved, job["interval"], finished, began, ended, last)),
        idle_s=finished[last] - seen["idle_began"] if last in finished else None,
        drain_s=seen["drain_s"],
        cpu_s=seen["closed"]["cpu_s"] - seen["opened"]["cpu_s"],
        others=_others(seen["opened"], seen["closed"]),
        written_bytes=int(seen["closed"]["written_bytes"] - seen["opened"]["written_bytes"]),
        file_bytes=max((item.get("num_bytes", 0) for item in details.values()), default=0),
    )


def _lost_within(
    saved: Sequence[int],
    interval: int,
    finished: Mapping[int, float],
    began: Sequence[float],
    ended: Sequence[float],
    last: int,
) -> Iterator[float]:
    half = interval // 2
    for batch in saved:
        if half == 0 or batch + interval > last or finished[batch] > ended[batch + half - 1]:
            continue
        steps = [ended[number] - ended[number - 1] for number in range(batch, batch + interval)]
        usual = statistics.median(steps[half:])
        yield sum(step - usual for step in steps[:half])


def percentile(values: Sequence[float], share: float) -> float | None:
    """The least value that at least this share of the values does not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else None


def comparisons(raw: Raw) -> list[Comparison]:
    """Every setting that was measured, in the order of its first run."""
    keys = list(dict.fromkeys(_key(run) for run in raw["runs"] if run["part"] == "time"))
    return [_comparison(raw["runs"], key) for key in keys]


def floors(raw: Raw) -> dict[str, Floors]:
    """By size."""
    sizes = dict.fromkeys(item["size"] for item in raw["floors"])
    return {size: _floors([item for item in raw["floors"] if item["size"] == size]) for size in sizes}


@dataclass(frozen=True)
class Auto:
    """Training with `save_interval=auto`, against none."""

    size: str
    threads: int
    overhead: float | None
    """Share of wall time, median over the rounds."""
    range: tuple[float, float] | None
    noise: float | None
    """Half the range of the trainings without checkpoints, as a share of their median."""
    num_saves: int
    error: str = ""


def autos(raw: Raw) -> list[Auto]:
    """For every size and number of threads that was measured."""
    runs = [run for run in raw["runs"] if run["part"] == "auto"]
    keys = dict.fromkeys((run["job"]["size"], run["job"]["threads"]) for run in runs)
    return [_auto(size, threads, [r for r in runs if _place(r) == (size, threads)]) for size, threads in keys]


def _auto(size: str, threads: int, runs: list[Raw]) -> Auto:
    base = {run["round"]: of_run(run["job"], run["seen"]) for run in _of(runs, "cairn-none")}
    mine = {run["round"]: of_run(run["job"], run["seen"]) for run in _of(runs, "cairn-auto")}
    error = next((run["error"] for run in runs if run["error"]), "")
    if not base or not mine:
        return Auto(size, threads, None, None, None, 0, error)
    shares = [run.window_s / base[number].window_s - 1 for number, run in mine.items() if number in base]
    noise = _half_range(run.window_s for run in base.values())
    middle = statistics.median(run.window_s for run in base.values())
    num_saves = sum(len(run.batches) for run in mine.values())
    return Auto(size, threads, _median(shares), _range(shares), noise / middle if noise else None, num_saves, error)


def _comparison(runs: Sequence[Raw], key: tuple[Any, ...]) -> Comparison:
    timed = [run for run in runs if run["part"] == "time" and _key(run) == key]
    memory = [run for run in runs if run["part"] == "memory" and _place(run) == key[:2]]
    setting = timed[0]["setting"]
    base = {run["round"]: of_run(run["job"], run["seen"]) for run in _of(timed, "none")}
    noise = _half_range(run.window_s for run in base.values())
    return Comparison(
        size=setting["size"],
        threads=setting["threads"],
        factor=setting["factor"],
        interval=setting["interval"],
        batch_s=_median(run.window_s / run.num_batches for run in base.values()) or setting["batch_s"],
        noise_s=None if noise is None else noise / setting["saves"],
        rows=tuple(
            _figures(name, timed, memory, base) for name in dict.fromkeys(run["job"]["contender"] for run in timed)
        ),
    )


def _figures(name: str, timed: list[Raw], memory: list[Raw], base: Mapping[int, RunFigures]) -> Figures:
    ran = _of(timed, name)
    if not ran:
        return Figures(name, error=next(run["error"] for run in timed if run["job"]["contender"] == name))
    runs = {run["round"]: of_run(run["job"], run["seen"]) for run in ran}
    stalls, waits, steps, durable = (
        [value for run in runs.values() for value in getattr(run, kind)]
        for kind in ("stalls_s", "waits_s", "steps_s", "durable_s")
    )
    paired = [(run, base[number]) for number, run in runs.items() if number in base]
    lost = [(run.window_s - none.window_s) / len(run.batches) for run, none in paired if run.batches]
    return Figures(
        contender=name,
        num_saves=sum(len(run.batches) for run in runs.values()),
        num_skipped=sum(run.num_skipped for run in runs.values()),
        stall_median_s=_median(stalls),
        stall_p95_s=percentile(stalls, 0.95),
        stall_worst_s=max(stalls, default=None),
        stall_first_s=_median(run.first_stall_s for run in runs.values() if run.first_stall_s is not None),
        stall_worst_apart_s=max((stall - wait for stall, wait in zip(stalls, waits, strict=True)), default=None),
        wait_s=sum(waits),
        step_worst_s=max(steps, default=None),
        lost_s=_median(lost),
        lost_within_s=_median(value for run in runs.values() for value in run.lost_within_s),
        lost_range_s=_range(lost),
        throughput_lost=_median(1 - none.window_s / run.window_s for run, none in paired),
        durable_s=_median(durable),
        durable_worst_s=max(durable, default=None),
        idle_s=_median(run.idle_s for run in runs.values() if run.idle_s is not None),
        drain_s=_median(run.drain_s for run in runs.values()),
        cpu_s=_median((run.cpu_s - none.cpu_s) / len(run.batches) for run, none in paired if run.batches),
        written_bytes=_median(run.written_bytes / len(run.batches) for run in runs.values() if run.batches),
        file_bytes=max(run.file_bytes for run in runs.values()),
        extra_peak_bytes=_extra_peak_bytes(name, memory),
        others=max(run.others for run in runs.values()),
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
    return (*_place(run), run["setting"]["factor"])


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


def _half_range(values: Iterable[float]) -> float | None:
    listed = list(values)
    return (max(listed) - min(listed)) / 2 if len(listed) > 1 else None
