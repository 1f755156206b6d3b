"""Each kind of answer of a store becomes one sentence, without what may hold a token."""

import pytest

from cairn.remote import address, trouble

S3, AZ, DISK = map(address.parse, ["s3://bucket/run", "az://container/run", "file:///disk/run"])


def answered(status, code="", verb="GET"):
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>text sig=hunter2</Message></Error>' if code else ""
    return Exception(
        f"Generic S3 error: Error performing {verb} http://127.0.0.1/bucket/x?sig=hunter2 in 1ms - Server returned "
        f"non-2xx status code: {status} Reason: {body}\n\nDebug source:\nGeneric {{ store: hunter2 }}"
    )


def deleted(code):
    return Exception(
        f"Generic S3 error: DeleteObjects request failed for key a/b: Hunter2. (code: {code})\n\nDebug: code"
    )


def sent(kind):
    return Exception(
        f"Error performing GET http://h/b?sig=hunter2 - HTTP error: error sending\n HttpError {{ kind: {kind},"
    )


@pytest.mark.parametrize(
    ("error", "where", "kind", "words"),
    [
        (answered(404, "NoSuchBucket"), S3, "no_bucket", "bucket of s3://bucket/run does not exist"),
        (FileNotFoundError(str(answered(404, "NoSuchBucket"))), S3, "no_bucket", "create it"),
        (answered(404, "ContainerNotFound"), AZ, "no_bucket", "container of az://container/run"),
        (FileNotFoundError("Object at location x not found"), S3, "missing", "does not exist"),
        (answered(403, "AccessDenied"), S3, "refused", "refuses access (403 AccessDenied)"),
        (answered(403, "SignatureDoesNotMatch"), S3, "refused", "check the credentials"),
        (deleted("AccessDenied"), S3, "refused", "refuses access (403 AccessDenied)"),
        (deleted("SlowDown"), S3, "unavailable", "(503 SlowDown): try again later"),
        (deleted("Odd"), S3, "unavailable", "the request failed"),
        (answered(401), S3, "refused", "refuses access (401)"),
        (answered(400, "ExpiredToken"), S3, "refused", "have expired (400 ExpiredToken): renew them"),
        (answered(403, "RequestTimeTooSkewed"), S3, "refused", "clock of this machine is wrong"),
        (answered(503, "SlowDown"), S3, "unavailable", "(503 SlowDown): try again later"),
        (answered(500, "InternalError"), S3, "unavailable", "500"),
        (answered(429), S3, "unavailable", "429"),
        (answered(409, "ConditionalRequestConflict"), S3, "unavailable", "try again later"),
        (answered(501, "NotImplemented"), S3, "misused", "does not support a request that a mirror needs"),
        (answered(403, "QuotaExceeded"), S3, "full", "no space left (403 QuotaExceeded)"),
        (answered(507), S3, "full", "no space left"),
        (answered(301, "PermanentRedirect"), S3, "misused", "AWS_REGION"),
        (answered(400, "InvalidBucketName"), S3, "misused", "check the name of the bucket"),
        (answered(400), S3, "misused", "refuses a request"),
        (sent("Connect"), S3, "unavailable", "no connection"),
        (sent("Timeout"), S3, "unavailable", "no answer in time"),
        (sent("Decode"), AZ, "unavailable", "the request failed): check the network."),
        (Exception("Error performing PUT http://169.254.169.254/latest/api/token - status code: 403 F"), S3, "refused",
         "There are no credentials for s3://bucket/run: set AWS_ACCESS_KEY_ID"),
        (Exception("lacked valid authentication credentials for path External AWS credential provider: hunter2\n"), S3,
         "refused", "cannot be renewed: log in again"),
        (Exception("Azure error: Account must be specified"), AZ, "refused", "AZURE_STORAGE_ACCOUNT_NAME"),
        (Exception("HTTP error: builder error"), S3, "misused", "not a valid URL"),
        (ValueError("Could not parse path"), S3, "misused", "a name in it"),
        (Exception("No space left on device (os error 28)"), DISK, "full", "no space left"),
        (Exception("Unable to create dir (os error 13)"), DISK, "refused", "Permission denied"),
        (Exception("Input/output error (os error 5)"), DISK, "unavailable", "Input/output error"),
    ],
)  # fmt: skip
def test_each_answer_has_a_kind_and_a_sentence(error, where, kind, words):
    found = trouble.explain(error, where)
    assert found.kind == kind
    assert words in str(found)
    assert "hunter2" not in str(found)
    assert "\n" not in str(found)
    assert str(found).endswith(".")
