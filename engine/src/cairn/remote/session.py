"""The connection of one process start to its mirror: open before training, or once the store answers."""

from __future__ import annotations

from cairn.errors import ConfigError
from cairn.remote import bounded, listed, owner
from cairn.remote.address import Address
from cairn.remote.objects import Objects
from cairn.remote.owner import Attempt


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

    @property
    def is_open(self) -> bool:
        """Whether the mirror was reached, and belongs to the run."""
        return self._objects is not None

    @property
    def objects(self) -> Objects:
        """The objects of the mirror, once it is open."""
        assert self._objects is not None
        return self._objects

    def open(self) -> None:
        """Reach the mirror, claim it for the run, and let earlier starts of the run stop uploading.

        Raises:
            ConfigError: It belongs to another run.
            RemoteError: It cannot be used.
        """
        objects = Objects(self.address)
        objects.check()
        owner.claim(objects, self.run, self._name)
        bounded.check()  # if this call was given up long ago, another start may be at work by now
        self._attempt.begin(objects)
        self._objects = objects

    def open_empty(self) -> None:
        """Open a mirror that holds no checkpoint: this start begins without one, and would replace them.

        Raises:
            ConfigError: It holds one, or belongs to another run.
            RemoteError: It cannot be used.
        """
        self.open()
        if stems := listed.look(self.objects).stems:
            raise ConfigError(
                f"{self.address} holds checkpoints of this run (the newest is {stems[-1].name}), and this start begins "
                f"without one: pass fit(..., ckpt_path=checkpoints.resume()), or choose another address.",
                parameter="mirror",
            )

    def check(self) -> None:
        """Check that no later start has begun.

        Raises:
            TakenOver: One has.
            RemoteError: The mirror cannot be used.
        """
        self._attempt.check(self.objects)
