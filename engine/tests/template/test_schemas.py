"""The schemas of the template: up to date, valid, true to every YAML file, and found by editors."""

import copy
import json
import os
import shutil
import subprocess
import sys

import jsonschema
import pytest
from referencing import Registry, Resource
from tests.support.paths import ROOT

from cairn.hydra import check, schemas
from cairn.hydra.schema import files, groups, store

CONFIGS, FOLDER = ROOT / "configs", ROOT / store.FOLDER
FILES = files.below(CONFIGS)
IDS = [file.path.relative_to(CONFIGS).as_posix() for file in FILES]


@pytest.fixture(scope="module")
def made():
    return {name: json.loads(text) for name, text in store.texts(CONFIGS).items()}


@pytest.fixture(scope="module")
def validators(made):
    registry = Registry().with_resources((name, Resource.from_contents(schema)) for name, schema in made.items())
    return {name: jsonschema.Draft7Validator(schema, registry=registry) for name, schema in made.items()}


def errors(validators, file, values):
    return [error.message for error in validators[groups.schema_name(file)].iter_errors(values)]


def test_the_stored_schemas_are_up_to_date():
    assert store.stale(CONFIGS, FOLDER) == [], "make schema"


def test_they_are_schemas(made):
    for schema in made.values():
        jsonschema.Draft7Validator.check_schema(schema)


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_each_file_is_valid_and_names_its_schema(validators, file):
    assert errors(validators, file, file.values()) == []
    assert store.with_line(file, FOLDER) == file.text
    (line,) = [line for line in file.text.splitlines() if line.startswith("# yaml-language-server: ")]
    named = (file.path.parent / line.partition("$schema=")[2]).resolve()
    assert named == (FOLDER / groups.schema_name(file)).resolve()
    assert file.is_global == (groups.schema_name(file) == groups.WHOLE)


CHANGES = [
    ("data/digits.yaml", {"batch_sise": 3}),
    ("data/digits.yaml", {"batch_size": "many"}),
    ("model/cnn.yaml", {"net": {"_target_": None, "droput": 0.5}}),
    ("model/cnn.yaml", {"optimizer": {"_target_": None, "lr": "high"}}),
    ("trainer/default.yaml", {"max_epoch": 3}),
    ("trainer/default.yaml", {"elastic": "all"}),
    ("trainer/fsdp.yaml", {"strategy": {"_target_": None, "block": "auto"}}),
    ("checkpoint/interval.yaml", {"save_intervall": 5}),
    ("checkpoint/interval.yaml", {"save_interval": "often"}),
    ("checkpoint/interval.yaml", {"keep": {"last": {"_target_": "cairn.Latest", "cuont": 1}}}),
    ("logger/csv.yaml", {"csv": {"_target_": None, "folder": "x"}}),
    ("callbacks/early_stopping.yaml", {"early_stopping": {"_target_": None, "patiense": 5}}),
    ("experiment/gpt.yaml", {"trainer": {"max_stepps": 5}}),
    ("experiment/gpt.yaml", {"taskname": "x"}),
    ("train.yaml", {"seed": -1}),
    ("train.yaml", {"predict": "often"}),
    ("train.yaml", {"pause_at": "3epp"}),
    ("hydra/launcher/slurm.yaml", {"timeout": 60}),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=str)
def test_a_wrong_key_or_value_is_marked(validators, name, change):
    (file,) = [file for file in FILES if file.path == CONFIGS / name]
    values = copy.deepcopy(file.values())
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            values[key].update({name: item for name, item in value.items() if item is not None})
        else:
            values[key] = value
    assert errors(validators, file, values)


def test_keys_have_types_defaults_and_descriptions(made):
    checkpoint = made["checkpoint.json"]["properties"]
    assert checkpoint["keep_last"]["description"].startswith("number of newest checkpoints to keep")
    assert checkpoint["buffers"]["default"] == 2
    cases = made["data.json"]["definitions"]["node"]["allOf"]
    (digits,) = [case["then"] for case in cases if str(case["if"]).find(".Digits") > 0]
    assert digits["properties"]["augment"] == {
        **{"description": "Shift each training image at random.", "default": False},
        "anyOf": [
            *({"type": "boolean"}, {"type": "null"}),
            *({"$ref": "#/definitions/interpolation"}, {"$ref": "#/definitions/node"}),
        ],
    }
    assert "num_workers" in digits["properties"]
    assert digits["additionalProperties"] is False
    trainer = made["trainer.json"]["properties"]
    assert trainer["max_epochs"]["description"].startswith("-1: no limit")


def test_the_command_writes_adds_lines_and_knows_what_is_stale(tmp_path, capsys):
    shutil.copytree(CONFIGS, tmp_path / "configs")
    own = tmp_path / "configs" / "model" / "own.yaml"
    own.write_text("_target_: torch.nn.Linear\nin_features: 1\n")
    world = tmp_path / "configs" / "experiment" / "own.yaml"
    world.write_text("# @package _global_\ntask_name: own\n")
    assert schemas.main(tmp_path, "configs", ["--schema"]) == 0
    assert "Added the line for editors to configs/model/own.yaml." in capsys.readouterr().out
    assert own.read_text().splitlines()[0] == "# yaml-language-server: $schema=../../.schema/model.json"
    assert world.read_text().splitlines()[:2] == [
        "# @package _global_",
        "# yaml-language-server: $schema=../../.schema/train.json",
    ]
    assert "torch.nn.Linear" in (tmp_path / ".schema" / "model.json").read_text()
    assert schemas.main(tmp_path, "configs", ["--schema", "--check"]) == 0
    own.write_text(own.read_text().replace("Linear", "Bilinear"))
    (tmp_path / ".schema" / "left.json").write_text("{}")
    assert schemas.main(tmp_path, "configs", ["--schema", "--check"]) == 1
    assert "Not up to date in .schema/: left.json, model.json. Write them: cairn schema" in capsys.readouterr().err
    assert schemas.main(tmp_path, "configs", ["--schema"]) == 0
    assert not (tmp_path / ".schema" / "left.json").exists()
    assert schemas.main(tmp_path, "configs", ["--schema"]) == 0
    assert "nothing, all are up to date" in capsys.readouterr().out


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copytree(CONFIGS, tmp_path / "configs")
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    return tmp_path


def checked(project, capsys, *argv):
    code = check.main(project, "configs", "train", ["--check", *argv])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_good_configurations_are_valid(project, capsys):
    sweep = ["-m", "model=cnn,mlp", "data=glob(*)", "seed=range(1,3)", "model.optimizer.lr=tag(log,interval(1e-4,1))"]
    for argv in ([], ["experiment=gpt"], sweep):
        code, text = checked(project, capsys, *argv)
        assert (code, "is valid" in text) == (0, True), text


def test_each_wrong_override_is_named_with_the_nearest(project, capsys):
    wrong = ["model.optimizer.lrr=1", "data=digit", "seed=-1", "lr=3", "save_steps=5", "model.net.channels=[1,2"]
    code, text = checked(project, capsys, *wrong, "trainer.max_epochs=2", "+checkpoint.keep_lst=1")
    assert code == 1
    assert "Did you mean model.optimizer.lr=1? (model.optimizer.lrr=1)" in text
    assert "Did you mean data=digits? (data=digit)" in text
    assert "save_steps is a key of another framework" in text
    assert "(model.net.channels=[1,2)" in text
    assert "Did you mean checkpoint.keep_last? (+checkpoint.keep_lst=1)" in text
    assert "seed=-1 must be an integer" in text
    assert "7 errors in the configuration." in text


def test_a_wrong_key_in_a_file_is_named_with_its_line(project, capsys):
    text = (CONFIGS / "model" / "cnn.yaml").read_text()
    (project / "configs" / "model" / "mine.yaml").write_text(text.replace("  dropout:", "  droput:"))
    line = next(number for number, item in enumerate(text.splitlines(), 1) if item.startswith("  dropout:"))
    code, text = checked(project, capsys, "model=mine", "--json")
    (problem,) = json.loads(text)["problems"]
    assert code == 1
    assert problem["message"] == "model.net.droput: CNN has no argument droput. Did you mean model.net.dropout?"
    assert problem["where"] == f"configs/model/mine.yaml, line {line}"


def test_a_sweep_is_checked_with_each_of_its_values(project, capsys):
    code, text = checked(project, capsys, "-m", "checkpoint.save_interval=50,often,auto")
    assert (code, text.count("Error:")) == (1, 1)
    assert "checkpoint.save_interval='often' is not an interval" in text
    assert "(checkpoint.save_interval=often)" in text


def test_the_place_is_that_of_the_file_that_is_used(project, capsys):
    for name in ("cnn", "mlp"):
        file = project / "configs" / "model" / f"{name}.yaml"
        file.write_text(file.read_text().replace("num_classes: 10", "num_classes: 10\nnum_clases: 10"))
    base = project / "configs" / "trainer" / "default.yaml"
    base.write_text(base.read_text() + "max_epoch: 3\n")
    code, text = checked(project, capsys, "trainer=cpu")
    assert (code, text.count("Error:")) == (1, 2)
    assert "(configs/model/cnn.yaml, line 5)" in text
    assert f"(configs/trainer/default.yaml, line {len(base.read_text().splitlines())})" in text


def test_keys_of_a_start_are_checked(project, capsys):
    code, text = checked(project, capsys, "pause_at=3epp", "eval=a=b,c.ckpt")
    assert (code, text.count("Error:")) == (1, 1)
    assert "pause_at='3epp' is not a point of a run" in text
    assert "(pause_at=3epp)" in text
    code, text = checked(project, capsys, "pause_at=3ep", "checkpoint=none")
    assert "pause_at=3ep needs checkpoints" in text
    code, text = checked(project, capsys, "+pauseat=3ep", "+predct=true")
    assert "Did you mean pause_at?" in text
    assert "Did you mean predict?" in text


def test_a_configuration_from_before_has_the_keys_of_the_library(project, capsys):
    file = project / "configs" / "train.yaml"
    new = ("predict:", "eval:", "pause_at:")
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(new)))
    code, text = checked(project, capsys, "predict=true", "eval=null", "pause_at=3ep")
    assert (code, "is valid" in text) == (0, True), text


def test_a_long_sweep_is_checked_in_part_and_says_so(project, capsys, monkeypatch):
    monkeypatch.setattr(check, "_MOST", 2)
    code, text = checked(project, capsys, "-m", "seed=range(0,5)")
    assert (code, "Checked were the first 2 of 5 values of this sweep." in text) == (0, True)


@pytest.mark.slow
def test_the_commands_need_no_torch_and_have_an_exit_code(tmp_path):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['train.py', '--check', *sys.argv[1:]]\n"
        "try:\n    runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as leave:\n    print('torch' in sys.modules, leave.code)\n"
    )
    for argv, expected in (([], "False 0"), (["seed=x"], "False 1")):
        done = subprocess.run(
            [sys.executable, "-c", code, *argv], cwd=ROOT, env={**os.environ}, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1] == expected, done.stdout + done.stderr
