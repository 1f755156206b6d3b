"""Where the client finds credentials that it does not look for itself: profiles and files of AWS.

The client reads the environment and asks the machine for its role. It does not read `~/.aws`: with boto3 installed,
that is asked (profiles, single sign-on, assumed roles); without it, keys in the shared file are read here. Both are
read again every few minutes, because a script may renew them while a run trains.
"""

from __future__ import annotations

import configparser
import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cairn import opening

_TTL = timedelta(minutes=10)
"""After this time credentials are read again, unless the store refuses them earlier."""
_OF_THE_CLIENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
"""Environment variables with which the client finds the credentials itself."""

Provider = Callable[[], Mapping[str, Any]]


def aws_provider() -> Provider | None:
    """Return what gives the client its credentials for S3; None: it finds them itself."""
    if any(os.environ.get(name) for name in _OF_THE_CLIENT):
        return None
    return _from_boto3() or _from_file()


def aws_region() -> str | None:
    """Return the region of the profile; None if the environment names one, or no profile does."""
    if os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        return None
    files = _read(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config")
    name = _profile()
    for section in (name, f"profile {name}"):
        if region := files.get(section, "region", fallback=""):
            return region
    return None


def quiet_boto3() -> None:
    """Let boto3 not log, each time that it is asked, where it has found credentials."""
    logging.getLogger("botocore.credentials").setLevel(logging.WARNING)


def _from_boto3() -> Provider | None:
    try:
        import boto3
        from botocore.credentials import RefreshableCredentials
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return None
    quiet_boto3()
    try:
        found = boto3.Session().get_credentials()
    except BotoCoreError:
        return None
    if found is None or found.method == "iam-role":  # the client asks the machine itself
        return None

    def provide() -> Mapping[str, Any]:
        # Some kinds renew themselves; a new session reads the others again.
        current = found if isinstance(found, RefreshableCredentials) else boto3.Session().get_credentials() or found
        frozen = current.get_frozen_credentials()
        return _as_the_client_takes_them(frozen.access_key, frozen.secret_key, frozen.token)

    return provide


def _from_file() -> Provider | None:
    def provide() -> Mapping[str, Any]:
        files = _read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
        values = dict(files.items(_profile())) if files.has_section(_profile()) else {}
        key, secret = values.get("aws_access_key_id", ""), values.get("aws_secret_access_key", "")
        return _as_the_client_takes_them(key, secret, values.get("aws_session_token"))

    found = provide()
    return provide if found["access_key_id"] and found["secret_access_key"] else None


def _as_the_client_takes_them(key: str, secret: str, token: str | None) -> Mapping[str, Any]:
    expires = datetime.now(UTC) + _TTL
    return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": expires}


def _read(path: str) -> configparser.RawConfigParser:
    found = configparser.RawConfigParser()
    try:
        found.read_string(opening.read_text(Path(path).expanduser()))
    except (OSError, configparser.Error, UnicodeDecodeError, RuntimeError):  # the request that follows says what lacks
        return configparser.RawConfigParser()
    return found


def _profile() -> str:
    return os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
