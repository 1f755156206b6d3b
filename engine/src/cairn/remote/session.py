"""The connection of one process start to its mirror: open before training, or once the store answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from cairn.errors import CairnError, ConfigError, RemoteError, first_line
from cairn.remote import bounded, listed, owner
from cairn.remote.address import Address
from cairn.remote.objects import Objects
from cairn.remote.owner import Attempt

log = logging.getLogger(__name__)

Check = Callable[[Objects], None]


class Session:
    """What a start needs to upload.

    Args:
        where: Address of the mirror.
        run: Id of the run.
        name: Name of its run directory, for messages.
    """

    def __init__(self, where: Address, run: str, name: str) -> None:
        self.address, self.run, self._name = where, run, name
        self._attempt = Attempt()
        self._objects: Objects | None = None
        self._has_ended = False

    @property
    def is_open(self) -> bool:
        """Whether the mirror was reached, and belongs to the run."""
        return self._objects is not None

    @property
    def objects(self) -> Objects:
        """The objects of the mirror, once it is open."""
        assert self._objects is not None
        return self._objects

    def open(self, check: Check = lambda objects: None) -> None:
        """Reach the mirror, claim it for the run, and let earlier starts of the run stop uploading.

        Args:
            check: Raises an error if this start must not upload.

        Raises:
            ConfigError: It belongs to another run.
            RemoteError: It cannot be used.
        """
        objects = Objects(self.address)
        objects.check()
        bounded.check()
        owner.claim(objects, self.run, self._name)
        check(objects)
        bounded.check()
        self._attempt.begin(objects)
        self._objects = objects

    def go_on(self, check: Check) -> None:
        """Open the mirror, unless it is open; another fit of the same process goes on after `end`.

        Args:
            check: As for `open`.

        Raises:
            ConfigError: It belongs to another run.
            TakenOver: A later start has begun.
            RemoteError: It cannot be used.
        """
        if not self.is_open:
            self.open(check)
        elif self._has_ended:
            self.check()
            self._attempt.begin(self.objects)
        self._has_ended = False

    def end(self) -> None:
        """Say in the mirror that this start uploads nothing more; what it has uploaded does not depend on that."""
        self._has_ended = True
        try:
            self._attempt.end(self.objects)
        except CairnError as error:
            log.debug("%s was not ended: %s", self.address, first_line(error))

    def check(self) -> None:
        """Check that no later start has begun.

        Raises:
            TakenOver: One has.
            RemoteError: The mirror cannot be used.
        """
        self._attempt.check(self.objects)


def _check_is_empty(objects: Objects) -> None:
    """Check that a mirror holds no checkpoint: a start without one would replace them.

    Raises:
        ConfigError: It does.
        RemoteError: It cannot be used.
    """
    if stems := listed.look(objects).stems:
        raise ConfigError(
            f"{objects.address} holds checkpoints of this run (the newest is {stems[-1].name}), and this start begins "
            f"without one: pass fit(..., ckpt_path=checkpoints.resume()), or choose another address.",
            parameter="mirror",
        )


def open_at_start(session: Session, has_checkpoint: bool, trouble: str) -> None:
    """Open a session before training; if the store does not answer, the thread that uploads opens it later.

    Args:
        session: The session.
        has_checkpoint: Whether the run goes on from a checkpoint on the local disk.
        trouble: Why the store could not be reached a moment ago: it is not waited for again.

    Raises:
        ConfigError: The bucket is missing, access is refused, the mirror belongs to another run, or it cannot be
            reached and the run would begin without knowing what is in it.
    """
    try:
        if trouble and has_checkpoint:
            log.info("Uploads to %s are tried again while the run trains.", session.address)
            return
        open_it = session.open if has_checkpoint else partial(session.open, _check_is_empty)
        bounded.call(open_it, session.address, bounded.START_S)
    except RemoteError as error:
        if error.kind != "unavailable":
            raise ConfigError(str(error), parameter="mirror") from error
        if not has_checkpoint:
            raise ConfigError(
                f"{first_line(error)}. There is no checkpoint on this disk, so the run would start over although the "
                f"mirror may hold one. Try again later, or train without a mirror.",
                parameter="mirror",
            ) from error
        log.warning("%s. The run goes on from the local disk; uploads are tried again.", first_line(error))
