"""Credentials in the address of a server: refused where they would be stored or logged, and hidden in messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_URL = re.compile(r"[a-zA-Z][\w+.-]*://\S+")
_SECRET = re.compile(r"pass|pwd|token|secret|key|credential|signature|^sig$", re.IGNORECASE)
_HIDDEN = "***"
SECRET = (
    "{key} holds a password or a token, and would be stored with the run: set it in the environment or in .env "
    "(MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; TRACKIO_SERVER_URL, or "
    "TRACKIO_WRITE_TOKEN)."
)
"""Message about a key whose value must not be stored. It does not repeat the value."""


def has_secret(text: str) -> bool:
    """Whether a text is an address that holds a password or a token."""
    if "://" not in text:
        return False
    scheme, _, rest = text.partition("://")
    # A password may hold a slash, so that all of the text before the last @ is looked at.
    user, at, _ = rest.rpartition("@")
    if at and (":" in user or scheme.lower().startswith("http")):
        return True
    try:
        query = urlsplit(text).query
    except ValueError:
        return False
    return any(_SECRET.search(name) for name, _ in parse_qsl(query, keep_blank_values=True))


def keys_with_secrets(config: Any, key: str = "") -> Iterable[str]:
    """Yield the keys of a configuration whose values are addresses with credentials.

    Args:
        config: Nested mappings and lists.
        key: Key of the configuration itself.
    """
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from keys_with_secrets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple):
        for number, value in enumerate(config):
            yield from keys_with_secrets(value, f"{key}.{number}")
    elif isinstance(config, str) and has_secret(config):
        yield key


def hidden(text: str) -> str:
    """A text without the credentials of the addresses in it."""
    return _URL.sub(lambda found: _without_secret(found[0]), text)


def _without_secret(address: str) -> str:
    scheme, _, rest = address.partition("://")
    if "@" in rest:
        rest = f"{_HIDDEN}@{rest.rpartition('@')[2]}"
    place, mark, query = rest.partition("?")
    if mark and any(_SECRET.search(part.partition("=")[0]) for part in query.split("&")):
        query = _HIDDEN
    return f"{scheme}://{place}{mark}{query}"
