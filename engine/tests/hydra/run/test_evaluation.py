"""`eval=CHECKPOINT` takes the model, the seed and, unless others are chosen, the data of the checkpoint."""

import json

import pytest
import torch
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from tests.support.exported import Net, Pairs, committed, spec

from cairn.errors import ConfigError, MissingFileError, ResumeError
from cairn.hydra.compose import trusted
from cairn.hydra.run import evaluation
from cairn.hydra.run.outcome import Outcome
from cairn.run.directory import RunDirectory
from cairn.store.resume import ResumePoint

STORED = {"seed": 7, "trainer": {"precision": "64-true", "max_epochs": 9}}


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Return the configuration of a command, whose own model and data differ from those of the checkpoint."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.yaml").write_text("a: 1")
    hydra = OmegaConf.create({"job": {"config_name": "train"}})
    monkeypatch.setattr(trusted.HydraConfig, "get", lambda: hydra)
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))

    def run(named, *overrides, deleted=None, **values):
        base = {"task_name": "toy", "seed": 0, "train": True, "test": True, "ckpt_path": None, "init_weights": None}
        data = {"_target_": "tests.support.exported.Pairs", "rows": "${seed}", "kind": "dict"}
        model = {"_target_": "tests.support.exported.TakesDict", "width": 99}
        cfg = {**base, "data": data, "model": model, "trainer": {"precision": "32-true", "max_epochs": 1}}
        cfg = OmegaConf.create({**cfg, "paths": {"log_dir": str(tmp_path)}, "eval": str(named), **values})
        if deleted:
            cfg.data.pop(deleted.rpartition(".")[2])
        OmegaConf.set_struct(cfg, True)
        directory = RunDirectory(tmp_path / "own")
        with initialize_config_dir(str(tmp_path / "configs"), version_base="1.3"):
            return OmegaConf.to_container(evaluation.configured(cfg, directory, overrides), resolve=True)

    return run


def test_without_eval_nothing_changes(tmp_path):
    cfg = OmegaConf.create({"eval": None, "model": 1})
    assert evaluation.configured(cfg, RunDirectory(tmp_path), ()) is cfg


def test_model_seed_precision_and_data_are_those_of_the_checkpoint(tmp_path, configured):
    path = committed(tmp_path / "run", spec(Net, width=5), spec(Pairs, rows=4), config=STORED)
    found = configured(path)
    assert (found["model"], found["data"]) == (spec(Net, width=5), spec(Pairs, rows=4))
    assert (found["seed"], found["trainer"]) == (7, {"precision": "64-true", "max_epochs": 1})
    assert (found["train"], found["test"], found["ckpt_path"]) == (False, True, str(path))


@pytest.mark.parametrize("option", ["data=pairs", "experiment=other"])
def test_other_data_are_those_of_the_command_with_the_seed_of_the_run(tmp_path, configured, option):
    path = committed(tmp_path / "run", spec(Net), spec(Pairs, rows=4), config=STORED)
    assert configured(path, option)["data"] == {**spec(Pairs), "rows": 7, "kind": "dict"}
    assert configured(path, option, "seed=0")["data"]["rows"] == 0


def test_single_values_can_be_set(tmp_path, configured):
    path = committed(tmp_path / "run", spec(Net, width=5), spec(Pairs, rows=4), config=STORED)
    found = configured(path, "data.kind=dict", "model.width=99", "trainer.precision=32-true")
    assert (found["model"], found["data"]) == (spec(Net, width=99), spec(Pairs, rows=4, kind="dict"))
    assert found["trainer"]["precision"] == "32-true"
    assert configured(path, "~data.rows", deleted="data.rows")["data"] == spec(Pairs)


@pytest.mark.parametrize(
    ("overrides", "values", "why"),
    [
        (["ckpt_path=x"], {"ckpt_path": "x"}, "names the checkpoint to test: leave out ckpt_path="),
        (["resume=x"], {}, "leave out resume="),
        (["train=true"], {}, "trains nothing: leave out train=true"),
        (["test=false"], {"test": False}, "with test=false does nothing: set predict=true"),
        (["model=cnn"], {}, "takes the model of the checkpoint: leave out model="),
    ],
)
def test_what_contradicts_an_evaluation_is_refused(tmp_path, configured, overrides, values, why):
    path = committed(tmp_path / "run", spec(Net), spec(Pairs))
    with pytest.raises(ConfigError, match=why):
        configured(path, *overrides, **values)


def test_a_test_has_no_mirror(tmp_path, configured):
    path = committed(tmp_path / "run", spec(Net), spec(Pairs))
    assert configured(path, checkpoint={"mirror": "s3://bucket/x"})["checkpoint"] == {"mirror": None}


def test_what_a_checkpoint_lacks_is_named(tmp_path, configured):
    with pytest.raises(MissingFileError, match=r"There is no checkpoint .*gone\.ckpt"):
        configured(tmp_path / "gone.ckpt")
    with pytest.raises(ResumeError, match=r"eval=latest: there is no run of the task 'toy'"):
        configured("latest")
    path = committed(tmp_path / "run", spec(Net), None)
    with pytest.raises(ConfigError, match="does not say which data it was trained with: choose data=OPTION"):
        configured(path)
    assert configured(path, "data=pairs")["model"] == spec(Net)
    path = committed(tmp_path / "other", spec(Net), config={"model": None})
    with pytest.raises(ConfigError, match="does not hold the configuration of a model"):
        configured(path)


def test_a_directory_of_a_run_is_not_used(tmp_path, configured):
    RunDirectory(tmp_path / "own").start("toy", (), "a: 1")
    with pytest.raises(ConfigError, match="needs a directory of its own"):
        configured(committed(tmp_path / "run", spec(Net), spec(Pairs)))


def test_a_checkpoint_of_other_people_builds_and_writes_only_what_a_run_directory_may(tmp_path, configured):
    odd = "sklearn.linear_model.LogisticRegression"
    path = committed(tmp_path / "run", spec(Net), {"_target_": odd})
    with pytest.raises(ConfigError, match=rf"The configuration in .*\.ckpt names '{odd}' as _target_"):
        configured(path)
    path = committed(tmp_path / "two", spec(Net), spec(Pairs) | {"cache_dir": "/else/where"})
    with pytest.raises(ConfigError, match=r"would write outside of .*data\.cache_dir=/else/where"):
        configured(path)


def test_the_metrics_are_recorded_with_the_identity_of_the_checkpoint(tmp_path):
    path = committed(tmp_path / "run", spec(Net), spec(Pairs), score=0.5)
    config = OmegaConf.create(
        {"seed": 7, "eval": "named", "paths": {"root_dir": str(tmp_path)}, "data": {}, "model": {}}
    )
    directory = RunDirectory(tmp_path / "own")
    directory.path.mkdir()
    outcome = Outcome("tested", test={"test/loss": 0.25, "test/acc": float("nan")})
    evaluation.record(directory, config, ResumePoint(path), outcome)
    found = json.loads((directory.path / "evaluation.json").read_text())
    assert found["metrics"] == {"test/loss": 0.25, "test/acc": "nan"}
    described = found["checkpoint"]
    assert (described["named"], described["path"], described["run"]) == ("named", str(path), "0a1b2c3d")
    assert (described["monitor"], described["score"], described["position"]["batch"]) == ("val/loss", 0.5, 1)
    assert described["digest"].startswith("crc32-sha256:")
    torch.save(Net().state_dict(), tmp_path / "weights.pt")
    of_weights = OmegaConf.create({**config, "eval": None, "init_weights": str(tmp_path / "weights.pt")})
    evaluation.record(directory, of_weights, ResumePoint(None), outcome)
    described = json.loads((directory.path / "evaluation.json").read_text())["checkpoint"]
    assert (described["path"], described["run"]) == (str(tmp_path / "weights.pt"), "")
    (directory.path / "evaluation.json").unlink()
    directory.start("toy", (), "a: 1")
    evaluation.record(directory, config, ResumePoint(path), outcome)
    assert not (directory.path / "evaluation.json").exists(), "the directory of a run is not changed"
