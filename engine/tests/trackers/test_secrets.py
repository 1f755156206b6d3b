"""Credentials in addresses: which count as such, and that messages do not repeat them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.trackers.secrets import has_secret, hidden, keys_with_secrets

SECRETS = [
    "https://me:geheim@host/path",
    "https://geheim@host",
    "http://me:ge/he@im@host:5000",
    "postgresql://me:geheim@host/db",
    "postgresql+psycopg2://me:geheim@host/db",
    "mysql://host/db?user=me&password=geheim",
    "https://host:7860/?write_token=geheim",
    "https://host/?sig=1&X-Amz-Signature=geheim",
    "https://host.blob/x?sv=1&sig=geheim",
]
PLAIN = [
    "https://host:5000/path",
    "sqlite:////somewhere/mlflow.db",
    "postgresql://me@host/db",
    "file:///somewhere/with@sign",
    "somewhere/else",
    "databricks",
    "me@example.org",
    "https://host/?page=2",
]


@pytest.mark.parametrize("text", SECRETS)
def test_an_address_with_credentials_is_seen_and_hidden(text):
    assert has_secret(text)
    shown = hidden(f"API request to {text} failed")
    assert not any(part in shown for part in ("geheim", "ge/he", "im@"))
    assert "host" in shown
    assert shown.startswith("API request to ")
    assert shown.endswith(" failed")


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_have_none_and_stay_as_they_are(text):
    assert not has_secret(text)
    if "@" not in text:
        assert hidden(f"could not open {text} now") == f"could not open {text} now"


def test_the_keys_of_addresses_with_credentials_are_found():
    config = {"mlflow": {"tracking_uri": SECRETS[0], "tags": ["a", SECRETS[1]], "name": None}, "csv": {"save_dir": "x"}}
    assert list(keys_with_secrets(config, "logger")) == ["logger.mlflow.tracking_uri", "logger.mlflow.tags.1"]


@given(st.text(min_size=1).filter(lambda text: not set(text) & set(" \t\n\r\x0b\x0c@?") and text.isprintable()))
def test_any_password_is_hidden(password):
    password = f"<{password}>"
    address = f"https://me:{password}@host/api"
    assert has_secret(address)
    assert password not in hidden(f"{address} failed")
