"""Memory, processor time and written bytes of a tree of processes, from /proc of Linux."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """Return `root` and all of its living descendants."""
    parents = _parents()
    found, new = [root], [root]
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


def pss_bytes(pids: Sequence[int]) -> int:
    """Return the memory of all processes together; shared memory counts once (proportional set size).

    Memory that becomes shared between two reads counts one and a half times. So the processes are read twice, in
    opposite order, and the lesser sum counts.
    """
    return min(sum(_pss_bytes(pid) for pid in order) for order in (pids, pids[::-1]))


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor time of the processes and of their ended children, in seconds, to 10 ms."""
    return sum(sum(int(field) for field in fields[11:15]) for pid in pids if (fields := _stat(pid))) / _TICKS_PER_S


def busy_s() -> float:
    """Return the processor time that the whole machine has used, or was denied by its host, in seconds."""
    user, nice, system, _, _, *rest = (int(field) for field in (PROC / "stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + sum(rest)) / _TICKS_PER_S


def written_bytes(pids: Iterable[int]) -> int:
    """Return the bytes that the processes wrote, including the page cache; 0 where the kernel does not count."""
    return sum(_io(pid).get("write_bytes", 0) for pid in pids)


def _parents() -> dict[int, int]:
    pids = [int(path.name) for path in PROC.iterdir() if path.name.isdigit()]
    return {pid: int(fields[1]) for pid in pids if (fields := _stat(pid))}


def _stat(pid: int) -> list[str]:
    """Fields after the name, from the state on; empty if the process has ended."""
    text = _read(pid, "stat")
    return text[text.rindex(")") + 1 :].split() if text else []


def _pss_bytes(pid: int) -> int:
    lines = [line for line in _read(pid, "smaps_rollup").splitlines() if line.startswith("Pss:")]
    return sum(int(line.split()[1]) * 1024 for line in lines)


def _io(pid: int) -> dict[str, int]:
    return {key: int(value) for key, _, value in (line.partition(": ") for line in _read(pid, "io").splitlines())}


def _read(pid: int, name: str) -> str:
    try:
        return (PROC / str(pid) / name).read_text()
    except OSError:  # it has ended, or belongs to another user
        return ""
