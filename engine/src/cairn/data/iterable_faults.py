"""What a user reads about an iterable whose state is not a position."""

from __future__ import annotations

from cairn.data.iterable import GENERATOR
from cairn.errors import DataError


def unmoved(name: str) -> DataError:
    """Return the error about a state that does not change from batch to batch.

    Args:
        name: Class of the iterable.
    """
    return DataError(
        f"The state_dict() of the iterable {name} is the same after its first and its second batch, so it is not a"
        f" position: let it hold how far the iterable is, or set replay=True to start again from the beginning after a"
        f" resume.",
        parameter="replay",
    )


def about(fault: str, name: str) -> str:
    """Return the warning about a fault that `StatefulBatches` has found.

    Args:
        fault: `GENERATOR` and the path of a generator, or the path of a buffer.
        name: Class of the iterable.
    """
    if fault.startswith(GENERATOR):
        path = fault.removeprefix(GENERATOR)
        return (
            f"{name} draws from {path} while it is iterated, and its state_dict() does not hold that"
            f" generator: a resumed run would draw other numbers. Save its state in state_dict(), or draw from the"
            f" global generators, which are seeded for each batch."
        )
    return (
        f"{fault} holds samples that are read and not yet delivered, and the state_dict() of {name} does not hold them:"
        f" a resumed run would skip them. Save them in state_dict(), or shuffle without a buffer."
    )
