"""Credentials that the client does not find itself are read again each time, so that renewed ones are used."""

import builtins

import pytest

from cairn.remote import credentials


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


@pytest.fixture
def without_boto3(monkeypatch):
    real = builtins.__import__

    def no_boto3(name, *arguments, **options):
        if name == "boto3":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", no_boto3)


def write(home, secret, profile="default"):
    text = f"[{profile}]\naws_access_key_id = key\naws_secret_access_key = {secret}\naws_session_token = token\n"
    (home / "credentials").write_text(text)


def renewed(home, monkeypatch):
    write(home, "old", "mine")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    provide = credentials.aws_provider()
    before = provide()
    write(home, "new", "mine")
    after = provide()
    assert (before["access_key_id"], before["secret_access_key"], before["token"]) == ("key", "old", "token")
    assert after["secret_access_key"] == "new"
    assert after["expires_at"] is not None


def test_a_renewed_file_is_read_again(home, monkeypatch, without_boto3):
    renewed(home, monkeypatch)


def test_a_renewed_file_is_read_again_by_boto3(home, monkeypatch):
    pytest.importorskip("boto3")
    renewed(home, monkeypatch)


def test_the_client_looks_at_the_environment_itself(home, monkeypatch):
    write(home, "secret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    assert credentials.aws_provider() is None


def test_without_a_file_the_client_asks_the_machine(home, without_boto3):
    assert credentials.aws_provider() is None
    (home / "credentials").write_text("not a file of keys")
    assert credentials.aws_provider() is None


def test_the_region_of_the_profile_counts_if_the_environment_names_none(home, monkeypatch):
    (home / "config").write_text("[default]\nregion = eu-west-1\n[profile mine]\nregion = eu-north-1\n")
    assert credentials.aws_region() == "eu-west-1"
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert credentials.aws_region() == "eu-north-1"
    monkeypatch.setenv("AWS_REGION", "us-east-2")
    assert credentials.aws_region() is None
