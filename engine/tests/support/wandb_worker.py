"""Wait for the thread that talks to W&B."""

import time

from cairn.trackers.worker import Worker


def wait_until_idle(worker: Worker, limit_s: float = 60.0) -> None:
    """Wait until the worker has handled every request so far.

    Args:
        worker: A worker that has not been asked to finish.
        limit_s: Maximum time, in seconds.

    Raises:
        TimeoutError: The worker was still busy.
    """
    end = time.monotonic() + limit_s
    while not _is_idle(worker):
        if time.monotonic() > end:
            raise TimeoutError(f"the worker was still busy after {limit_s:g} s")
        time.sleep(0.002)


def _is_idle(worker: Worker) -> bool:
    # The worker takes what is due and starts to wait under this lock, so that no request falls in between.
    with worker.thread._changed:
        return not worker.thread._due and bool(worker.thread._changed._waiters)
