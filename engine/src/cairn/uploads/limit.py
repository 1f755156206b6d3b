"""The limit for what waits to be uploaded: a server that is down for a day must not fill the disk."""

from __future__ import annotations

from cairn.types import Saved
from cairn.units import format_bytes
from cairn.uploads.once import ErrorsOnce
from cairn.uploads.outbox import Outbox


def hold(saved: Saved, outbox: Outbox, limit_bytes: int | None, errors: ErrorsOnce, otherwise: str) -> bool:
    """Keep the bytes of a checkpoint until they are uploaded, within a limit.

    Args:
        saved: A checkpoint in the directory.
        outbox: Keeps its bytes.
        limit_bytes: Maximum size of what waits; None: no limit.
        errors: Logs why this is not possible.
        otherwise: What happens to a checkpoint beyond the limit, for the message.

    Returns:
        Whether the bytes are kept.
    """
    if limit_bytes is not None and outbox.num_bytes + saved.num_bytes > limit_bytes:
        text = f"more than {format_bytes(limit_bytes)} wait to be uploaded: {saved.name} {otherwise}"
        errors.log("queue", text)
        return False
    try:
        outbox.add(saved)
    except OSError as error:
        errors.log("outbox", f"{saved.name} could not be kept for its upload ({error.strerror})")
        return False
    return True
