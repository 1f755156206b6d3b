"""Removes the pieces of large uploads that were never completed, such as those of a killed process.

No listing of objects shows them, and the client has no request for them: boto3 is asked, if it is installed. Without
it, and in other stores than S3, a rule of the bucket has to remove them (see docs/mirror.md). In a directory they are
files, which are removed here.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from cairn.errors import RemoteError, first_line
from cairn.remote import credentials, layout
from cairn.remote.address import Address

log = logging.getLogger(__name__)

_CONNECT_S, _READ_S = 10, 60


def abort(address: Address) -> int:
    """Abort the open uploads of a mirror. Call it while nothing is being uploaded there.

    A refusal is only logged for developers: such pieces cost money, and do no harm.

    Args:
        address: The mirror. Uploads of other programs are left alone.

    Returns:
        Their number.

    Raises:
        RemoteError: The store cannot be reached: ask it again later.
    """
    if address.scheme == "file":
        return _remove_staged(address)
    if address.scheme != "s3":
        return 0
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return 0
    credentials.quiet_boto3()
    limits = Config(connect_timeout=_CONNECT_S, read_timeout=_READ_S, retries={"max_attempts": 2})
    try:
        # The names that the client reads, and boto3 does not.
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT")
        region = os.environ.get("AWS_REGION") or credentials.aws_region()
        # A session of its own: the default one keeps the credentials of its first use for the life of the process.
        found = boto3.Session().client("s3", endpoint_url=endpoint, region_name=region, config=limits)
        opened = _opened(found, address)
    except (BotoCoreError, ClientError, ValueError) as error:
        _check_reached(address, error)
        log.debug("Open uploads of %s were not looked for: %s", address, first_line(error))
        return 0
    number = 0
    for upload in opened:
        try:
            found.abort_multipart_upload(**upload)
            number += 1
        except (BotoCoreError, ClientError) as error:  # such as: another process has just done it
            _check_reached(address, error)
            log.debug("An open upload of %s was not aborted: %s", address, first_line(error))
    return number


def _check_reached(address: Address, error: Exception) -> None:
    """Raise RemoteError if the store did not answer, or answered that it cannot at present."""
    from botocore.exceptions import ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as NoConnection

    status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0) if isinstance(error, ClientError) else 0
    if status >= 500 or isinstance(error, (NoConnection, HTTPClientError)):
        raise RemoteError(f"{address} cannot be reached: {first_line(error)}") from error


def _remove_staged(address: Address) -> int:
    """Remove what the client has begun to write into a directory: its names have a number at the end, as in `a.ckpt#1`.

    Folders of shards that are empty now go as well.
    """
    folder, number = Path("/", address.prefix), 0
    for path in sorted(folder.rglob("*"), reverse=True):
        name, mark, digits = path.relative_to(folder).as_posix().rpartition("#")
        try:
            if mark and digits.isdecimal() and layout.is_of_mirror(name) and path.is_file():
                path.unlink()
                number += 1
            elif path.is_dir() and layout.parse(path.relative_to(folder).as_posix()) is not None:
                path.rmdir()
        except OSError:  # it is not empty, or not ours to remove
            pass
    return number


def _opened(client: Any, address: Address) -> list[dict[str, str]]:
    """Return the arguments that name each open upload of a mirror."""
    skipped, found = len(address.key("")), []
    pages = client.get_paginator("list_multipart_uploads")
    for page in pages.paginate(Bucket=address.bucket, Prefix=address.key(layout.CHECKPOINTS)):
        for upload in page.get("Uploads", ()):
            if layout.is_of_mirror(upload["Key"][skipped:]):
                found.append({"Bucket": address.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]})
    return found
