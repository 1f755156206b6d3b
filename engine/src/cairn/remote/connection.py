"""The way of a request to an object store: its errors in the words of the library, and renewed credentials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from cairn.errors import CairnError, RemoteError
from cairn.remote import opened, trouble
from cairn.remote.address import Address

_T = TypeVar("_T")


class Connection:
    """The store of an address. Methods may be called from several threads.

    Args:
        address: Where the objects are.

    Raises:
        ConfigError: The client is not installed.
        RemoteError: The environment does not say how to reach the store.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.client = opened.client()
        self._store: Any = None
        self._open()

    def call(self, request: Callable[[Any], _T]) -> _T:
        """Make a request; once more with credentials that are read again, if the store refuses those of before.

        Args:
            request: Called with the store of the client.

        Raises:
            AlreadyExistsError: That of the client: an object that was to be created exists.
            RemoteError: The request failed.
        """
        try:
            return self._try(request)
        except RemoteError as error:
            if error.kind != "refused" or self.address.scheme in ("file", "memory"):
                raise
        self._open()
        return self._try(request)

    def _try(self, request: Callable[[Any], _T]) -> _T:
        try:
            return request(self._store)
        except self.client.exceptions.AlreadyExistsError:
            raise
        except (self.client.exceptions.BaseError, OSError, ValueError) as error:
            raise trouble.explain(error, self.address) from None  # the text of the client may contain a token

    def _open(self) -> None:
        try:
            self._store = opened.store(self.address)
        except CairnError:
            raise
        except Exception as error:
            raise trouble.explain(error, self.address) from None
