"""The bars: each is a ratio within one run, and is met, missed, not resolved or not measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.contenders import PEERS
from benchmarks.figures import Auto, Comparison, Figures, Floors

OURS = "cairn-process"
ONE_BUFFER = "cairn-process-1"
STATE = "0.5"
SMALL = "tensors"


@dataclass(frozen=True)
class Bar:
    """One line of the table of bars.

    Attributes:
        what: What is measured.
        unit: Unit of `limit` and `measured`.
        limit: Maximum that meets the bar; None if it is not known.
        measured: None if it was not measured.
        floor: Where the limit comes from, in words.
        sure: 95 % interval of `measured`, if it is a difference of noisy times.
    """

    what: str
    unit: str
    limit: float | None
    measured: float | None
    floor: str
    sure: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """The verdict, in one or two words."""
        if self.limit is None or self.measured is None:
            return "not measured"
        low, high = self.sure or (self.measured, self.measured)
        if low <= self.limit < high:
            return "not resolved"
        return "met" if high <= self.limit else "missed"


def bars(comparisons: Sequence[Comparison], floors: dict[str, Floors], autos: Sequence[Auto]) -> list[Bar]:
    """Return all bars; they are for training on one core unless a line says both cores."""
    floor = floors.get(STATE)
    often = _at(comparisons, STATE, 1, 5)
    with_peers = _at(comparisons, STATE, 1, 5, "model-checkpoint", "async-io") or often
    return [
        *_stall(with_peers, floor),
        _lost(often, floor),
        _lost_against_peers(with_peers),
        _throughput(often, 0.04, "one save per five W"),
        _throughput(_at(comparisons, STATE, 1, 20), 0.01, "one save per twenty W"),
        _both_cores(_at(comparisons, STATE, 2, 5)),
        *_durable(often, floor),
        _memory(_at(comparisons, STATE, 1, 5, ONE_BUFFER), floor, ONE_BUFFER, 1.1, "one buffer"),
        _memory(often, floor, OURS, 2.1, "two buffers"),
        _small(next((item for item in comparisons if item.size == SMALL and item.threads == 1), None)),
        *_auto(autos),
    ]


def _at(comparisons: Sequence[Comparison], size: str, threads: int, factor: float, *others: str) -> Comparison | None:
    """Return the comparison at this setting, with these contenders, in which ours saved most often."""
    there = [
        item
        for item in comparisons
        if (item.size, item.threads, item.factor) == (size, threads, factor) and all(map(item.row, others))
    ]
    return max(there, key=lambda item: row.num_saves if (row := item.row(OURS)) else -1, default=None)


def _stall(at: Comparison | None, floor: Floors | None) -> Iterator[Bar]:
    mine, copy = _row(at, OURS), floor.copy_s * 1e3 if floor else None
    median, worst = _ms(mine, "stall_median_s"), _ms(mine, "stall_worst_apart_s")
    sync, cloned = (_ms(_row(at, name), "stall_median_s") for name in ("model-checkpoint", "async-io"))
    yield Bar("median stall", "ms", _times(copy, 1.5), median, "1.5 x the copy into warm buffers")
    yield Bar("median stall", "ms", _times(sync, 1 / 25), median, "1/25 of ModelCheckpoint")
    yield Bar("median stall", "ms", _times(cloned, 1 / 4), median, "1/4 of AsyncCheckpointIO")
    yield Bar("worst stall, back-pressure apart", "ms", _times(copy, 2), worst, "2 x the copy into warm buffers")


def _lost(at: Comparison | None, floor: Floors | None) -> Bar:
    return _lost_bar(at, _times(floor.write_s * 1e3 if floor else None, 0.3), "0.3 W")


def _lost_against_peers(at: Comparison | None) -> Bar:
    peers = [lost for name in PEERS if (lost := _ms(_row(at, name), "lost_s")) is not None]
    return _lost_bar(at, _times(min(peers, default=None), 1 / 10), "1/10 of the best peer")


def _lost_bar(at: Comparison | None, limit: float | None, how: str) -> Bar:
    mine = _row(at, OURS)
    sure = _scaled(mine, "lost_sure_s", 1e3)
    return Bar("wall time lost per save, one per five W", "ms", limit, _ms(mine, "lost_s"), how, sure)


def _throughput(at: Comparison | None, share: float, when: str) -> Bar:
    mine = _row(at, OURS)
    sure = _scaled(mine, "throughput_sure", 100)
    return Bar(f"throughput lost, {when}", "%", 100 * share, _percent(mine), f"{100 * share:g} %", sure)


def _both_cores(at: Comparison | None) -> Bar:
    peers = [lost for name in PEERS if (lost := _percent(_row(at, name))) is not None]
    limit, mine = _times(min(peers, default=None), 1 / 2), _row(at, OURS)
    sure = _scaled(mine, "throughput_sure", 100)
    return Bar("throughput lost, training on both cores", "%", limit, _percent(mine), "1/2 of the best peer", sure)


def _durable(at: Comparison | None, floor: Floors | None) -> Iterator[Bar]:
    mine, write = _row(at, OURS), floor.write_s * 1e3 if floor else None
    yield Bar("time until durable, training", "ms", _times(write, 2), _ms(mine, "durable_s"), "2 W")
    yield Bar("time until durable, idle", "ms", _times(write, 1.2), _ms(mine, "idle_s"), "1.2 W")


def _memory(at: Comparison | None, floor: Floors | None, name: str, limit: float, how: str) -> Bar:
    row = _row(at, name)
    extra = row.extra_peak_bytes / floor.state_bytes if row and floor and row.extra_peak_bytes is not None else None
    return Bar(f"extra peak memory, {how}", "x state", limit, extra, f"{limit} x the state")


def _small(at: Comparison | None) -> Bar:
    limit = _times(_ms(_row(at, "async-io"), "stall_median_s"), 1 / 3)
    mine = _ms(_row(at, OURS), "stall_median_s")
    return Bar("median stall, 60,000 small tensors", "ms", limit, mine, "1/3 of AsyncCheckpointIO")


def _auto(autos: Sequence[Auto]) -> Iterator[Bar]:
    for item in autos or [Auto(STATE, 1, None, None, None, None, 0)]:
        # Without a single save only the noise was measured.
        measured = None if item.overhead is None or not item.num_saves else 100 * item.overhead
        where = f"{item.size}, {item.threads} threads" if len(autos) > 1 else "bound of 1 %"
        yield Bar(f"overhead under auto ({where})", "%", 1.5, measured, "1.5 %")


def _row(at: Comparison | None, name: str) -> Figures | None:
    row = at.row(name) if at else None
    return None if row and row.is_another else row


def _ms(row: Figures | None, name: str) -> float | None:
    value: float | None = getattr(row, name) if row else None
    return None if value is None else 1e3 * value


def _percent(row: Figures | None) -> float | None:
    return None if row is None or row.throughput_lost is None else 100 * row.throughput_lost


def _scaled(row: Figures | None, name: str, factor: float) -> tuple[float, float] | None:
    low_high: tuple[float, float] | None = getattr(row, name) if row else None
    return None if low_high is None else (factor * low_high[0], factor * low_high[1])


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value
