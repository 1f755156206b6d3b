"""How checkpoints are written: by whom, from how many buffers, and what happens while both are in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from cairn.errors import ConfigError

WriterKind = Literal["auto", "process", "thread", "sync"]
WhenBusy = Literal["skip", "wait"]
Sharded = Literal["auto", True, False]


@dataclass(frozen=True)
class Writing:
    """How checkpoints are written.

    Args:
        writer: `process` or `thread` writes in the background; `sync`: training waits; `auto`: a process for states of
            16 MB or more, else a thread.
        buffers: 2: a snapshot can be taken while another one is written; 1: half the memory, and a save waits for the
            one before.
        overlap: Copy weights while the next batch is computed.
        when_busy: `skip`: drop an interval save when all buffers are busy (drops are counted); `wait`: block until one
            is free.
        sharded: True: each process of a run writes a shard of each checkpoint, which is then a directory; False: rank 0
            writes a single file; `auto`: shards for states of 256 MB or more, and for models that are sharded. One
            process always writes a file.
        max_failed_saves: Stop the run after this many consecutive failed saves; -1: never.

    Raises:
        ConfigError: A value is not one of the choices.
    """

    writer: WriterKind = "auto"
    buffers: int = 2
    overlap: bool = False
    when_busy: WhenBusy = "skip"
    sharded: Sharded = "auto"
    max_failed_saves: int = 3

    def __post_init__(self) -> None:
        _check("writer", self.writer, get_args(WriterKind))
        _check("buffers", self.buffers, (1, 2))
        _check("overlap", self.overlap, (True, False))
        _check("when_busy", self.when_busy, get_args(WhenBusy))
        _check("sharded", self.sharded, get_args(Sharded))
        most = self.max_failed_saves
        if isinstance(most, bool) or not isinstance(most, int) or (most < 1 and most != -1):
            raise ConfigError(
                f"max_failed_saves={most!r} must be an integer from 1, or -1 to never stop.",
                parameter="max_failed_saves",
            )


def _check(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ConfigError(
            f"{name}={value!r} must be {', '.join(map(str, choices[:-1]))} or {choices[-1]}.", parameter=name
        )
