"""Turns an error of an object store into one sentence: what happened, then what to do.

The text of the client is never passed on as it is: it contains the URL of the request, which may contain a token.
"""

from __future__ import annotations

import os
import re

from cairn.errors import RemoteError, RemoteKind
from cairn.remote.address import CREDENTIALS, Address

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_DELETE_CODE = re.compile(r"DeleteObjects request failed for key .*? \(code: (\w{1,60})\)", re.DOTALL)
"""S3 answers 200 to a request that deletes several objects, and names an error for each."""
_OF_CODE = {"AccessDenied": 403, "SlowDown": 503, "ServiceUnavailable": 503, "InternalError": 500}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_HTTP = re.compile(r"HttpError \{\s*kind: (\w+)")
_NO_CREDENTIALS = re.compile(
    r"169\.254\.169\.254|metadata\.google\.internal|token request|No credentials|MissingAccount|Account must be|"
    r"/latest/api/token|computeMetadata|InstanceMetadata",
    re.IGNORECASE,
)
_NOT_RENEWED = "External AWS credential provider"
"""What the client says where `credentials` could not give it any."""
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException", "RequestExpired")
_SKEWED = ("RequestTimeTooSkewed",)
_FULL = ("QuotaExceeded", "InsufficientStorage", "StorageFull", "AccountQuotaExceeded", "Quota exceeded")
_FULL_ERRNO = {28, 122}  # ENOSPC, EDQUOT
_REFUSED_ERRNO = {1, 13, 30}  # EPERM, EACCES, EROFS
_MISUSED = ("InvalidBucketName", "AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraint")
_TRANSIENT = {408, 409, 425, 429}


def explain(error: BaseException, address: Address) -> RemoteError:
    """Return the error of the library for one of the client.

    Args:
        error: What the client raised.
        address: The mirror, for the message.
    """
    text = str(error)
    status = _number(_STATUS, text)
    found = _CODE.search(text) or _DELETE_CODE.search(text)
    code = found[1] if found else ""
    status = _OF_CODE.get(code) if status is None else status
    number = _number(_OS_ERROR, text) or getattr(error, "errno", None)
    if any(word in text for word in _NO_BUCKET):
        what = "container" if address.scheme == "az" else "bucket"
        return _made("no_bucket", f"The {what} of {address} does not exist: create it, or correct the address.")
    if isinstance(error, FileNotFoundError):
        return _made("missing", f"An object of {address} does not exist: it was deleted, or never uploaded.")
    if address.scheme == "file" and number is not None:
        return _of_a_disk(number, address)
    if any(word in text for word in _FULL) or status == 507:
        return _made("full", f"{address} has no space left{_named(status, code)}: free some, or raise the quota.")
    if status is None or _NO_CREDENTIALS.search(text):
        return _without_status(error, text, address)
    return _of_a_status(status, code, address)


def _of_a_status(status: int, code: str, address: Address) -> RemoteError:
    named = _named(status, code)
    if code in _EXPIRED:
        return _made("refused", f"The credentials for {address} have expired{named}: renew them.")
    if code in _SKEWED:
        return _made(
            "refused", f"{address} refuses requests because the clock of this machine is wrong{named}: set it."
        )
    if status in (301, 307) or code in _MISUSED:
        cure = "set AWS_REGION or AWS_ENDPOINT_URL" if address.scheme == "s3" else "correct the address"
        return _made("misused", f"{address} cannot be used like this{named}: check the name of the bucket, and {cure}.")
    if status in (401, 403):
        return _made("refused", f"{address} refuses access{named}: check the credentials and their rights.")
    if status == 501:
        what = "a request that a mirror needs, such as to create an object only if there is none"
        return _made("misused", f"{address} does not support {what}{named}: use another store.")
    if status >= 500 or status in _TRANSIENT:
        return _made("unavailable", f"{address} does not work at the moment{named}: try again later.")
    if status == 404:
        return _made("missing", f"An object of {address} does not exist{named}: it was deleted, or never uploaded.")
    return _made("misused", f"{address} refuses a request{named}: check the address and the settings of the store.")


def _without_status(error: BaseException, text: str, address: Address) -> RemoteError:
    if _NOT_RENEWED in text:
        return _made(
            "refused",
            f"The credentials for {address} cannot be renewed: log in again, as with aws sso login, or correct "
            f"AWS_PROFILE.",
        )
    if _NO_CREDENTIALS.search(text):
        names = CREDENTIALS.get(address.scheme, "them")
        return _made(
            "refused",
            f"There are no credentials for {address}: set {names}, or give this machine a role that may use it.",
        )
    if "builder error" in text or "URL scheme is not allowed" in text:
        return _made("misused", f"The endpoint of {address} is not a valid URL: correct it in the environment.")
    if isinstance(error, ValueError):
        return _made("misused", f"{address} cannot be used: a name in it is not allowed in an object store.")
    kind = _HTTP.search(text)
    why = {"Connect": "no connection", "Timeout": "no answer in time"}.get(
        kind[1] if kind else "", "the request failed"
    )
    endpoint = " and AWS_ENDPOINT_URL" if address.scheme == "s3" else ""
    return _made("unavailable", f"{address} cannot be reached ({why}): check the network{endpoint}.")


def _of_a_disk(number: int, address: Address) -> RemoteError:
    why = os.strerror(number)
    if number in _FULL_ERRNO:
        return _made("full", f"{address} has no space left ({why}): free some.")
    if number in _REFUSED_ERRNO:
        return _made("refused", f"{address} refuses access ({why}): check the rights of the directory.")
    return _made("unavailable", f"{address} cannot be used ({why}): check the disk and the path.")


def _named(status: int | None, code: str) -> str:
    parts = [str(part) for part in (status, code) if part]
    return f" ({' '.join(parts)})" if parts else ""


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(found[1]) if found else None


def _made(kind: RemoteKind, message: str) -> RemoteError:
    return RemoteError(message, kind=kind)
