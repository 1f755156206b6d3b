"""The contents of one shard, as they are encoded and written.

    cairn_shard   which save it belongs to, and whose it is
    pieces        {name of a storage: [first byte, size of the whole storage, the bytes]}
                  and of a tile, whose bytes are runs:  [..., length of a run, distance from one to the next]
    image         a pickle, as `Encoder` makes it, and where the storages that it numbers are:
                      names   for each number the name of a storage in pieces of all shards, or None
                      own     {number: the bytes} of those without a name

The image of rank 0 is that of the whole checkpoint, as its single file would hold it. The others hold the state of
their rank, which belongs into the list of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from cairn.errors import UnsafeStateError
from cairn.writing.encode import Apart, Encoded, Encoder
from cairn.writing.form_encoder import FormEncoder
from cairn.writing.forms import OURS
from cairn.writing.sharded.cuts import Range
from cairn.writing.sharded.deal import Deal, bytes_of, place_of

FORMAT = 1
HEADER, PIECES, IMAGE = "cairn_shard", "pieces", "image"
"""Keys of a shard. Part of the file format."""
RANKS = "ranks"
"""Key, under `OURS`, of the list of the states of ranks in a checkpoint."""
STATE = "state"
"""Key of the state of a rank in the image of a shard other than the first."""


@dataclass(frozen=True)
class ShardId:
    """Which save a shard belongs to, and whose it is.

    Attributes:
        rank: The rank that has written it.
        world_size: Number of shards.
        run: Id of the run.
        attempt: Random name of this one save: two saves at one position differ in it.
        position: Position of the run.
        layout: See `Deal.layout`.
        format: Version of the format.
    """

    rank: int
    world_size: int
    run: str
    attempt: str
    position: Mapping[str, int] = field(default_factory=dict)
    layout: str = ""
    format: int = FORMAT


class ShardEncoder:
    """Encodes the shards of one rank, one save after the other."""

    def __init__(self) -> None:
        self._image, self._shard = FormEncoder(stand_ins=True), Encoder()

    def encode(self, contents: Mapping[str, Any], deal: Deal, shard: ShardId) -> Encoded:
        """Encode a shard; its tensors are referred to, not copied.

        Args:
            contents: On rank 0, the contents of the checkpoint, with the state of rank 0 alone in their list of ranks;
                on other ranks, the state of the rank. A tensor that no rank has as a whole is replaced by one of the
                device `meta`, with the shape of the whole, whose place the deal names.
            deal: What this rank writes of the storages that are dealt out.
            shard: Whose shard this is; its layout is that of the deal.

        Returns:
            What a writer writes, as of a single file.

        Raises:
            UnsafeStateError: A value has no form that comes back as what it was; the message names the path to it.
        """
        image = self._image.encode(_transferred(contents, shard))
        # A storage without bytes is in no piece: the image has it.
        names = [
            deal.names.get((place[0], size)) if size else None
            for place, size in zip(_places(image), image.sizes, strict=True)
        ]
        for number, (storage, size, name) in enumerate(zip(image.storages, image.sizes, names, strict=True)):
            if storage.is_meta and size and name is None:
                raise UnsafeStateError(f"checkpoint: no rank writes the bytes of storage {number}: deal it out.")
        own = {
            number: bytes_of(storage, Range(number, 0, size)) if size else torch.empty(0, dtype=torch.uint8)
            for number, (storage, size, name) in enumerate(zip(image.storages, image.sizes, names, strict=True))
            if name is None
        }
        state = {
            HEADER: {**asdict(shard), "position": dict(shard.position), "layout": deal.layout},
            PIECES: {item.name: [item.first, item.num_bytes, item.data, *(item.runs or ())] for item in deal.pieces},
            IMAGE: {"pickle": image.pickle, "names": names, "own": own},
        }
        return self._shard.encode(state, "shard")


def _transferred(contents: Mapping[str, Any], shard: ShardId) -> Mapping[str, Any]:
    """The image of a rank. The states of ranks are as rank 0 would have received them for a single file."""
    if shard.rank:
        return {STATE: Apart(contents)}
    ours = contents.get(OURS)
    if shard.world_size == 1 or not isinstance(ours, Mapping) or RANKS not in ours:
        return contents
    return {**contents, OURS: {**ours, RANKS: [Apart(state) for state in ours[RANKS]]}}


def _places(image: Encoded) -> list[tuple[int, int]]:
    return [place_of(storage) for storage in image.storages]
