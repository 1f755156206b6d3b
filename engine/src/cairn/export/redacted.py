"""A configuration without passwords, tokens and keys: what is exported is given to other people."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_WORDS = r"passwords?|passwd|passphrase|secrets?|credentials?|api_?keys?|access_?keys?|private_?keys?|secret_?keys?"
_TOKENS = r"(?:hf|hub|api|access|auth|bearer|refresh|session|github|gitlab|wandb|use_auth)_tokens?"
_NAME = re.compile(rf"(?:.*[_.-])?(?:{_WORDS}|{_TOKENS})(?:[_.-].*)?|token|.*authorization", re.IGNORECASE)
"""Names of secrets. `pad_token`, `num_tokens` and `tokenizer` are not among them."""
_VARIABLE = re.compile(rf"(?:.*_)?(?:{_WORDS}|TOKEN|AUTH|DSN)", re.IGNORECASE)
_VALUE = re.compile(
    r"(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abps]-|wandb_v1_)[\w-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""Secrets that are known by their form."""
_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@]+@")
_IN_QUERY = re.compile(
    r"pass|pwd|token|secret|credential|signature|accesskey|^sig$|(?:^|[_-])(?:api)?key$", re.IGNORECASE
)
"""Names of secrets in the query of an address, such as a signed one of an object store."""
_SHORTEST = 8
"""Values of environment variables that are shorter are not searched: they occur by chance."""


def redact(value: Any) -> tuple[Any, list[str]]:
    """Return plain values with null in place of each secret, and their dotted keys.

    A secret is a text under a name such as `api_key`, one with the form of a known kind of key, one that contains the
    value of an environment variable such as `WANDB_API_KEY`, an address with a token or a signature in its query, or
    the user and password in an address.

    Args:
        value: Plain values: mappings, lists, texts, numbers. They are not changed.
    """
    found: list[str] = []
    known = [text for name, text in os.environ.items() if len(text) >= _SHORTEST and _VARIABLE.fullmatch(name)]
    return _redacted(value, "", known, found), found


def _redacted(value: Any, key: str, known: list[str], found: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _redacted(item, f"{key}.{name}" if key else str(name), known, found) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted(item, f"{key}.{number}", known, found) for number, item in enumerate(value)]
    if not isinstance(value, str) or not value:
        return value
    is_named = any(_NAME.fullmatch(part) for part in key.split("."))
    if is_named or _VALUE.search(value) or _is_signed(value) or any(text in value for text in known):
        found.append(key)
        return None
    if _IN_ADDRESS.search(value):
        found.append(key)
        return _IN_ADDRESS.sub("", value)
    return value


def _is_signed(value: str) -> bool:
    place, _, query = value.partition("?")
    pairs = (part.partition("=") for part in query.split("&"))
    return "://" in place and any(text and _IN_QUERY.search(name) for name, _, text in pairs)
