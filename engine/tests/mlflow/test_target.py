"""Where MLflow keeps a run, and what is refused before anything is written."""

import copy
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from cairn.errors import ConfigError
from cairn.mlflow import target as targets
from cairn.mlflow.logger import MLFlowLogger, as_tags
from cairn.mlflow.target import target


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    packages = {"mlflow", "sqlalchemy", "alembic", "sqlparse", "cryptography"}
    monkeypatch.setattr(targets, "find_spec", lambda name: object() if name in packages else None)
    return packages


def test_the_configuration_comes_before_the_environment_and_both_before_the_file(tmp_path, monkeypatch):
    assert target(None, tmp_path).uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert target(None, tmp_path).database == tmp_path / "mlflow.db"
    assert target(None, tmp_path).artifacts == (tmp_path / "artifacts").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:geheim@host")
    found = target(None, tmp_path)
    assert (found.uri, found.database, found.artifacts) == ("https://me:geheim@host", None, None)
    assert "geheim" not in repr(found)
    assert target("https://other", tmp_path).uri == "https://other"


def test_a_relative_file_is_a_database(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert target("sqlite:///runs.db", Path("unused")).database == Path("runs.db")
    assert target("sqlite:///runs.db", Path("unused")).artifacts == (tmp_path / "artifacts").as_uri()
    assert target("sqlite://", Path("unused")).database is None


def test_asking_for_the_client_does_not_wait_for_mlflow(tmp_path, monkeypatch):
    logger = MLFlowLogger(tmp_path)
    waited = []
    monkeypatch.setattr(logger, "connected", lambda limit_s: waited.append(limit_s))
    client = logger.experiment  # as Lightning does when a fit begins
    copy.copy(client)
    assert waited == []
    assert client.log_text("run", "hello", "file.txt") is None, "MLflow was not reached"
    assert client.log_text("run", "hello", "file.txt") is None
    assert logger.run_id == ""
    assert waited == [30.0], "once: a server that is dead must not stop the training"
    logger.store.client = SimpleNamespace(log_text=lambda *arguments: arguments)
    assert client.log_text("run", "hello") == ("run", "hello")


def test_a_password_in_the_configuration_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(ConfigError, match="tracking_uri holds a password or a token") as caught:
        MLFlowLogger(tmp_path, tracking_uri="https://me:geheim@host")
    assert "geheim" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "uri", "named"),
    [
        ("mlflow", "https://host", "mlflow"),
        ("sqlalchemy", None, "sqlalchemy"),
        ("alembic", "postgresql+psycopg2://host/db", "alembic"),
        ("cryptography", None, "cryptography"),
        ("sqlalchemy", "https://host", None),
    ],
)
def test_a_missing_package_is_one_sentence(tmp_path, installed, missing, uri, named):
    installed.remove(missing)
    if named is None:
        assert target(uri, tmp_path).uri == uri
        return
    with pytest.raises(ConfigError, match=f"^MLflow needs {named}: pip install '") as caught:
        target(uri, tmp_path)
    assert "\n" not in str(caught.value)


def test_the_room_can_be_imported_without_the_package():
    assert importlib.util.find_spec("cairn.mlflow.logger") is not None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}),
        ("dev", {"dev": "true"}),
        (["dev", 3, "a@b"], {"dev": "true", "3": "true", "a_b": "true"}),
        ({"by": "me", "year": 2026}, {"by": "me", "year": "2026"}),
    ],
)
def test_any_tags_of_a_configuration_are_accepted(given, expected):
    assert as_tags(given) == expected
