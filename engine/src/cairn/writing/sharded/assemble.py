"""Puts the shards of a checkpoint together: the contents are those that one file of the same state would have.

    pieces of all shards   -> storages     one piece: a view of the mapped file; several, or tiles: joined in new memory
    image of shard 0       -> contents     the tensors refer to these storages by name
    images of the others   -> the states of their ranks, with the table of their values' forms

Nothing is trusted: shards of different saves, a storage with a gap and a piece that two shards have are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cairn import records
from cairn.errors import CorruptCheckpointError, NewerFormatError
from cairn.writing import decode
from cairn.writing.forms import OURS, TABLE
from cairn.writing.sharded import tiles
from cairn.writing.sharded.shard import FORMAT, HEADER, IMAGE, PIECES, RANKS, STATE, ShardId
from cairn.writing.sharded.tiles import Tile

_SAME = ("world_size", "run", "attempt", "position", "layout")
_Move = Callable[[torch.UntypedStorage], torch.UntypedStorage]
_StandIn = Callable[[str], torch.UntypedStorage]


@dataclass(frozen=True)
class Part:
    """A range of the bytes of a storage, or a tile of them, as a shard has it.

    Attributes:
        first: First byte in the storage.
        data: The bytes, mapped.
        tile: None: a range.
    """

    first: int
    data: Tensor
    tile: Tile | None = None

    @property
    def end(self) -> int:
        """The byte after the last one of a range."""
        return self.first + self.data.numel()


class Shards:
    """The shards of one checkpoint, mapped into memory.

    Args:
        paths: The files, in the order of ranks. Their checksums are compared elsewhere.

    Attributes:
        parts: For each storage that is dealt out, its ranges in order.
        num_bytes: Size of each of them, in bytes.

    Raises:
        CorruptCheckpointError: One is not a shard, they do not belong together, or bytes are missing.
        NewerFormatError: A later version of Cairn wrote them.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._shards = [_read(path) for path in paths]
        self.ids = [_id_of(path, shard) for path, shard in zip(paths, self._shards, strict=True)]
        self._check_ids()
        self.parts: dict[str, list[Part]] = {}
        self.num_bytes: dict[str, int] = {}
        for path, shard in zip(paths, self._shards, strict=True):
            self._add_pieces(path, shard)
        for name, parts in self.parts.items():
            parts.sort(key=lambda part: part.first)
            if not _are_whole(parts, self.num_bytes[name]):
                raise CorruptCheckpointError(f"its shards do not have each byte of {name} once")
        self._joined: dict[str, torch.UntypedStorage] = {}

    def contents(self, move: _Move = lambda storage: storage, stand_in: _StandIn | None = None) -> dict[str, Any]:
        """Return the contents of the whole checkpoint.

        Args:
            move: Is given each storage, and returns it on the device where its tensors go.
            stand_in: Returns what takes the place of a storage that several shards have a part of, by its name; None:
                it is joined in memory.

        Raises:
            CorruptCheckpointError: The image cannot be read.
        """
        contents = self._image(0, move, stand_in)
        ours = contents.get(OURS)
        if len(self._shards) > 1 and isinstance(ours, dict):
            states = [self._image(rank, move, stand_in) for rank in range(1, len(self._shards))]
            ours[RANKS] = [*ours.get(RANKS, []), *(state[STATE] for state in states)]
            if table := _merged(contents, [state.get(OURS, {}).get(TABLE, []) for state in states]):
                ours[TABLE] = table
        return contents

    def storage(self, name: str) -> torch.UntypedStorage:
        """Return a storage that is dealt out; it is joined in memory, once, if several shards have a part of it."""
        if name not in self._joined:
            self._joined[name] = _storage(self._whole(name))
        return self._joined[name]

    def _whole(self, name: str) -> Tensor:
        parts = self.parts[name]
        if len(parts) == 1:
            return parts[0].data
        if parts[0].tile is None:
            return torch.cat([part.data for part in parts])
        whole = torch.empty(self.num_bytes[name], dtype=torch.uint8)
        for part in parts:
            assert part.tile is not None
            part.tile.of(whole).copy_(part.data.view(part.tile.num_rows, part.tile.run_bytes))
        return whole

    def tile(self, name: str, wanted: Tile) -> Tensor:
        """Return a tile of a storage that is dealt out: mapped if one shard has just this one, else from a joined copy.

        Args:
            name: Name of the storage.
            wanted: Which bytes.
        """
        for part in self.parts[name]:
            if part.tile == wanted:
                return part.data
        return wanted.of(self._whole(name)).flatten()

    def read(self, name: str, first: int, end: int) -> Tensor:
        """Return bytes of a storage that is dealt out: mapped if one shard has all of them, else joined in memory.

        Args:
            name: Name of the storage.
            first: First byte.
            end: Byte after the last one.
        """
        if self.parts[name][0].tile is not None:
            return self._whole(name)[first:end]
        found = [
            part.data[max(first - part.first, 0) : end - part.first]
            for part in self.parts[name]
            if part.first < end and part.end > first
        ]
        return found[0] if len(found) == 1 else torch.cat(found or [torch.empty(0, dtype=torch.uint8)])

    def _image(self, rank: int, move: _Move, stand_in: _StandIn | None) -> dict[str, Any]:
        image, path = self._shards[rank][IMAGE], self._paths[rank]
        names, own = image["names"], image["own"]
        if any((name not in self.parts) if name is not None else (n not in own) for n, name in enumerate(names)):
            raise CorruptCheckpointError(f"{path.name} refers to bytes that no shard has")

        given: set[int] = set()

        def storage_of(number: int) -> torch.UntypedStorage:
            name = names[number]
            if name is not None and stand_in is not None and len(self.parts[name]) > 1:
                return stand_in(name)
            storage = _storage(own[number]) if name is None else self.storage(name)
            if storage.data_ptr() in given:  # the file has it once, and the tensors do not share it
                storage = storage.clone()
            given.add(storage.data_ptr())
            return move(storage)

        return self._rebuilt(rank, storage_of)

    def _rebuilt(self, rank: int, storage_of: Callable[[int], torch.UntypedStorage]) -> dict[str, Any]:
        contents = decode.rebuild(self._shards[rank][IMAGE]["pickle"], storage_of)
        if not isinstance(contents, dict) or (rank > 0 and STATE not in contents):
            raise CorruptCheckpointError(
                f"{self._paths[rank].name} holds values that this version of Cairn cannot read"
            )
        return contents

    def _check_ids(self) -> None:
        first = self.ids[0]
        if first.world_size != len(self.ids):
            raise CorruptCheckpointError(f"it has {len(self.ids)} shards, and {first.world_size} processes saved it")
        for rank, (path, found) in enumerate(zip(self._paths, self.ids, strict=True)):
            if found.rank != rank:
                raise CorruptCheckpointError(f"{path.name} is the shard of rank {found.rank}")
            for key in _SAME:
                if getattr(found, key) != getattr(first, key):
                    other = self._paths[0].name
                    raise CorruptCheckpointError(f"{path.name} belongs to another save than {other}: its {key} differs")

    def _add_pieces(self, path: Path, shard: Mapping[str, Any]) -> None:
        for name, (first, num_bytes, data, *runs) in shard[PIECES].items():
            tile = Tile(first, runs[0], runs[1], data.numel() // runs[0]) if runs else None
            self.parts.setdefault(name, []).append(Part(first, data, tile))
            if self.num_bytes.setdefault(name, num_bytes) != num_bytes:
                raise CorruptCheckpointError(f"{path.name} has another size of {name} than the shards before it")


def _read(path: Path) -> dict[str, Any]:
    try:
        shard = decode.read(path)
    except OSError as error:
        raise CorruptCheckpointError(f"{path.name} cannot be read ({error.strerror or error})") from error
    if not isinstance(shard, dict) or not isinstance(shard.get(HEADER), dict):
        raise CorruptCheckpointError(f"{path.name} is not a shard of a checkpoint")
    version = shard[HEADER].get("format")
    if isinstance(version, int) and version > FORMAT:
        raise NewerFormatError(
            f"{path.name} has format {version}, and this version of Cairn reads shards up to {FORMAT}: update Cairn"
        )
    if not _has_form(shard):
        raise CorruptCheckpointError(f"{path.name} has another form than a shard")
    return shard


def _has_form(shard: Mapping[str, Any]) -> bool:
    """Whether what comes after the header is what `ShardEncoder` writes."""
    match shard:
        case {"pieces": dict() as pieces, "image": {"pickle": bytes(), "names": list() as names, "own": dict() as own}}:
            are_named = all(name is None or isinstance(name, str) for name in names)
            return are_named and all(map(_is_piece, pieces.values())) and all(map(_are_bytes, own.values()))
    return False


def _is_piece(piece: Any) -> bool:
    match piece:
        case [int(), int(), data]:
            return _are_bytes(data)
        case [int(), int(), data, int() as run_bytes, int() as row_bytes]:
            return _are_bytes(data) and 0 < run_bytes <= row_bytes and data.numel() % run_bytes == 0
    return False


def _are_whole(parts: Sequence[Part], num_bytes: int) -> bool:
    """Return whether parts, in order, have each byte of a storage once."""
    found = [part.tile for part in parts if part.tile is not None]
    if found:
        return len(found) == len(parts) and tiles.are_whole(found, num_bytes)
    ends = [0, *(part.end for part in parts)]
    return [part.first for part in parts] == ends[:-1] and ends[-1] == num_bytes


def _are_bytes(data: Any) -> bool:
    return isinstance(data, Tensor) and data.dtype is torch.uint8 and data.dim() == 1 and data.is_contiguous()


def _id_of(path: Path, shard: Mapping[str, Any]) -> ShardId:
    try:
        return records.read(ShardId, shard[HEADER])
    except records.RecordError as error:
        raise CorruptCheckpointError(f"{path.name} has another form than a shard ({error})") from error


def _storage(data: Tensor) -> torch.UntypedStorage:
    """The storage that has exactly the bytes of a tensor of bytes."""
    whole: Any = data.untyped_storage()
    first = data.storage_offset()
    return whole if first == 0 and whole.nbytes() == data.numel() else whole[first : first + data.numel()]


def _merged(contents: Mapping[str, Any], tables: Sequence[Sequence[Any]]) -> list[Any]:
    """Add the forms of the states of ranks to the table of the whole, where `forms.to_plain` would have put them."""
    table, ours = list(contents[OURS].get(TABLE, [])), list(contents[OURS])
    more = [
        [[OURS, RANKS, rank, *path[1:]], kind, argument]
        for rank, entries in enumerate(tables, 1)
        for path, kind, argument in entries
    ]
    order = list(contents)

    def place(path: Sequence[Any]) -> tuple[int, int]:
        return order.index(path[0]), ours.index(path[1]) if path[0] == OURS else 0

    if more:
        here = (order.index(OURS), ours.index(RANKS))
        at = sum(place(path) <= here for path, _, _ in table)
        table[at:at] = more
    return table
