"""What Hydra's configuration says about MLflow and Trackio: credentials, packages, and what comes from the run."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.command import checks
from cairn.hydra.parse import tracker_settings
from cairn.lightning.logs.csv_logger import CSVLogger
from cairn.mlflow import target as mlflow
from cairn.mlflow.logger import MLFlowLogger
from cairn.trackers.settings import ArtifactSettings
from cairn.trackio import target as trackio
from cairn.trackio.logger import TrackioLogger

SECRET = "https://me:geheim@host"


def nodes(**loggers):
    return OmegaConf.create(loggers)


@pytest.mark.parametrize(
    ("node", "key"),
    [
        ({"_target_": "cairn.mlflow.MLFlowLogger", "tracking_uri": SECRET}, "logger.mine.tracking_uri"),
        ({"_target_": "lightning.pytorch.loggers.MLFlowLogger", "tracking_uri": SECRET}, "logger.mine.tracking_uri"),
        ({"_target_": "cairn.trackio.TrackioLogger", "server_url": "https://h/?write_token=geheim"}, "server_url"),
    ],
)
def test_credentials_of_any_logger_are_refused_before_hydra_writes_anything(node, key, capsys):
    with pytest.raises(ConfigError, match=f"{key} holds a password or a token") as caught:
        tracker_settings.check_addresses(nodes(mine=node))
    assert "geheim" not in str(caught.value)
    with pytest.raises(SystemExit):
        checks.no_secrets(OmegaConf.create({"logger": {"mine": node}}))
    shown = capsys.readouterr().err
    assert "holds a password or a token" in shown
    assert "geheim" not in shown


@pytest.mark.parametrize("config", [{}, {"logger": None}, {"logger": {"csv": None, "x": {"save_dir": "${nowhere}"}}}])
def test_a_configuration_without_addresses_passes(config):
    checks.no_secrets(OmegaConf.create(config))


@pytest.mark.parametrize("name", ["mlflow.MLFlowLogger", "trackio.TrackioLogger"])
def test_a_missing_package_is_one_sentence_that_names_the_logger(name, monkeypatch):
    for module in (mlflow, trackio):
        monkeypatch.setattr(module, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=r"^logger\.mine: (MLflow|Trackio) .*: pip install '"):
        tracker_settings.check_installed(nodes(mine={"_target_": f"cairn.{name}"}, csv={"_target_": "cairn.CSVLogger"}))


def test_id_and_name_come_from_the_run_unless_they_are_set():
    run = Path("logs/train/runs/long")
    arguments = tracker_settings.logger_arguments(nodes(group=None), TrackioLogger, run, "abc")
    assert arguments == {"id": "abc", "name": "long", "group": None}
    arguments = tracker_settings.logger_arguments(nodes(id="mine", name="x"), MLFlowLogger, run, "abc")
    assert arguments == {"id": "mine", "name": "x"}
    assert tracker_settings.logger_arguments(nodes(), CSVLogger, run, "abc") == {}
    assert tracker_settings.logger_arguments(nodes(), lambda: None, run, "abc") == {}


def test_two_loggers_with_the_same_journal_are_refused(tmp_path):
    one, other = SimpleNamespace(folder=tmp_path / "mlflow"), SimpleNamespace(folder=tmp_path / "trackio")
    tracker_settings.check_distinct({"a": one, "b": other, "csv": object()})
    with pytest.raises(ConfigError, match=r"^logger\.a and logger\.c would write to the same files in "):
        tracker_settings.check_distinct({"a": one, "b": other, "c": SimpleNamespace(folder=tmp_path / "mlflow")})


class Logger(MLFlowLogger):
    def __init__(self):
        self.asked = []

    def listener(self, settings, run, facts):
        self.asked.append((settings, run, facts))
        return SimpleNamespace()


@pytest.mark.parametrize(
    ("train", "which", "expected"), [(True, "best", 1), (True, "none", 0), (False, "all", 0), (True, None, 0)]
)
def test_checkpoints_are_uploaded_as_the_configuration_says(train, which, expected, tmp_path):
    artifacts = (
        None if which is None else {"which": which, "every": 1, "deleted": "keep", "queue": None, "wait": "1min"}
    )
    cfg = OmegaConf.create({"train": train, "checkpoint": {"triggers": {"end": {}}, "artifacts": artifacts}})
    logger = Logger()
    found = tracker_settings.listeners(cfg, [logger, object()], tmp_path, {"git_commit": "a", "host": "b"})
    assert len(found) == len(logger.asked) == expected
    if expected:
        assert logger.asked == [(ArtifactSettings("best", 1, "keep", None, 60.0), tmp_path, {"git_commit": "a"})]
