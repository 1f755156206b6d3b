"""Addresses are read literally, joined, and refused if they are none or hold credentials."""

import pytest

from cairn.errors import ConfigError
from cairn.remote import address
from cairn.remote.address import Address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a/b", Address("s3", "bucket", "a/b")),
        ("s3://bucket", Address("s3", "bucket")),
        ("s3://bucket/", Address("s3", "bucket")),
        ("gs://bucket//a///b/", Address("gs", "bucket", "a/b")),
        ("az://container/x=1,y=0.5/é %20#", Address("az", "container", "x=1,y=0.5/é %20#")),
        ("file:///disk/mirror", Address("file", "", "disk/mirror")),
        ("file:///", Address("file", "")),
        ("memory://here/run", Address("memory", "here", "run")),
    ],
)
def test_an_address_is_read_and_written_again(text, expected):
    found = address.parse(text)
    assert found == expected
    assert address.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("runs/a", "has no scheme"),
        ("ftp://host/a", "begins with ftp://"),
        ("S3://bucket", "begins with S3://"),
        ("s3://", "does not name a bucket"),
        ("s3:///a", "does not name a bucket"),
        ("file://disk/a", "three slashes"),
        ("s3://bucket/../other", "one of its parts is '..'. Remove it"),
        ("s3://bucket/./other", "one of its parts is '.'. Remove it"),
        ("s3://bucket/a\nb", "control character"),
        ("s3://bucket/a\\b", "backslash"),
    ],
)
def test_another_text_is_refused_in_one_sentence(text, words):
    with pytest.raises(ConfigError) as caught:
        address.parse(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:hunter2@bucket/a",
        "s3://hunter2@bucket/a",
        "az://container/a?sig=hunter2",
        "s3://bucket?X-Amz-Signature=hunter2",
        "https://user:hunter2@host/a",
        "file://user:hunter2@host/a",
    ],
)
def test_credentials_are_refused_and_not_repeated(text):
    with pytest.raises(ConfigError) as caught:
        address.parse(text)
    assert "hunter2" not in str(caught.value)


def test_the_sentence_names_the_variables_to_use():
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"):
        address.parse("s3://a:b@bucket/x")


def test_parts_and_names():
    found = address.parse("s3://bucket/prefix").joined("task/runs/2026-01-01")
    assert str(found) == "s3://bucket/prefix/task/runs/2026-01-01"
    assert found.name == "2026-01-01"
    assert str(found.parent) == "s3://bucket/prefix/task/runs"
    assert found.key("owner.json") == "prefix/task/runs/2026-01-01/owner.json"
    assert address.parse("s3://bucket").key("owner.json") == "owner.json"
    # The name of a job whose overrides hold a colon. SeaweedFS and Azure list a backslash as a slash.
    assert (
        str(address.parse("s3://bucket").joined("multiruns/mirror=s3\\:__a")) == "s3://bucket/multiruns/mirror=s3:__a"
    )
    with pytest.raises(ConfigError):
        found.joined("../other")
    with pytest.raises(ConfigError, match="files=a\\?b cannot be part of an address: it contains a question mark"):
        found.joined("multiruns/files=a?b")


@pytest.mark.parametrize(
    ("text", "is_one"), [("s3://b", True), ("x://", True), ("a/b", False), (None, False), (3, False)]
)
def test_an_address_differs_from_a_path(text, is_one):
    assert address.is_address(text) is is_one


def test_a_mirror_lies_outside_of_what_it_is_a_copy_of(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for text in ("s3://run", f"file://{tmp_path}", f"file://{tmp_path}/run2", f"file://{tmp_path}/other/run"):
        address.check_apart(address.parse(text), tmp_path / "run", None)
    for text in (f"file://{tmp_path}/run", f"file://{tmp_path}/run/checkpoints/a", f"file://{tmp_path}/link"):
        with pytest.raises(ConfigError, match=r"lies in .*/run, which it would be a copy of"):
            address.check_apart(address.parse(text), None, tmp_path / "run")
