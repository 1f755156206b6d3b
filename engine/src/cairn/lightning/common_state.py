"""Whether the ranks still hold the same state, where each of them is about to write a part of it into a shard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cairn.lightning.agreement import Agreement
from cairn.lightning.saved import ranks
from cairn.store.hang_reports import name_ranks
from cairn.writing.sharded.sample import Sample, take

_OPTIMIZERS = "optimizer_states"
_ORDER = "the order or the device of the tensors"
"""What differs if no value does."""


def sample(contents: Mapping[str, Any], tensors: Mapping[str, Tensor], layout: str, save: str) -> Sample:
    """Take a sample of what all ranks should have in common.

    Args:
        contents: Those of a checkpoint that are equal on all ranks.
        tensors: Their tensors.
        layout: Digest of how the state is cut.
        save: Id of the save.
    """
    plain = ranks.plain_values(contents.get(_OPTIMIZERS, []), _OPTIMIZERS)
    return take(tensors, {"the division into shards": layout, **plain}, save)


def difference(agreement: Agreement, mine: Sample) -> str:
    """Return what differs between ranks. All ranks call this, if something does.

    Args:
        agreement: Between the ranks.
        mine: The sample of this rank.

    Returns:
        A clause that names ranks and a value, on all ranks.
    """
    own = mine.checksums()
    of_rank_0 = agreement.share(own if agreement.leads else {})
    names = ranks.differing(own, of_rank_0)
    found = agreement.gather((names[:1] or [_ORDER], len(names)))
    if not agreement.leads:
        return agreement.share("")
    others = [rank for rank, (_, number) in enumerate(found) if number] or [*range(1, len(found))]
    (name,), number = found[others[0]]
    shown = f"{name} and {number - 1} more" if number > 1 else name
    verb = "differ" if number > 1 or len(others) > 1 else "differs"
    return agreement.share(f"{shown} of {name_ranks(others)} {verb} from rank 0")
