"""A run for the commands to look at, in a directory of its own."""

import pytest
from tests.support.cli import stopped_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with four checkpoints, below logs/ of the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    return stopped_run(tmp_path / "logs" / "train" / "runs" / "one")
