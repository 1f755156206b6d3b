"""Opens the client of an object store for an address: its time limits, its retries and its credentials."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from cairn import opening
from cairn.errors import ConfigError
from cairn.extras import how_to_install
from cairn.remote import credentials
from cairn.remote.address import Address

REQUEST_S = 120
"""Maximum time of one request, which transfers at most a few megabytes: a server that hangs is given up."""
_CONNECT_S = 10
_RETRY_S = 60
_NUM_RETRIES = 5
_ENVIRONMENT = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
_NOT_ENDPOINTS = re.compile("CREDENTIALS|METADATA|PROXY|STS")
_MEMORY: dict[str, Any] = {}
"""The stores of `memory://`, by name: they last as long as this process."""


_process = 0
"""Id of the process that has used the client; 0: none has."""


def client() -> Any:
    """Return the client's module.

    Raises:
        ConfigError: It is not installed, or this process was forked from one that has used it: the two would share
            the queue of network events, and the client of the other process would end in a segmentation fault.
    """
    global _process
    if _process not in (0, os.getpid()):
        raise ConfigError(
            f"This process was forked from process {_process} after that had used an object store, which its client "
            f"does not survive. Start processes with spawn (for ranks: strategy='ddp'), or fork them before the first "
            f"use of a mirror."
        )
    try:
        import obstore
        import obstore.store
    except ImportError as error:
        raise ConfigError(f"Addresses of object stores need obstore: {how_to_install('remote')}") from error
    _process = os.getpid()
    return obstore


def store(address: Address) -> Any:
    """Return a store of the client, whose keys are those of the bucket.

    Args:
        address: Only the scheme and the bucket count. Of `file`, keys are paths below `/`.

    Raises:
        ConfigError: The client is not installed.
        Exception: The client cannot use what the environment says, see `trouble.explain`.
    """
    stores = client().store
    if address.scheme == "memory":
        return _MEMORY.setdefault(address.bucket, stores.MemoryStore())
    if address.scheme == "file":
        return stores.LocalStore(prefix="/")
    backoff = {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=5), "base": 2}
    retry = {"backoff": backoff, "max_retries": _NUM_RETRIES, "retry_timeout": timedelta(seconds=_RETRY_S)}
    limits = {"connect_timeout": f"{_CONNECT_S}s", "timeout": f"{REQUEST_S}s", "allow_http": _names_plain_http(address)}
    options: dict[str, Any] = {"client_options": limits, "retry_config": retry}
    if address.scheme == "gs":
        return stores.GCSStore(address.bucket, **options)
    if address.scheme == "az":
        return stores.AzureStore(address.bucket, **options)
    if (provider := credentials.aws_provider()) is not None:
        options["credential_provider"] = provider
    if (region := credentials.aws_region()) is not None:
        options["region"] = region
    return stores.S3Store(address.bucket, **options)


def _names_plain_http(address: Address) -> bool:
    """Whether the environment names an endpoint without TLS, such as a server in the local network."""
    names = [name for name in os.environ if name.upper().startswith(_ENVIRONMENT[address.scheme])]
    if any("http://" in os.environ[name] for name in names if not _NOT_ENDPOINTS.search(name.upper())):
        return True
    if os.environ.get("AZURE_STORAGE_USE_EMULATOR") or os.environ.get("AWS_ALLOW_HTTP"):
        return True
    # A key file of Google may name another server.
    files = [os.environ.get(name) for name in ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH")]
    return any(_mentions_plain_http(Path(file)) for file in files if file) if address.scheme == "gs" else False


def _mentions_plain_http(file: Path) -> bool:
    try:
        return '"gcs_base_url": "http://' in opening.read_text(file)
    except (OSError, UnicodeDecodeError):
        return False
